//! The residual block.

use ipa_core::layers::{Conv2d, GroupNorm, Linear, added, conv2d, group_norm, linear};
use ipa_core::tch::{Tensor, nn::Path};

use crate::UnetConfig;

/// Residual block; the timestep shifts the features between its two convolutions.
#[derive(Debug)]
pub(crate) struct ResnetBlock2d {
    norm1: GroupNorm,
    conv1: Conv2d,
    time_emb_proj: Linear,
    norm2: GroupNorm,
    conv2: Conv2d,
    conv_shortcut: Option<Conv2d>, // only when the channel count changes
}

impl ResnetBlock2d {
    pub(crate) fn new(vs: &Path, config: &UnetConfig, inputs: i64, outputs: i64) -> Self {
        let (groups, eps) = (config.norm_num_groups, config.norm_eps);
        let time_width = 4 * config.block_out_channels[0];
        Self {
            norm1: group_norm(&(vs / "norm1"), groups, inputs, eps),
            conv1: conv2d(&(vs / "conv1"), inputs, outputs, 3),
            time_emb_proj: linear(&(vs / "time_emb_proj"), time_width, outputs),
            norm2: group_norm(&(vs / "norm2"), groups, outputs, eps),
            conv2: conv2d(&(vs / "conv2"), outputs, outputs, 3),
            conv_shortcut: (inputs != outputs).then(|| conv2d(&(vs / "conv_shortcut"), inputs, outputs, 1)),
        }
    }

    pub(crate) fn forward(&self, hidden: &Tensor, time_embeds: &Tensor) -> Tensor {
        let shift = time_embeds.silu().apply(&self.time_emb_proj).unsqueeze(-1).unsqueeze(-1); // [b, out, 1, 1]
        let shortcut = hidden.apply_opt(&self.conv_shortcut);
        let hidden = added(self.norm1.forward_silu(hidden).apply(&self.conv1), &shift);
        added(self.norm2.forward_silu(&hidden).apply(&self.conv2), &shortcut)
    }
}
