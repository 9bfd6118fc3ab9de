//! A face's identity as prompt tokens.

use ipa_core::layers::{LayerNorm, Linear, layer_norm, linear};
use ipa_core::tch::{Tensor, nn::Path};

use super::NORM_EPS;
use super::resampler::{Perceiver, ResamplerConfig};

/// Sizes of a [`FaceProjection`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FaceConfig {
    /// Width of the identity vector: 512.
    pub input: i64,
    /// Width inside: twice `input`.
    pub hidden: i64,
    /// Tokens it gives: 4, and 16 for the adapters called portrait.
    pub num_tokens: i64,
}

/// `LN(W₂ gelu(W₁ id + b₁) + b₂)`, cut into tokens (the reference's FaceID `MLPProjModel`).
#[derive(Debug)]
pub struct FaceProjection {
    first: Linear,
    second: Linear,
    norm: LayerNorm,
    width: i64,
}

impl FaceProjection {
    /// Declares a projection to tokens of `width`.
    pub fn new(vs: &Path, config: &FaceConfig, width: i64) -> Self {
        let proj = vs / "proj";
        Self {
            first: linear(&(&proj / "0"), config.input, config.hidden),
            second: linear(&(&proj / "2"), config.hidden, config.num_tokens * width),
            norm: layer_norm(&(vs / "norm"), width, NORM_EPS),
            width,
        }
    }

    /// `[batch, input]` → `[batch, num_tokens, width]`.
    pub fn forward(&self, faces: &Tensor) -> Tensor {
        let tokens = faces.apply(&self.first).gelu("none").apply(&self.second);
        tokens.reshape([faces.size()[0], -1, self.width]).apply(&self.norm)
    }
}

/// An identity's tokens that look at the face's picture (the reference's `ProjPlusModel`).
#[derive(Debug)]
pub struct FacePlusProjection {
    face: FaceProjection,
    perceiver: Perceiver,
    has_shortcut: bool,
}

impl FacePlusProjection {
    /// Declares a projection to tokens of `width`, of version 2 if it `has_shortcut`.
    pub fn new(vs: &Path, face: &FaceConfig, perceiver: &ResamplerConfig, has_shortcut: bool, width: i64) -> Self {
        Self {
            face: FaceProjection::new(vs, face, width),
            perceiver: Perceiver::new(&(vs / "perceiver_resampler"), perceiver, width),
            has_shortcut,
        }
    }

    /// What the perceiver makes of the identity's tokens; in version 2, the tokens with `structure` times that.
    ///
    /// # Shapes
    /// - `faces`: `[batch, input]`; `features`: `[batch, patches, width of the encoder]`
    /// - result: `[batch, num_tokens, width]`
    pub fn forward(&self, faces: &Tensor, features: &Tensor, structure: f64) -> Tensor {
        let tokens = self.face.forward(faces);
        let seen = self.perceiver.forward(&tokens, features);
        match self.has_shortcut {
            true => tokens + seen * structure,
            false => seen,
        }
    }
}
