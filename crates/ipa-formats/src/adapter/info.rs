//! What an adapter's header tells about it.

use serde::Serialize;

use super::kind::{AdapterCoupling, AdapterKind, AdapterVariant, BaseModel};

/// What an adapter's header tells about it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct AdapterInfo {
    /// Kind of projection.
    pub kind: AdapterKind,
    /// How its tokens reach the UNet.
    pub coupling: AdapterCoupling,
    /// Family of UNets it fits.
    pub base: BaseModel,
    /// Width of the image features it takes; `None` if it takes a face embedding alone.
    pub image_embed_dim: Option<usize>,
    /// Width of the face embedding it takes, if it does.
    pub face_embed_dim: Option<usize>,
    /// Width inside the small network over the face embedding, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub face_hidden: Option<usize>,
    /// Width of its tokens, which is that of the UNet's text features.
    pub cross_attention_dim: usize,
    /// Tokens for one image.
    pub num_tokens: usize,
    /// Cross-attention layers it adds to.
    pub num_layers: usize,
    /// Whether it brings LoRA tensors for the attention layers.
    pub has_lora: bool,
    /// Rank of these.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora_rank: Option<usize>,
    /// Sizes inside of the resampler that makes its tokens, if one does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resampler: Option<ResamplerSizes>,
}

/// Sizes of a resampler that an adapter does not show outside.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct ResamplerSizes {
    /// Width of its latents.
    pub width: usize,
    /// Width of all attention heads together.
    pub attention_width: usize,
    /// Width inside the feed-forward layers.
    pub feed_forward: usize,
    /// Layers.
    pub depth: usize,
}

impl AdapterInfo {
    /// The name of its kind and coupling.
    pub fn variant(&self) -> AdapterVariant {
        AdapterVariant::of(self.kind, self.coupling)
    }

    /// The image encoder whose features it takes, where their width tells; `None` if it takes none.
    pub fn encoder(&self) -> Option<&'static str> {
        match (self.kind, self.image_embed_dim?) {
            (AdapterKind::Classic, 1024) => Some("OpenCLIP ViT-H/14"),
            (AdapterKind::Classic, 1280) => Some("OpenCLIP ViT-bigG/14"),
            (AdapterKind::Classic, 768) => Some("OpenAI ViT-L/14"),
            (AdapterKind::Classic, _) => None,
            (_, 1280) => Some("OpenCLIP ViT-H/14"),
            (_, 1664) => Some("OpenCLIP ViT-bigG/14"),
            (_, 1024) => Some("OpenAI ViT-L/14"),
            _ => None,
        }
    }
}
