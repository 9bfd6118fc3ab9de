"""Models of published sizes with random weights, and a classic IP-Adapter."""

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor2_0, IPAdapterAttnProcessor2_0
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

TEXT_TOKENS = 77
NUM_TOKENS = 4
EMBED_DIM = 1024
VOCABULARY = 49408
SIZES = {
    "sd15": {"cross_attention_dim": 768, "attention_head_dim": 8},
    "sd21": {"cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20], "use_linear_projection": True},
}


def tower_sizes(width, feed_forward, layers, projection, act):
    return {
        "hidden_size": width,
        "intermediate_size": feed_forward,
        "num_hidden_layers": layers,
        "projection_dim": projection,
        "hidden_act": act,
    }


TOWERS = {
    "vit-h": tower_sizes(1280, 5120, 32, 1024, "gelu"),
    "vit-l": tower_sizes(1024, 4096, 24, 768, "quick_gelu"),
    "vit-bigg": tower_sizes(1664, 8192, 48, 1280, "gelu"),
    "text": tower_sizes(768, 3072, 12, 768, "quick_gelu")
    | {"num_attention_heads": 12, "vocab_size": VOCABULARY, "max_position_embeddings": TEXT_TOKENS},
}


def random_model(build, device, dtype):
    """Drawn fast: the layers' own initialisation of 860 million numbers takes longer than all that is measured."""
    torch.set_default_dtype(dtype)
    with torch.device("meta"):
        model = build()
    torch.set_default_dtype(torch.float32)
    model = model.to_empty(device=device)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
            else:
                bound = parameter[0].numel() ** -0.5
                parameter.uniform_(-bound, bound)
        for name, buffer in model.named_buffers():
            # transformers keeps the positions of its tokens as buffers, which `to_empty` leaves undefined.
            if name.endswith("position_ids"):
                buffer.copy_(torch.arange(buffer.shape[-1], device=device).expand(buffer.shape))
    return model.requires_grad_(False).eval()


def unet_config(config):
    return {
        "sample_size": 64,
        "block_out_channels": (320, 640, 1280, 1280),
        "layers_per_block": 2,
        "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        **SIZES[config],
    }


def random_unet(config, device, dtype):
    return random_model(lambda: UNet2DConditionModel(**unet_config(config)), device, dtype)


def random_vae(device, dtype):
    def build():
        return AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            latent_channels=4,
            sample_size=512,
        )

    return random_model(build, device, dtype)


def random_tower(tower, device, dtype):
    if tower == "text":
        return random_model(lambda: CLIPTextModel(CLIPTextConfig(**TOWERS[tower])), device, dtype)
    config = CLIPVisionConfig(image_size=224, patch_size=14, num_attention_heads=16, **TOWERS[tower])
    return random_model(lambda: CLIPVisionModelWithProjection(config), device, dtype)


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

    def forward(self, latents, timesteps, text, tokens=None):
        # What the processors split: the text, then one tensor [batch, images, tokens, width] for each adapter.
        context = text if tokens is None else (text, [tokens.unsqueeze(1)])
        return self.unet(latents, timesteps, encoder_hidden_states=context).sample
