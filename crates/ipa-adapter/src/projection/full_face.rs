//! Every feature of a picture as a prompt token.

use ipa_core::layers::{LayerNorm, Linear, layer_norm, linear};
use ipa_core::tch::{Tensor, nn::Path};

use super::NORM_EPS;

/// `LN(W₂ gelu(W₁ f + b₁) + b₂)` on every feature of its own (the reference's `MLPProjModel`): 257 tokens with ViT-H.
#[derive(Debug)]
pub struct FullFaceProjection {
    first: Linear,
    second: Linear,
    norm: LayerNorm,
}

impl FullFaceProjection {
    /// Declares the projection of features of `input` to tokens of `width`.
    pub fn new(vs: &Path, input: i64, width: i64) -> Self {
        let proj = vs / "proj";
        Self {
            first: linear(&(&proj / "0"), input, input),
            second: linear(&(&proj / "2"), input, width),
            norm: layer_norm(&(&proj / "3"), width, NORM_EPS),
        }
    }

    /// `[batch, features, input]` → `[batch, features, width]`.
    pub fn forward(&self, features: &Tensor) -> Tensor {
        features.apply(&self.first).gelu("none").apply(&self.second).apply(&self.norm)
    }
}
