//! Levels of the UNet: down, mid, up.

use ipa_core::layers::{Conv2d, conv2d, conv2d_strided};
use ipa_core::tch::{Tensor, nn::Path};

use crate::attention::{Transformer2d, TransformerSizes};
use crate::resnet::ResnetBlock2d;
use crate::{CrossAttentionHook, SiteId, UnetConfig};

/// What every block of one call reads.
pub(crate) struct Conditions<'a> {
    pub(crate) time_embeds: &'a Tensor,
    pub(crate) context: &'a Tensor,
    pub(crate) hook: &'a dyn CrossAttentionHook,
}

/// Gives out site numbers in execution order while the model is built.
#[derive(Debug, Default)]
pub(crate) struct SiteCounter(usize);

impl SiteCounter {
    pub(crate) fn next(&mut self) -> SiteId {
        self.0 += 1;
        SiteId(self.0 - 1)
    }
}

/// A residual block and, at levels that have it, attention.
#[derive(Debug)]
struct Layer {
    resnet: ResnetBlock2d,
    attention: Option<Transformer2d>,
}

impl Layer {
    fn forward(&self, hidden: &Tensor, conditions: &Conditions) -> Tensor {
        let hidden = self.resnet.forward(hidden, conditions.time_embeds);
        match &self.attention {
            Some(attention) => attention.forward(&hidden, conditions.context, conditions.hook),
            None => hidden,
        }
    }
}

/// One level on the way down.
#[derive(Debug)]
pub(crate) struct DownBlock {
    layers: Vec<Layer>,
    downsampler: Option<Conv2d>,
}

impl DownBlock {
    pub(crate) fn new(vs: &Path, config: &UnetConfig, level: usize, sites: &mut SiteCounter) -> Self {
        let channels = &config.block_out_channels;
        let width = channels[level];
        let sizes = TransformerSizes::of_level(config, level);
        let mut layer = |index: i64| {
            let inputs = if index == 0 { channels[level.saturating_sub(1)] } else { width };
            let vs_attention = vs / "attentions" / index;
            let has_attention = config.down_has_attention(level);
            Layer {
                resnet: ResnetBlock2d::new(&(vs / "resnets" / index), config, inputs, width),
                attention: has_attention.then(|| Transformer2d::new(&vs_attention, sizes, sites)),
            }
        };
        let layers = (0..config.layers_per_block).map(&mut layer).collect();
        let is_last = level + 1 == channels.len();
        let downsampler = || conv2d_strided(&(vs / "downsamplers" / "0" / "conv"), width, width, 3, 2, 1);
        Self { layers, downsampler: (!is_last).then(downsampler) }
    }

    /// Pushes what the way up will read onto `skips`.
    pub(crate) fn forward(&self, hidden: Tensor, conditions: &Conditions, skips: &mut Vec<Tensor>) -> Tensor {
        let mut hidden = hidden;
        for layer in &self.layers {
            hidden = layer.forward(&hidden, conditions);
            skips.push(hidden.shallow_clone());
        }
        if let Some(downsampler) = &self.downsampler {
            hidden = hidden.apply(downsampler);
            skips.push(hidden.shallow_clone());
        }
        hidden
    }
}

/// Residual block, attention, residual block at the coarsest level.
#[derive(Debug)]
pub(crate) struct MidBlock {
    resnet0: ResnetBlock2d,
    attention: Transformer2d,
    resnet1: ResnetBlock2d,
}

impl MidBlock {
    pub(crate) fn new(vs: &Path, config: &UnetConfig, sites: &mut SiteCounter) -> Self {
        let level = config.block_out_channels.len() - 1;
        let (width, sizes) = (config.block_out_channels[level], TransformerSizes::of_level(config, level));
        Self {
            resnet0: ResnetBlock2d::new(&(vs / "resnets" / "0"), config, width, width),
            attention: Transformer2d::new(&(vs / "attentions" / "0"), sizes, sites),
            resnet1: ResnetBlock2d::new(&(vs / "resnets" / "1"), config, width, width),
        }
    }

    pub(crate) fn forward(&self, hidden: &Tensor, conditions: &Conditions) -> Tensor {
        let hidden = self.resnet0.forward(hidden, conditions.time_embeds);
        let hidden = self.attention.forward(&hidden, conditions.context, conditions.hook);
        self.resnet1.forward(&hidden, conditions.time_embeds)
    }
}

/// One level on the way up.
#[derive(Debug)]
pub(crate) struct UpBlock {
    layers: Vec<Layer>,
    upsampler: Option<Conv2d>,
}

impl UpBlock {
    pub(crate) fn new(vs: &Path, config: &UnetConfig, level: usize, sites: &mut SiteCounter) -> Self {
        let channels: Vec<i64> = config.block_out_channels.iter().rev().copied().collect();
        let width = channels[level];
        let from_below = channels[level.saturating_sub(1)];
        let from_skip = channels[(level + 1).min(channels.len() - 1)]; // the last skip comes from the level above
        let num_layers = config.layers_per_block + 1;
        let sizes = TransformerSizes::of_level(config, channels.len() - 1 - level);
        let mut layer = |index: i64| {
            let skip = if index + 1 == num_layers { from_skip } else { width };
            let inputs = skip + if index == 0 { from_below } else { width };
            let vs_attention = vs / "attentions" / index;
            let has_attention = config.up_has_attention(level);
            Layer {
                resnet: ResnetBlock2d::new(&(vs / "resnets" / index), config, inputs, width),
                attention: has_attention.then(|| Transformer2d::new(&vs_attention, sizes, sites)),
            }
        };
        let layers = (0..num_layers).map(&mut layer).collect();
        let is_last = level + 1 == channels.len();
        let upsampler = || conv2d(&(vs / "upsamplers" / "0" / "conv"), width, width, 3);
        Self { layers, upsampler: (!is_last).then(upsampler) }
    }

    pub(crate) fn forward(&self, hidden: Tensor, conditions: &Conditions, skips: &mut Vec<Tensor>) -> Tensor {
        let mut hidden = hidden;
        for layer in &self.layers {
            let skip = skips.pop().expect("as many skips as layers on the way up");
            hidden = layer.forward(&Tensor::cat(&[hidden, skip], 1), conditions);
        }
        match (&self.upsampler, skips.last()) {
            // The next skip's size, which is twice this one or one less.
            (Some(conv), Some(skip)) => hidden.upsample_nearest2d(&skip.size()[2..], None, None).apply(conv),
            _ => hidden,
        }
    }
}
