//! From one image embedding to prompt tokens.

use ipa_core::layers::{LayerNorm, Linear, layer_norm, linear};
use ipa_core::tch::{Tensor, nn::Path};

use super::NORM_EPS;

/// `LN(reshape(W e + b))`: a global image embedding as a few tokens of the text's width (arXiv:2308.06721 §3.2.1).
#[derive(Debug)]
pub struct ImageProjection {
    proj: Linear,
    norm: LayerNorm,
    width: i64,
}

impl ImageProjection {
    /// Declares the projection of `embed_dim` to `num_tokens` tokens of `width`.
    pub fn new(vs: &Path, embed_dim: i64, num_tokens: i64, width: i64) -> Self {
        Self {
            proj: linear(&(vs / "proj"), embed_dim, num_tokens * width),
            norm: layer_norm(&(vs / "norm"), width, NORM_EPS),
            width,
        }
    }

    /// `[batch, embed_dim]` → `[batch, num_tokens, width]`.
    pub fn forward(&self, image_embeds: &Tensor) -> Tensor {
        image_embeds.apply(&self.proj).view([image_embeds.size()[0], -1, self.width]).apply(&self.norm)
    }
}
