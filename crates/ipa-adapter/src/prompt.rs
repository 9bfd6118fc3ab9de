//! The hook that listens at every cross-attention layer.

use ipa_core::attention;
use ipa_core::tch::{Kind, Tensor};
use ipa_unet::{CrossAttentionHook, SiteId};

/// Reference images, projected and ready for every cross-attention layer of one UNet.
#[derive(Debug)]
pub struct ImagePrompt {
    pub(crate) keys_values: Vec<(Tensor, Tensor)>, // by site, each [b, heads, ip_tokens, head_dim]
    pub(crate) scale: f64,
}

impl ImagePrompt {
    /// The same images at another strength; keys and values are shared.
    pub fn with_scale(&self, scale: f64) -> Self {
        let shared = |(key, value): &(Tensor, Tensor)| (key.shallow_clone(), value.shallow_clone());
        Self { keys_values: self.keys_values.iter().map(shared).collect(), scale }
    }

    /// The same prompt for a UNet that computes in `kind`; gradients pass through.
    pub fn to_kind(&self, kind: Kind) -> Self {
        let converted = |(key, value): &(Tensor, Tensor)| (key.to_kind(kind), value.to_kind(kind));
        Self { keys_values: self.keys_values.iter().map(converted).collect(), scale: self.scale }
    }
}

impl CrossAttentionHook for ImagePrompt {
    /// `scale · Attn(Q, K', V')` (arXiv:2308.06721 Eq. 5); nothing at all at scale 0.
    fn attend(&self, site: SiteId, query: &Tensor) -> Option<Tensor> {
        if self.scale == 0.0 {
            return None;
        }
        let (key, value) = &self.keys_values[site.0];
        Some(attention(query, key, value) * self.scale)
    }
}
