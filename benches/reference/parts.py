"""The VAE, the towers of CLIP, and loading a UNet."""

import tempfile
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel

from reference.measure import memory_before, memory_since, timed, timed_by_turns
from reference.models import TEXT_TOKENS, VOCABULARY, random_tower, random_unet, random_vae


def vae_decode(args, device, dtype):
    vae = random_vae(device, dtype)
    side = args.size // 8
    latents = torch.randn(args.batch, 4, side, side, device=device, dtype=dtype)

    def call():
        with torch.no_grad():
            vae.decode(latents)

    before = memory_before(device)
    return timed(call, args.runs, device) | memory_since(device, before)


def clip(args, device, dtype):
    model = random_tower(args.tower, device, dtype)
    if args.tower == "text":
        seen = torch.randint(0, VOCABULARY, (args.batch, TEXT_TOKENS), device=device)
    else:
        seen = torch.randn(args.batch, 3, 224, 224, device=device, dtype=dtype)

    def call():
        with torch.no_grad():
            model(seen)

    before = memory_before(device)
    return timed(call, args.runs, device) | memory_since(device, before) | {"tower": args.tower}


def load(args, device, dtype):
    """Beside a plain read of the same file into memory that is used again, by turns."""
    with tempfile.TemporaryDirectory() as folder:
        random_unet(args.config, torch.device("cpu"), dtype).save_pretrained(folder)
        file = Path(folder) / "diffusion_pytorch_model.safetensors"
        buffer = bytearray(file.stat().st_size)

        def read():
            with open(file, "rb", buffering=0) as opened:
                view = memoryview(buffer)
                while view and (got := opened.readinto(view)):
                    view = view[got:]

        def load():
            UNet2DConditionModel.from_pretrained(folder, torch_dtype=dtype).to(device)

        read, load = timed_by_turns([read, load], args.runs, device)
    return load | {"bytes": len(buffer), "read": read, "ratio": load["median_s"] / read["median_s"]}
