//! The blocks encoder and decoder share. Every group normalisation here has eps 1e-6 and goes through [`Norms`].

use ipa_core::layers::{Conv2d, GroupNorm, Linear, added, conv2d, conv2d_strided, group_norm, linear};
use ipa_core::tch::{Tensor, nn::Path};

use crate::norms::Norms;

pub(crate) const NORM_EPS: f64 = 1e-6;

/// Residual block without a timestep.
#[derive(Debug)]
pub(crate) struct ResnetBlock2d {
    norm1: GroupNorm,
    conv1: Conv2d,
    norm2: GroupNorm,
    conv2: Conv2d,
    conv_shortcut: Option<Conv2d>, // only when the channel count changes
}

impl ResnetBlock2d {
    pub(crate) fn new(vs: &Path, inputs: i64, outputs: i64, groups: i64) -> Self {
        Self {
            norm1: group_norm(&(vs / "norm1"), groups, inputs, NORM_EPS),
            conv1: conv2d(&(vs / "conv1"), inputs, outputs, 3),
            norm2: group_norm(&(vs / "norm2"), groups, outputs, NORM_EPS),
            conv2: conv2d(&(vs / "conv2"), outputs, outputs, 3),
            conv_shortcut: (inputs != outputs).then(|| conv2d(&(vs / "conv_shortcut"), inputs, outputs, 1)),
        }
    }

    pub(crate) fn forward(&self, hidden: &Tensor, norms: &Norms) -> Tensor {
        let shortcut = hidden.apply_opt(&self.conv_shortcut);
        let hidden = norms.apply_silu(&self.norm1, hidden).apply(&self.conv1);
        added(norms.apply_silu(&self.norm2, &hidden).apply(&self.conv2), &shortcut)
    }
}

/// Single-head self-attention over all positions, residual inside.
#[derive(Debug)]
struct Attention {
    group_norm: GroupNorm,
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
}

impl Attention {
    fn new(vs: &Path, channels: i64, groups: i64) -> Self {
        Self {
            group_norm: group_norm(&(vs / "group_norm"), groups, channels, NORM_EPS),
            to_q: linear(&(vs / "to_q"), channels, channels),
            to_k: linear(&(vs / "to_k"), channels, channels),
            to_v: linear(&(vs / "to_v"), channels, channels),
            to_out: linear(&(vs / "to_out" / "0"), channels, channels),
        }
    }

    fn forward(&self, hidden: &Tensor, norms: &Norms) -> Tensor {
        let tokens = norms.apply(&self.group_norm, hidden).flatten(2, 3).transpose(1, 2).unsqueeze(1); // [b, 1, h·w, c]
        let (query, key, value) = (tokens.apply(&self.to_q), tokens.apply(&self.to_k), tokens.apply(&self.to_v));
        let attended = ipa_core::attention(&query, &key, &value).apply(&self.to_out);
        added(attended.squeeze_dim(1).transpose(1, 2).reshape(hidden.size()), hidden)
    }
}

/// Residual block, attention, residual block at the coarsest level.
#[derive(Debug)]
pub(crate) struct MidBlock {
    resnet0: ResnetBlock2d,
    attention: Attention,
    resnet1: ResnetBlock2d,
}

impl MidBlock {
    pub(crate) fn new(vs: &Path, channels: i64, groups: i64) -> Self {
        Self {
            resnet0: ResnetBlock2d::new(&(vs / "resnets" / "0"), channels, channels, groups),
            attention: Attention::new(&(vs / "attentions" / "0"), channels, groups),
            resnet1: ResnetBlock2d::new(&(vs / "resnets" / "1"), channels, channels, groups),
        }
    }

    pub(crate) fn forward(&self, hidden: &Tensor, norms: &Norms) -> Tensor {
        let hidden = self.resnet0.forward(hidden, norms);
        self.resnet1.forward(&self.attention.forward(&hidden, norms), norms)
    }
}

/// Residual blocks of one encoder level, then half the size.
#[derive(Debug)]
pub(crate) struct DownBlock {
    resnets: Vec<ResnetBlock2d>,
    downsampler: Option<Conv2d>,
}

impl DownBlock {
    pub(crate) fn new(vs: &Path, inputs: i64, outputs: i64, layers: i64, groups: i64, last: bool) -> Self {
        let resnet = |layer: i64| {
            let inputs = if layer == 0 { inputs } else { outputs };
            ResnetBlock2d::new(&(vs / "resnets" / layer), inputs, outputs, groups)
        };
        let downsampler = || conv2d_strided(&(vs / "downsamplers" / "0" / "conv"), outputs, outputs, 3, 2, 0);
        Self { resnets: (0..layers).map(resnet).collect(), downsampler: (!last).then(downsampler) }
    }

    pub(crate) fn forward(&self, hidden: &Tensor, norms: &Norms) -> Tensor {
        let hidden = self.resnets.iter().fold(hidden.shallow_clone(), |hidden, resnet| resnet.forward(&hidden, norms));
        match &self.downsampler {
            // Parity: padded on the right and below only.
            Some(conv) => hidden.constant_pad_nd([0, 1, 0, 1]).apply(conv),
            None => hidden,
        }
    }
}

/// Residual blocks of one decoder level, then twice the size.
#[derive(Debug)]
pub(crate) struct UpBlock {
    resnets: Vec<ResnetBlock2d>,
    upsampler: Option<Conv2d>,
}

impl UpBlock {
    pub(crate) fn new(vs: &Path, inputs: i64, outputs: i64, layers: i64, groups: i64, last: bool) -> Self {
        let resnet = |layer: i64| {
            let inputs = if layer == 0 { inputs } else { outputs };
            ResnetBlock2d::new(&(vs / "resnets" / layer), inputs, outputs, groups)
        };
        let upsampler = || conv2d(&(vs / "upsamplers" / "0" / "conv"), outputs, outputs, 3);
        Self { resnets: (0..layers).map(resnet).collect(), upsampler: (!last).then(upsampler) }
    }

    pub(crate) fn forward(&self, hidden: &Tensor, norms: &Norms) -> Tensor {
        let hidden = self.resnets.iter().fold(hidden.shallow_clone(), |hidden, resnet| resnet.forward(&hidden, norms));
        match &self.upsampler {
            Some(conv) => double_size(&hidden).apply(conv),
            None => hidden,
        }
    }
}

fn double_size(hidden: &Tensor) -> Tensor {
    let (_, _, height, width) = hidden.size4().expect("features are [batch, channels, height, width]");
    hidden.upsample_nearest2d([2 * height, 2 * width], None, None)
}
