#!/usr/bin/env python3
"""What `ipa bench` times, in diffusers and transformers: to compare on the same machine.

Needs torch 2.11, diffusers 0.42.1 and transformers; for `--backend openvino` also openvino. Random weights of the
published sizes, a classic IP-Adapter of four tokens, cached latents, captions and embeddings. Prints one JSON object with
the keys of `ipa bench`.

    python3 benches/diffusers_reference.py --what unet --batch 2 --runs 3
    python3 benches/diffusers_reference.py --what unet --backend openvino
    python3 benches/diffusers_reference.py --what train-step --batch 1 --gradient-checkpointing
    python3 benches/diffusers_reference.py --what generate --steps 30 --runs 1
    python3 benches/diffusers_reference.py --what clip --tower vit-h
"""

import argparse
import json

import torch

from reference import generate, parts, train_step, unet
from reference.models import SIZES, TOWERS

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
# What is measured: how, in how many pictures by default, and what else than eager execution there is.
BENCHES = {
    "unet": (unet.bench, 2, ["compile", "openvino"]),
    "train-step": (train_step.bench, 1, ["compile"]),
    "generate": (generate.bench, 1, ["compile"]),
    "vae-decode": (parts.vae_decode, 1, []),
    "clip": (parts.clip, 1, []),
    "load": (parts.load, 1, []),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", choices=list(BENCHES), required=True)
    parser.add_argument("--config", choices=sorted(SIZES), default="sd15")
    parser.add_argument("--batch", type=int, help="pictures at once; of unet, twice as many under guidance")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--steps", type=int, default=30, help="of generate")
    parser.add_argument("--tower", choices=list(TOWERS), default="vit-h", help="of clip")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="f32")
    parser.add_argument("--backend", choices=["eager", "compile", "openvino"], default="eager")
    parser.add_argument("--no-adapter", action="store_true")
    parser.add_argument("--gradient-checkpointing", action="store_true")
    args = parser.parse_args()
    bench, batch, backends = BENCHES[args.what]
    if args.backend not in ["eager", *backends]:
        parser.error(f"--backend {args.backend} is not there for {args.what}")
    if args.backend == "openvino" and (args.device, args.dtype) != ("cpu", "f32"):
        parser.error("--backend openvino is measured on the cpu in f32 alone")
    args.batch = args.batch or batch
    device, dtype = torch.device(args.device), DTYPES[args.dtype]
    torch.manual_seed(0)
    about = {
        "bench": args.what,
        "config": args.config,
        "batch": args.batch,
        "size": args.size,
        "device": args.device,
        "dtype": args.dtype,
        "backend": args.backend,
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(about | bench(args, device, dtype)))


if __name__ == "__main__":
    main()
