"""Whole pictures: text tower, steps with guidance, a classic adapter given embeddings, VAE.

What diffusers' `StableDiffusionPipeline` does, without its tokenizer and its conversion to pictures: those need files,
and take no time.
"""

import time

import torch
from diffusers import DDIMScheduler

from reference.measure import memory_before, memory_since, synchronize, timed, told
from reference.models import (
    EMBED_DIM,
    TEXT_TOKENS,
    VOCABULARY,
    Context,
    ImageProjection,
    random_model,
    random_tower,
    random_unet,
    random_vae,
    set_processors,
)

GUIDANCE_SCALE = 7.5


def bench(args, device, dtype):
    if args.config != "sd15":
        raise SystemExit("whole pictures are measured with --config sd15 alone")
    text, vae = random_tower("text", device, dtype), random_vae(device, dtype)
    unet = random_unet(args.config, device, dtype)
    if not args.no_adapter:
        set_processors(unet, device, dtype)
    projection = random_model(lambda: ImageProjection(unet.config.cross_attention_dim), device, dtype)
    model = Context(unet)
    if args.backend == "compile":
        model = torch.compile(model)
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    ids = torch.randint(0, VOCABULARY, (2, TEXT_TOKENS), device=device)
    embeds = torch.randn(1, EMBED_DIM, device=device, dtype=dtype)
    embeds = torch.cat([torch.zeros_like(embeds), embeds])
    side, steps_s = args.size // 8, []

    @torch.no_grad()
    def draw(num_steps):
        context = text(ids).last_hidden_state.repeat_interleave(args.batch, 0)
        tokens = None if args.no_adapter else projection(embeds).repeat_interleave(args.batch, 0)
        scheduler.set_timesteps(num_steps, device=device)
        latents = torch.randn(args.batch, 4, side, side).to(device, dtype)
        for step, timestep in enumerate(scheduler.timesteps):
            unconditional, conditional = model(torch.cat([latents] * 2), timestep, context, tokens).chunk(2)
            noise_pred = unconditional + GUIDANCE_SCALE * (conditional - unconditional)
            latents = scheduler.step(noise_pred, timestep, latents).prev_sample
            if step == 0:
                synchronize(device)
                first = time.perf_counter()
        synchronize(device)
        if num_steps > 1:
            steps_s.append((time.perf_counter() - first) / (num_steps - 1))
        return vae.decode(latents / 0.18215).sample

    num_steps = [1] + [args.steps] * args.runs  # the call that warms up makes one
    before = memory_before(device)
    timing = timed(lambda: draw(num_steps.pop(0)), args.runs, device)
    about = {
        "steps": args.steps,
        "num_images": args.batch,
        "adapters": 0 if args.no_adapter else 1,
        "guidance_scale": GUIDANCE_SCALE,
        "picture_s": timing["median_s"] / args.batch,
        "step_s": told(steps_s)["median_s"] if steps_s else None,
    }
    return timing | memory_since(device, before) | about
