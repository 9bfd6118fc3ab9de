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

#[cfg(test)]
mod tests {
    use ipa_core::noise::Draws;
    use ipa_core::tch::{Device, Kind, nn::VarStore};

    use super::*;

    /// Of width 128, two heads: each gives its own half, which the other half of the queries does not touch.
    #[test]
    fn heads_are_64_wide() {
        let vs = VarStore::new(Device::Cpu);
        let prefusion = Prefusion::new(&vs.root(), 128);
        let mut draws = Draws::seeded(3);
        for (name, mut variable) in vs.variables() {
            let identity = Tensor::eye(128, (Kind::Float, Device::Cpu));
            let value = match name.as_str() {
                "to_q.weight" | "to_k.weight" => draws.normal(&[128, 128]) / 8.0,
                "norm.weight" => Tensor::ones([128], (Kind::Float, Device::Cpu)),
                "norm.bias" => Tensor::zeros([128], (Kind::Float, Device::Cpu)),
                _ => identity,
            };
            variable.set_data(&value);
        }
        let (tokens, text) = (draws.normal(&[1, 3, 128]), draws.normal(&[1, 5, 128]));
        let before = prefusion.forward(&tokens, &text);
        let mut weight = vs.variables().remove("to_q.weight").expect("declared");
        weight.set_data(&Tensor::cat(&[weight.narrow(0, 0, 64), weight.narrow(0, 64, 64) * 2.0], 0));
        let after = prefusion.forward(&tokens, &text);
        let half = |tensor: &Tensor, first| tensor.narrow(2, first, 64);
        assert!(half(&after, 0).equal(&half(&before, 0)));
        assert!(!half(&after, 64).equal(&half(&before, 64)));
    }
}
