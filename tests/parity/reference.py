"""Makes one part of the full-size comparison that examples/parity/ runs (`cargo xtask parity`).

    reference.py text|vit-l|vit-h|vae|unet FOLDER
    reference.py adapter FOLDER MODEL ADAPTER     (reads FOLDER/request.json)
    reference.py files FOLDER                     (FOLDER/model, FOLDER/fp16, FOLDER/sharded, FOLDER/bin)
    reference.py files-single FOLDER              (reads FOLDER/single.safetensors, writes FOLDER/single.ckpt)

The first writes FOLDER/model (a published folder; for `unet` also FOLDER/ip_adapter.safetensors) of Stable
Diffusion 1.5's real sizes with random weights, up to 3.5 GB in f32. All write FOLDER/reference.safetensors: what
goes in, what came out as `output.<name>`, and the seconds that took, in its metadata as `forward_s`.
"""

import importlib.metadata
import json
import sys
import time
from pathlib import Path

REFERENCES = {"torch": "2.11.0", "diffusers": "0.42.1", "transformers": "5.23.0"}


def require_references() -> None:
    """Says what to install before an import fails in its own words."""
    found = {}
    for name in REFERENCES:
        try:
            found[name] = importlib.metadata.version(name).split("+")[0]
        except importlib.metadata.PackageNotFoundError:
            found[name] = "missing"
    if wrong := [f"{name} is {version}" for name, version in found.items() if version != REFERENCES[name]]:
        install = " ".join(f"{name}=={version}" for name, version in REFERENCES.items())
        sys.exit(
            f"error: {sys.executable} is not the reference Python ({', '.join(wrong)}): make one with `python3 -m "
            f"venv references && references/bin/pip install {install} accelerate peft pillow` and set "
            "IPA_PYTHON=references/bin/python"
        )


require_references()

import numpy as np  # noqa: E402
import torch  # noqa: E402
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel  # noqa: E402
from diffusers.utils import load_image  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from transformers import (  # noqa: E402
    CLIPImageProcessorPil,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

NUM_THREADS = torch.get_num_threads()
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "fixtures"))
from common import generator, randomise  # noqa: E402

torch.set_num_threads(NUM_THREADS)  # fixtures are made with one

BOS, EOS = 49406, 49407
EMBED_DIM, NUM_TOKENS, CONTEXT = 1024, 4, 768  # the published SD1.5 adapters'
ADAPTER_SCALE = 0.7

Tensors = dict[str, torch.Tensor]


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=generator(seed))


def save_model(model: torch.nn.Module, folder: Path) -> None:
    model.save_pretrained(folder / "model", max_shard_size="10GB")


def save_reference(folder: Path, inputs: Tensors, forward) -> None:
    """Runs `forward`, which gives outputs by name, and writes everything that the other side needs."""
    start = time.perf_counter()
    outputs = forward()
    seconds = time.perf_counter() - start
    tensors = inputs | {f"output.{name}": tensor for name, tensor in outputs.items()}
    tensors = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
    save_file(tensors, folder / "reference.safetensors", metadata={"forward_s": str(seconds)})


def text(folder: Path) -> None:
    """CLIP ViT-L/14's text tower: two prompts, of 10 words and of as many as fit."""
    config = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=768,
        intermediate_size=3072,
        projection_dim=768,
        num_hidden_layers=12,
        num_attention_heads=12,
        hidden_act="quick_gelu",
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=EOS,
    )
    tower = randomise(CLIPTextModel(config), 1)
    save_model(tower, folder)
    ids = torch.randint(BOS, (2, 77), generator=generator(2))
    ids[:, 0], ids[0, 11:], ids[1, 76] = BOS, EOS, EOS

    def forward() -> Tensors:
        output = tower(ids)
        return {"last_hidden_state": output.last_hidden_state, "pooled": output.pooler_output}

    save_reference(folder, {"input_ids": ids}, forward)


def vision(folder: Path, sizes: dict) -> None:
    tower = randomise(CLIPVisionModelWithProjection(CLIPVisionConfig(image_size=224, patch_size=14, **sizes)), 3)
    save_model(tower, folder)
    pixel_values = draw(4, 2, 3, 224, 224)

    def forward() -> Tensors:
        output = tower(pixel_values, output_hidden_states=True)
        return {"image_embeds": output.image_embeds, "penultimate": output.hidden_states[-2]}

    save_reference(folder, {"pixel_values": pixel_values}, forward)


