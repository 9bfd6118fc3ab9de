#!/usr/bin/env python3
"""The calls that `ipa bench` times, in diffusers: to compare on the same machine.

Needs torch 2.11 and diffusers 0.42.1. Random weights of the published sizes, a classic IP-Adapter of four tokens, cached
latents, captions and embeddings. Prints one JSON object with the keys of `ipa bench`.

    python3 benches/diffusers_reference.py --what unet --batch 2 --runs 3
    python3 benches/diffusers_reference.py --what train-step --batch 1 --gradient-checkpointing
"""

import argparse
import json
import resource
import statistics
import time

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor2_0, IPAdapterAttnProcessor2_0

GIB = 1 << 30
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
TEXT_TOKENS = 77
NUM_TOKENS = 4
EMBED_DIM = 1024
SIZES = {
    "sd15": {"cross_attention_dim": 768, "attention_head_dim": 8},
    "sd21": {"cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20], "use_linear_projection": True},
}


def random_unet(config, device, dtype):
    """Drawn fast: the layers' own initialisation of 860 million numbers takes longer than all that is measured."""
    torch.set_default_dtype(dtype)
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=64,
            block_out_channels=(320, 640, 1280, 1280),
            layers_per_block=2,
            down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
            up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
            **SIZES[config],
        )
    torch.set_default_dtype(torch.float32)
    unet = unet.to_empty(device=device)
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            if parameter.dim() == 1:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
            else:
                bound = parameter[0].numel() ** -0.5
                parameter.uniform_(-bound, bound)
    return unet.requires_grad_(False)


def set_processors(unet, device, dtype):
    """Processors of a classic adapter at every cross-attention layer, beginning with the layer's own K and V."""
    processors = {}
    for name in unet.attn_processors:
        attention = unet.get_submodule(name.removesuffix(".processor"))
        if name.endswith("attn1.processor"):
            processors[name] = AttnProcessor2_0()
            continue
        width, context = attention.to_k.weight.shape
        processor = IPAdapterAttnProcessor2_0(width, context, num_tokens=(NUM_TOKENS,), scale=1.0)
        processor.to_k_ip[0].weight = torch.nn.Parameter(attention.to_k.weight.detach().clone())
        processor.to_v_ip[0].weight = torch.nn.Parameter(attention.to_v.weight.detach().clone())
        processors[name] = processor.to(device, dtype)
    unet.set_attn_processor(processors)
    return torch.nn.ModuleList([p for p in processors.values() if isinstance(p, torch.nn.Module)])


class ImageProjection(torch.nn.Module):
    """The reference's ImageProjModel."""

    def __init__(self, width):
        super().__init__()
        self.width = width
        self.proj = torch.nn.Linear(EMBED_DIM, NUM_TOKENS * width)
        self.norm = torch.nn.LayerNorm(width)

    def forward(self, embeds):
        return self.norm(self.proj(embeds).reshape(-1, NUM_TOKENS, self.width))


class Context(torch.nn.Module):
    """The UNet as it is called with image tokens."""

    def __init__(self, unet):
        super().__init__()
        self.unet = unet

    def forward(self, latents, timesteps, text, tokens):
        # What the processors split: the text, then one tensor [batch, images, tokens, width] for each adapter.
        context = text if tokens is None else (text, [tokens.unsqueeze(1)])
        return self.unet(latents, timesteps, encoder_hidden_states=context).sample


def bench_unet(args, device, dtype):
    unet = random_unet(args.config, device, dtype)
    adapter = None if args.no_adapter else set_processors(unet, device, dtype)
    model = Context(unet)
    if args.compile:
        model = torch.compile(model)
    side, width = args.size // 8, unet.config.cross_attention_dim
    latents = torch.randn(args.batch, 4, side, side, device=device, dtype=dtype)
    text = torch.randn(args.batch, TEXT_TOKENS, width, device=device, dtype=dtype)
    tokens = torch.randn(args.batch, NUM_TOKENS, width, device=device, dtype=dtype) if adapter is not None else None

    def call():
        with torch.no_grad():
            model(latents, 500, text, tokens)

    return timed(call, args.runs, device) | {"image_tokens": 0 if adapter is None else NUM_TOKENS}


