//! Image tokens that look at the text before the UNet looks at them.

use ipa_core::layers::{LayerNorm, Linear, layer_norm, linear_no_bias};
use ipa_core::tch::{Tensor, nn::Path};
use ipa_core::{attention, merge_heads, split_heads};

use super::NORM_EPS;

const HEAD_DIM: i64 = 64;

/// `tokens + W_out Attn(LN(tokens) W_q, text W_k, text W_v)`: a research variant, in which what an image prompt says
/// depends on what the text says already. Begun with `W_out` zero, it is the adapter without it.
#[derive(Debug)]
pub(crate) struct Prefusion {
    norm: LayerNorm,
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
    heads: i64,
}

impl Prefusion {
    pub(crate) fn new(vs: &Path, width: i64) -> Self {
        let matrix = |name| linear_no_bias(&(vs / name), width, width);
        Self {
            norm: layer_norm(&(vs / "norm"), width, NORM_EPS),
            to_q: matrix("to_q"),
            to_k: matrix("to_k"),
            to_v: matrix("to_v"),
            to_out: matrix("to_out"),
            heads: if width % HEAD_DIM == 0 { width / HEAD_DIM } else { 1 },
        }
    }

    /// `tokens` `[batch, image tokens, width]`, `text` `[batch, text tokens, width]` → as `tokens`.
    pub(crate) fn forward(&self, tokens: &Tensor, text: &Tensor) -> Tensor {
        let heads = |hidden: &Tensor, projection: &Linear| split_heads(&hidden.apply(projection), self.heads);
        let query = heads(&tokens.apply(&self.norm), &self.to_q);
        let seen = attention(&query, &heads(text, &self.to_k), &heads(text, &self.to_v));
        tokens + merge_heads(&seen).apply(&self.to_out)
    }
}