def vit_l(folder: Path) -> None:
    """OpenAI's ViT-L/14."""
    sizes = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    vision(folder, sizes | {"hidden_act": "quick_gelu", "projection_dim": 768})


def vit_h(folder: Path) -> None:
    """OpenCLIP's ViT-H/14, the encoder of the published SD1.5 adapters."""
    sizes = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 16}
    vision(folder, sizes | {"hidden_act": "gelu", "projection_dim": EMBED_DIM})


def vae(folder: Path) -> None:
    """The autoencoder, both ways."""
    model = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        sample_size=512,
        scaling_factor=0.18215,
    )
    save_model(randomise(model, 5), folder)
    pixels, latents = draw(6, 1, 3, 256, 256).clamp(-1, 1), draw(7, 1, 4, 32, 32)

    def forward() -> Tensors:
        posterior = model.encode(pixels).latent_dist
        return {"mean": posterior.mean, "logvar": posterior.logvar, "decoded": model.decode(latents).sample}

    save_reference(folder, {"pixels": pixels, "latents": latents}, forward)


def random_adapter(unet: UNet2DConditionModel) -> dict[str, Tensors]:
    """The published layout: processors in registration order, of which every second is a cross-attention."""
    draws = generator(8)

    def normal(*shape: int, std: float, mean: float = 0.0) -> torch.Tensor:
        return mean + std * torch.randn(shape, generator=draws)

    projection = {
        "proj.weight": normal(NUM_TOKENS * CONTEXT, EMBED_DIM, std=EMBED_DIM**-0.5),
        "proj.bias": normal(NUM_TOKENS * CONTEXT, std=0.3),
        "norm.weight": normal(CONTEXT, std=0.2, mean=1.0),
        "norm.bias": normal(CONTEXT, std=0.2),
    }
    layers = {}
    for number, name in enumerate(unet.attn_processors):
        if name.endswith("attn2.processor"):
            width = unet.get_submodule(name.removesuffix(".processor")).inner_dim
            for part in ("to_k_ip", "to_v_ip"):
                layers[f"{number}.{part}.weight"] = normal(width, CONTEXT, std=CONTEXT**-0.5)
    return {"image_proj": projection, "ip_adapter": layers}


def unet(folder: Path) -> None:
    """One guided denoising call at 512 x 512 pixels with an image prompt."""
    model = UNet2DConditionModel(sample_size=64, cross_attention_dim=CONTEXT, attention_head_dim=8)
    save_model(randomise(model, 9), folder)
    adapter = random_adapter(model)
    flat = {f"{part}.{name}": tensor for part, tensors in adapter.items() for name, tensor in tensors.items()}
    save_file(flat, folder / "ip_adapter.safetensors")
    model._load_ip_adapter_weights([adapter])
    for name, processor in model.attn_processors.items():
        if name.endswith("attn2.processor"):
            processor.scale = [ADAPTER_SCALE]
    inputs = {
        "latents": draw(10, 2, 4, 64, 64),
        "timestep": torch.tensor(501),
        "context": draw(11, 2, 77, CONTEXT),
        "image_embeds": draw(12, 2, EMBED_DIM),
        "scale": torch.tensor(ADAPTER_SCALE, dtype=torch.float64),
    }

    def forward() -> Tensors:
        conditions = {"image_embeds": [inputs["image_embeds"][:, None, :]]}  # [batch, images, embed_dim]
        latents, timestep, context = inputs["latents"], inputs["timestep"], inputs["context"]
        return {"noise_pred": model(latents, timestep, context, added_cond_kwargs=conditions).sample}

    save_reference(folder, inputs, forward)


