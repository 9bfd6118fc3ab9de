"""A training step from cached latents, captions and embeddings."""

import torch

from reference.measure import memory_before, memory_since, timed
from reference.models import EMBED_DIM, TEXT_TOKENS, Context, ImageProjection, random_unet, set_processors


def bench(args, device, dtype):
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
    if args.backend == "compile":
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