def bench_train_step(args, device, dtype):
    unet = random_unet(args.config, device, dtype)
    layers = set_processors(unet, device, torch.float32)
    width = unet.config.cross_attention_dim
    projection = ImageProjection(width).to(device)
    if args.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
        unet.train()
    parameters = [*projection.parameters(), *layers.parameters()]
    before = memory_before(device)
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=1e-2)
    model = Context(unet)
    if args.compile:
        model = torch.compile(model)
    acp = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, 0)
    side = args.size // 8
    mean = torch.randn(args.batch, 4, side, side) / 0.18215
    std = torch.rand(args.batch, 4, side, side) * 0.1
    text = torch.randn(args.batch, TEXT_TOKENS, width)
    embeds = torch.randn(args.batch, EMBED_DIM)
    # As trainers do it: the adapter in f32, the frozen UNet in the run's precision.
    autocast = torch.autocast(device.type, dtype, enabled=dtype != torch.float32)

    def call():
        latents = (mean + std * torch.randn_like(mean)) * 0.18215
        noise = torch.randn_like(latents)
        timesteps = torch.randint(0, 1000, (args.batch,))
        signal, level = (x.sqrt().view(-1, 1, 1, 1) for x in (acp[timesteps], 1 - acp[timesteps]))
        noisy = (signal * latents + level * noise).to(device, dtype)
        with autocast:
            tokens = projection(embeds.to(device))
            prediction = model(noisy, timesteps.to(device), text.to(device, dtype), tokens)
        loss = torch.nn.functional.mse_loss(prediction.float(), noise.to(device), reduction="mean")
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        loss.item()

    result = timed(call, args.runs, device)
    return result | memory_since(device, before) | {"variant": "classic", "recompute": args.gradient_checkpointing}


def timed(call, runs, device):
    def seconds():
        synchronize(device)
        start = time.perf_counter()
        call()
        synchronize(device)
        return time.perf_counter() - start

    seconds()
    runs = [seconds() for _ in range(runs)]
    return {"median_s": statistics.median(runs), "best_s": min(runs), "runs_s": runs}


def synchronize(device):
    if device.type == "cuda":
        torch.cuda.synchronize()


def memory_before(device):
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / GIB
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        pass  # then the peak is that since the program began
    return status("VmRSS")


def memory_since(device, before):
    peak = torch.cuda.max_memory_allocated() / GIB if device.type == "cuda" else status("VmHWM")
    if peak is None or before is None:
        return {"peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB}
    return {"peak_gib": peak, "weights_gib": before, "above_weights_gib": peak - before}


def status(name):
    try:
        with open("/proc/self/status") as file:
            line = next(line for line in file if line.startswith(name + ":"))
    except OSError:
        return None
    return int(line.split()[1]) * 1024 / GIB


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", choices=["unet", "train-step"], required=True)
    parser.add_argument("--config", choices=sorted(SIZES), default="sd15")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="f32")
    parser.add_argument("--no-adapter", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--gradient-checkpointing", action="store_true")
    args = parser.parse_args()
    args.batch = args.batch or (2 if args.what == "unet" else 1)
    device, dtype = torch.device(args.device), DTYPES[args.dtype]
    torch.manual_seed(0)
    result = (bench_unet if args.what == "unet" else bench_train_step)(args, device, dtype)
    about = {
        "bench": args.what,
        "config": args.config,
        "batch": args.batch,
        "size": args.size,
        "device": args.device,
        "dtype": args.dtype,
        "compile": args.compile,
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(about | result))


if __name__ == "__main__":
    main()
