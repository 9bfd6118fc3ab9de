//! Many features of a picture gathered in a few prompt tokens.

use ipa_core::layers::{LayerNorm, Linear, declare, layer_norm, linear, linear_no_bias};
use ipa_core::tch::{Tensor, nn::Path};
use ipa_core::{attention, merge_heads, split_heads};

use super::NORM_EPS;

/// Width of an attention head in every published resampler.
const HEAD_DIM: i64 = 64;

/// Sizes of a [`Resampler`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResamplerConfig {
    /// Width of the features: 1280 with ViT-H.
    pub input: i64,
    /// Width inside: 768 for SD1.5, 1280 for SDXL.
    pub width: i64,
    /// Width of all attention heads together, a multiple of 64.
    pub attention_width: i64,
    /// Width inside the feed-forward layers: four times `width`.
    pub feed_forward: i64,
    /// Layers: 4.
    pub depth: i64,
    /// Tokens it gives: 16.
    pub num_tokens: i64,
}

/// Learned tokens that gather what they need from a picture's features, layer by layer (the reference's `Resampler`,
/// after arXiv:2204.14198 §2.1).
#[derive(Debug)]
pub struct Resampler {
    latents: Tensor,
    perceiver: Perceiver,
}

impl Resampler {
    /// Declares a resampler that gives tokens of `width`.
    pub fn new(vs: &Path, config: &ResamplerConfig, width: i64) -> Self {
        Self {
            latents: declare(vs, "latents", &[1, config.num_tokens, config.width]),
            perceiver: Perceiver::new(vs, config, width),
        }
    }

    /// `[batch, features, input]` → `[batch, num_tokens, width]`.
    pub fn forward(&self, features: &Tensor) -> Tensor {
        self.perceiver.forward(&self.latents.expand([features.size()[0], -1, -1], false), features)
    }
}

/// A resampler whose tokens to begin with come from elsewhere.
#[derive(Debug)]
pub(super) struct Perceiver {
    proj_in: Linear,
    layers: Vec<Layer>,
    proj_out: Linear,
    norm_out: LayerNorm,
}

impl Perceiver {
    pub(super) fn new(vs: &Path, config: &ResamplerConfig, width: i64) -> Self {
        Self {
            proj_in: linear(&(vs / "proj_in"), config.input, config.width),
            layers: (0..config.depth).map(|index| Layer::new(&(vs / "layers" / index), config)).collect(),
            proj_out: linear(&(vs / "proj_out"), config.width, width),
            norm_out: layer_norm(&(vs / "norm_out"), width, NORM_EPS),
        }
    }

    pub(super) fn forward(&self, latents: &Tensor, features: &Tensor) -> Tensor {
        let features = features.apply(&self.proj_in);
        let gathered = |latents: Tensor, layer: &Layer| layer.forward(&features, &latents);
        let latents = self.layers.iter().fold(latents.shallow_clone(), gathered);
        latents.apply(&self.proj_out).apply(&self.norm_out)
    }
}

#[derive(Debug)]
struct Layer {
    features_norm: LayerNorm,
    latents_norm: LayerNorm,
    to_q: Linear,
    to_kv: Linear,
    to_out: Linear,
    feed_forward_norm: LayerNorm,
    up: Linear,
    down: Linear,
    heads: i64,
}

impl Layer {
    fn new(vs: &Path, config: &ResamplerConfig) -> Self {
        let ResamplerConfig { width, attention_width, feed_forward, .. } = *config;
        let (attention, forward) = (vs / "0", vs / "1");
        let norm = |vs: Path| layer_norm(&vs, width, NORM_EPS);
        Self {
            features_norm: norm(&attention / "norm1"),
            latents_norm: norm(&attention / "norm2"),
            to_q: linear_no_bias(&(&attention / "to_q"), width, attention_width),
            to_kv: linear_no_bias(&(&attention / "to_kv"), width, 2 * attention_width),
            to_out: linear_no_bias(&(&attention / "to_out"), attention_width, width),
            feed_forward_norm: norm(&forward / "0"),
            up: linear_no_bias(&(&forward / "1"), width, feed_forward),
            down: linear_no_bias(&(&forward / "3"), feed_forward, width),
            heads: attention_width / HEAD_DIM,
        }
    }

    fn forward(&self, features: &Tensor, latents: &Tensor) -> Tensor {
        let latents = self.attend(features, latents) + latents;
        let hidden = latents.apply(&self.feed_forward_norm).apply(&self.up);
        hidden.gelu("none").apply(&self.down) + latents
    }

    /// The latents look at the features and, after them, at themselves.
    fn attend(&self, features: &Tensor, latents: &Tensor) -> Tensor {
        let latents = latents.apply(&self.latents_norm);
        let seen = Tensor::cat(&[features.apply(&self.features_norm), latents.shallow_clone()], 1);
        let keys_values = seen.apply(&self.to_kv).chunk(2, -1); // keys first
        let [query, key, value] = [&latents.apply(&self.to_q), &keys_values[0], &keys_values[1]]
            .map(|projected| split_heads(projected, self.heads));
        merge_heads(&attention(&query, &key, &value)).apply(&self.to_out)
    }
}
