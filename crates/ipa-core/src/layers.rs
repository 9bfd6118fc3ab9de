//! The layers that published checkpoints consist of.
//!
//! A layer declares its variables without filling them: a declared variable is one element stretched to its
//! shape, so building a full-size model costs microseconds. [`Checkpoint::load_into`](crate::Checkpoint::load_into)
//! or an initialisation replaces it by real storage. Names are those of PyTorch's modules.

use std::sync::OnceLock;

use tch::nn::{Module, Path};
use tch::{Kind, Tensor};

use crate::winograd;

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

/// Two-dimensional convolution with bias.
#[derive(Debug)]
pub struct Conv2d {
    weight: Tensor,
    bias: Option<Tensor>,
    stride: i64,
    padding: i64,
    /// Its weights for Winograd's algorithm, once that has been of use.
    transformed: OnceLock<Tensor>,
}

/// A convolution that keeps height and width: odd `kernel`, stride 1, padded by `kernel / 2`.
pub fn conv2d(vs: &Path, inputs: i64, outputs: i64, kernel: i64) -> Conv2d {
    conv2d_strided(vs, inputs, outputs, kernel, 1, kernel / 2)
}

/// A convolution with its own stride and padding.
pub fn conv2d_strided(vs: &Path, inputs: i64, outputs: i64, kernel: i64, stride: i64, padding: i64) -> Conv2d {
    let bias = Some(declare(vs, "bias", &[outputs]));
    Conv2d {
        weight: declare(vs, "weight", &[outputs, inputs, kernel, kernel]),
        bias,
        stride,
        padding,
        transformed: OnceLock::new(),
    }
}

/// Cuts an image into `patch`×`patch` squares and projects each (no bias), as vision towers do.
pub fn patch_conv2d(vs: &Path, inputs: i64, outputs: i64, patch: i64) -> Conv2d {
    let weight = declare(vs, "weight", &[outputs, inputs, patch, patch]);
    Conv2d { weight, bias: None, stride: patch, padding: 0, transformed: OnceLock::new() }
}

impl Module for Conv2d {
    fn forward(&self, hidden: &Tensor) -> Tensor {
        let is_plain = (self.stride, self.padding, &self.weight.size()[2..]) == (1, 1, &[3, 3]);
        if is_plain && winograd::suits(hidden, &self.weight) {
            let weights = self.transformed.get_or_init(|| winograd::transformed(&self.weight));
            return winograd::convolved(hidden, weights, self.bias.as_ref());
        }
        let (stride, padding) = ([self.stride; 2], [self.padding; 2]);
        hidden.conv2d(&self.weight, self.bias.as_ref(), stride, padding, [1, 1], 1)
    }
}

/// Group normalisation with scale and shift per channel (arXiv:1803.08494).
#[derive(Debug)]
pub struct GroupNorm {
    weight: Tensor,
    bias: Tensor,
    groups: i64,
    eps: f64,
}

/// Normalises `channels` in `groups`; `eps` differs between the models' parts.
pub fn group_norm(vs: &Path, groups: i64, channels: i64, eps: f64) -> GroupNorm {
    GroupNorm { weight: declare(vs, "weight", &[channels]), bias: declare(vs, "bias", &[channels]), groups, eps }
}

impl Module for GroupNorm {
    fn forward(&self, hidden: &Tensor) -> Tensor {
        hidden.group_norm(self.groups, Some(&self.weight), Some(&self.bias), self.eps, true)
    }
}

/// Mean and variance of every group, `[groups, 1]` each, f32.
#[derive(Debug)]
pub struct GroupMoments {
    mean: Tensor,
    var: Tensor,
}

impl GroupNorm {
    /// What [`Module::forward`] normalises by, of features `[1, channels, height, width]`.
    pub fn moments(&self, hidden: &Tensor) -> GroupMoments {
        let groups = hidden.to_kind(Kind::Float).reshape([self.groups, -1]);
        let (var, mean) = groups.var_mean_dim(1, false, true);
        GroupMoments { mean, var }
    }

    /// As [`Module::forward`], normalised by the moments of other features.
    pub fn forward_with(&self, hidden: &Tensor, moments: &GroupMoments) -> Tensor {
        let per_channel = |parameter: &Tensor| parameter.to_kind(Kind::Float).reshape([self.groups, -1]);
        let scale = per_channel(&self.weight) / (&moments.var + self.eps).sqrt();
        let shift = per_channel(&self.bias) - &moments.mean * &scale;
        let along_channels = |factors: Tensor| factors.reshape([1, -1, 1, 1]);
        let normalised = hidden.to_kind(Kind::Float) * along_channels(scale) + along_channels(shift);
        normalised.to_kind(hidden.kind())
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

/// `x · σ(1.702 x)`, the activation of OpenAI's CLIP models.
pub fn quick_gelu(hidden: &Tensor) -> Tensor {
    hidden * (hidden * 1.702).sigmoid()
}

/// The parameters declared under `vs`, counted; declared shapes count, loaded or not.
pub fn num_parameters(vs: &tch::nn::VarStore) -> i64 {
    vs.variables().values().map(|tensor| tensor.numel() as i64).sum()
}