def adapter(folder: Path, model: Path, file: Path) -> None:
    """A picture drawn with an adapter file, by DDIM whatever the model's own sampler."""
    request = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    pipeline = StableDiffusionPipeline.from_pretrained(
        model,
        torch_dtype=torch.float32,
        scheduler=DDIMScheduler.from_pretrained(model, subfolder="scheduler"),
        feature_extractor=CLIPImageProcessorPil.from_pretrained(model / "feature_extractor"),
        safety_checker=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    pipeline.load_ip_adapter(str(file.parent), subfolder="", weight_name=file.name, image_encoder_folder=None)
    pipeline.set_ip_adapter_scale(request["scale"])

    def forward() -> Tensors:
        latents = pipeline(
            prompt=request["prompt"],
            negative_prompt=request["negative_prompt"],
            guidance_scale=request["guidance_scale"],
            num_inference_steps=request["num_steps"],
            generator=generator(request["seed"]),
            ip_adapter_image=load_image(request["images"][0]),
            output_type="latent",
        ).images
        # What the pipeline itself does for output_type="pil".
        decoded = pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor).sample
        picture = pipeline.image_processor.postprocess(decoded, output_type="pil")[0]
        return {"latents": latents, "picture": torch.from_numpy(np.array(picture))}  # [height, width, 3], bytes

    save_reference(folder, {}, forward)


def whole_model() -> StableDiffusionPipeline:
    """Stable Diffusion 1.5's sizes with random weights, as a pipeline with the tests' small tokenizer."""
    config = CLIPTextConfig(
        vocab_size=49408, hidden_size=768, intermediate_size=3072, projection_dim=768, num_hidden_layers=12,
        num_attention_heads=12, hidden_act="quick_gelu", bos_token_id=0, eos_token_id=2, pad_token_id=1,
    )
    tiny = Path(__file__).resolve().parent.parent / "fixtures/tiny_sd"
    vae_sizes = {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "sample_size": 512}
    vae_blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=CONTEXT, attention_head_dim=8)
    return StableDiffusionPipeline(
        vae=randomise(AutoencoderKL(**vae_sizes, **vae_blocks), 21),
        text_encoder=randomise(CLIPTextModel(config), 22),
        tokenizer=CLIPTokenizer.from_pretrained(tiny / "tokenizer"),
        unet=randomise(unet, 23),
        scheduler=DDIMScheduler.from_pretrained(tiny / "scheduler"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def files(folder: Path) -> None:
    """A whole model as folder, in parts, as pickles, in half precision."""
    pipeline = whole_model()

    def forward() -> Tensors:
        pipeline.save_pretrained(folder / "model", max_shard_size="10GB")
        pipeline.tokenizer.save_pretrained(folder / "tokenizer")  # beside the single files
        pipeline.save_pretrained(folder / "sharded", max_shard_size="1GB")
        pipeline.save_pretrained(folder / "bin", max_shard_size="10GB", safe_serialization=False)
        # transformers 5 writes no pickles any more; published text towers are.
        for file in (folder / "bin/text_encoder").glob("*.safetensors"):
            torch.save(load_file(file), file.with_name("pytorch_model.bin"))
            file.unlink()
        return {}

    save_reference(folder, {}, forward)
    pipeline.to(torch.float16).save_pretrained(folder / "fp16", variant="fp16", max_shard_size="10GB")


def files_single(folder: Path) -> None:
    """A single file that was written elsewhere: what diffusers reads of it, and the same as a checkpoint of training."""
    single = folder / "single.safetensors"

    def forward() -> Tensors:
        torch.save({"state_dict": load_file(single), "global_step": 840000}, folder / "single.ckpt")
        read = StableDiffusionPipeline.from_single_file(str(single), config=str(folder / "model"), local_files_only=True)
        own = StableDiffusionPipeline.from_pretrained(folder / "model")
        error = torch.zeros([])
        for part in ("unet", "vae", "text_encoder"):
            found, expected = getattr(read, part).state_dict(), getattr(own, part).state_dict()
            assert found.keys() == expected.keys(), f"diffusers finds other tensors in the {part}"
            for name, tensor in expected.items():
                error = torch.maximum(error, (found[name].float() - tensor.float()).abs().max())
        return {"single_error": error}

    save_reference(folder, {}, forward)


@torch.no_grad()
def main() -> None:
    part, *paths = sys.argv[1:]
    parts = {"text": text, "vit-l": vit_l, "vit-h": vit_h, "vae": vae, "unet": unet, "adapter": adapter}
    parts |= {"files": files, "files-single": files_single}
    parts[part](*map(Path, paths))


if __name__ == "__main__":
    main()
