//! The layers that published checkpoints consist of.
//!
//! A layer declares its variables without filling them: a declared variable is one element stretched to its
//! shape, so building a full-size model costs microseconds. [`Checkpoint::load_into`](crate::Checkpoint::load_into)
//! or an initialisation replaces it by real storage. Names are those of PyTorch's modules.

mod columns;
mod conv;
#[cfg(target_arch = "x86_64")]
mod few_positions;
#[cfg(target_arch = "x86_64")]
mod few_tiles;
mod gated;
mod group_norm;

use tch::Tensor;
use tch::nn::{Module, Path};

pub use conv::{Conv2d, conv2d, conv2d_strided, lay_out_for_drawing, patch_conv2d};
pub use gated::geglu;
pub use group_norm::{GroupMoments, GroupNorm, group_norm};

/// Declares a variable of the store's device and kind; its values come later.
///
/// # Panics
/// If the store has a variable of that name already: that would be a mistake in the model's code.
pub fn declare(vs: &Path, name: &str, shape: &[i64]) -> Tensor {
    let stretched = Tensor::zeros([1], (vs.kind(), vs.device())).expand(shape, false);
    let full_name = vs.path(name);
    assert!(vs.get(name).is_none(), "variable `{full_name}` is declared twice");
    vs.add(name, stretched, false)
}

/// `x Wᵀ + b`.
#[derive(Debug)]
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

/// A linear layer with bias, `[.., inputs]` → `[.., outputs]`.
pub fn linear(vs: &Path, inputs: i64, outputs: i64) -> Linear {
    Linear { weight: declare(vs, "weight", &[outputs, inputs]), bias: Some(declare(vs, "bias", &[outputs])) }
}

/// A linear layer without bias.
pub fn linear_no_bias(vs: &Path, inputs: i64, outputs: i64) -> Linear {
    Linear { weight: declare(vs, "weight", &[outputs, inputs]), bias: None }
}

impl Module for Linear {
    fn forward(&self, hidden: &Tensor) -> Tensor {
        hidden.linear(&self.weight, self.bias.as_ref())
    }
}

/// Layer normalisation over the last dimension.
#[derive(Debug)]
pub struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

/// Normalises the last dimension, of size `width`.
pub fn layer_norm(vs: &Path, width: i64, eps: f64) -> LayerNorm {
    LayerNorm { weight: declare(vs, "weight", &[width]), bias: declare(vs, "bias", &[width]), eps }
}

impl Module for LayerNorm {
    fn forward(&self, hidden: &Tensor) -> Tensor {
        hidden.layer_norm(self.weight.size(), Some(&self.weight), Some(&self.bias), self.eps, true)
    }
}

/// A table of vectors.
#[derive(Debug)]
pub struct Embedding {
    weight: Tensor,
}

/// `entries` vectors of `width`; looked up by integer tensors.
pub fn embedding(vs: &Path, entries: i64, width: i64) -> Embedding {
    Embedding { weight: declare(vs, "weight", &[entries, width]) }
}

impl Module for Embedding {
    fn forward(&self, ids: &Tensor) -> Tensor {
        Tensor::embedding(&self.weight, ids, -1, false, false)
    }
}

impl Embedding {
    /// The vectors of the first `entries` rows, `[entries, width]`: position tables are read in order.
    pub fn first(&self, entries: i64) -> Tensor {
        self.weight.narrow(0, 0, entries)
    }
}

/// `sum + term`, in the memory of `sum`: a product of a layer that nothing else reads, and that no way back needs.
///
/// `term` may be of fewer sizes (broadcasting).
pub fn added(mut sum: Tensor, term: &Tensor) -> Tensor {
    let _ = sum.g_add_(term);
    sum
}

/// `x · σ(1.702 x)`, the activation of OpenAI's CLIP models.
pub fn quick_gelu(hidden: &Tensor) -> Tensor {
    hidden * (hidden * 1.702).sigmoid()
}

/// The parameters declared under `vs`, counted; declared shapes count, loaded or not.
pub fn num_parameters(vs: &tch::nn::VarStore) -> i64 {
    vs.variables().values().map(|tensor| tensor.numel() as i64).sum()
}
