//! The transformer both towers share.

use ipa_core::layers::{LayerNorm, Linear, layer_norm, linear, quick_gelu};
use ipa_core::tch::{Tensor, nn::Path};
use ipa_core::{attention, causal_attention, merge_heads, split_heads};

use crate::Activation;

/// Sizes of a transformer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EncoderConfig {
    pub(crate) width: i64,
    pub(crate) feed_forward: i64,
    pub(crate) layers: i64,
    pub(crate) heads: i64,
    pub(crate) activation: Activation,
    pub(crate) eps: f64,
    /// Whether a token sees only itself and what precedes it.
    pub(crate) causal: bool,
}

#[derive(Debug)]
struct EncoderLayer {
    layer_norm1: LayerNorm,
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    out_proj: Linear,
    layer_norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    config: EncoderConfig,
}

impl EncoderLayer {
    fn new(vs: &Path, config: EncoderConfig) -> Self {
        let (width, attention, mlp) = (config.width, vs / "self_attn", vs / "mlp");
        Self {
            layer_norm1: layer_norm(&(vs / "layer_norm1"), width, config.eps),
            q_proj: linear(&(&attention / "q_proj"), width, width),
            k_proj: linear(&(&attention / "k_proj"), width, width),
            v_proj: linear(&(&attention / "v_proj"), width, width),
            out_proj: linear(&(&attention / "out_proj"), width, width),
            layer_norm2: layer_norm(&(vs / "layer_norm2"), width, config.eps),
            fc1: linear(&(&mlp / "fc1"), width, config.feed_forward),
            fc2: linear(&(&mlp / "fc2"), config.feed_forward, width),
            config,
        }
    }

    fn attend(&self, hidden: &Tensor) -> Tensor {
        let heads = |projection: &Linear| split_heads(&hidden.apply(projection), self.config.heads);
        let (query, key, value) = (heads(&self.q_proj), heads(&self.k_proj), heads(&self.v_proj));
        let attended = match self.config.causal {
            true => causal_attention(&query, &key, &value),
            false => attention(&query, &key, &value),
        };
        merge_heads(&attended).apply(&self.out_proj)
    }

    fn feed_forward(&self, hidden: &Tensor) -> Tensor {
        let hidden = hidden.apply(&self.fc1);
        let activated = match self.config.activation {
            Activation::QuickGelu => quick_gelu(&hidden),
            Activation::Gelu => hidden.gelu("none"),
        };
        activated.apply(&self.fc2)
    }

    fn forward(&self, hidden: &Tensor) -> Tensor {
        let hidden = self.attend(&hidden.apply(&self.layer_norm1)) + hidden;
        self.feed_forward(&hidden.apply(&self.layer_norm2)) + hidden
    }
}

/// A stack of pre-normalised transformer blocks.
#[derive(Debug)]
pub(crate) struct Encoder {
    layers: Vec<EncoderLayer>,
}

impl Encoder {
    pub(crate) fn new(vs: &Path, config: EncoderConfig) -> Self {
        let layer = |index: i64| EncoderLayer::new(&(vs / "layers" / index), config);
        Self { layers: (0..config.layers).map(layer).collect() }
    }

    /// The input and the output of every block, as transformers' `hidden_states`.
    pub(crate) fn forward(&self, embeds: Tensor) -> Vec<Tensor> {
        let mut hidden_states = vec![embeds];
        for layer in &self.layers {
            hidden_states.push(layer.forward(&hidden_states[hidden_states.len() - 1]));
        }
        hidden_states
    }
}
