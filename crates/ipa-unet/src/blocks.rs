//! The pieces that the UNet is folded over: down, mid, up.

use ipa_core::layers::{Conv2d, conv2d, conv2d_strided};
use ipa_core::tch::{Tensor, nn::Path};

use crate::attention::{Transformer2d, TransformerSizes};
use crate::resnet::ResnetBlock2d;
use crate::{CrossAttentionHook, SiteId, UnetConfig};

/// What passes from segment to segment.
#[derive(Debug)]
pub struct Flow {
    /// Features of the last segment.
    pub hidden: Tensor,
    /// What the way up is still to read, last first.
    pub skips: Vec<Tensor>,
}

/// What every segment of one call reads.
#[allow(missing_debug_implementations)] // hooks need not be printable
#[derive(Clone, Copy)]
pub struct Conditions<'a> {
    /// Of [`Unet::time_embeds`](crate::Unet::time_embeds).
    pub time_embeds: &'a Tensor,
    /// `[batch, tokens, cross_attention_dim]`
    pub context: &'a Tensor,
    /// What listens at the cross-attention layers.
    pub hook: &'a dyn CrossAttentionHook,
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
pub(crate) struct Layer {
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

/// One layer, with the change of size before it: the least that is computed at once.
#[derive(Debug)]
pub(crate) enum Segment {
    /// On the way down; what it makes, half size and features, the way up will read.
    Down { downsampler: Option<Conv2d>, layer: Layer },
    /// At the coarsest level.
    Mid { layer: Layer },
    /// On the way up; reads the last skip.
    Up { upsampler: Option<Conv2d>, layer: Layer },
}

impl Segment {
    pub(crate) fn forward(&self, flow: Flow, conditions: &Conditions) -> Flow {
        self.layer(self.resample(flow), conditions)
    }

    /// The change of size before the layer, if there is one.
    pub(crate) fn resample(&self, flow: Flow) -> Flow {
        let Flow { mut hidden, mut skips } = flow;
        match self {
            Self::Down { downsampler: Some(conv), .. } => {
                hidden = hidden.apply(conv);
                skips.push(hidden.shallow_clone());
            }
            Self::Up { upsampler: Some(conv), .. } => {
                // To the skip's size, which is twice this one or one less.
                let size = skips.last().expect("as many skips as layers on the way up").size();
                hidden = hidden.upsample_nearest2d(&size[2..], None, None).apply(conv);
            }
            _ => {}
        }
        Flow { hidden, skips }
    }

    /// The layer itself.
    pub(crate) fn layer(&self, flow: Flow, conditions: &Conditions) -> Flow {
        let Flow { mut hidden, mut skips } = flow;
        match self {
            Self::Down { layer, .. } => {
                hidden = layer.forward(&hidden, conditions);
                skips.push(hidden.shallow_clone());
            }
            Self::Mid { layer } => hidden = layer.forward(&hidden, conditions),
            Self::Up { layer, .. } => {
                let skip = skips.pop().expect("as many skips as layers on the way up");
                hidden = layer.forward(&Tensor::cat(&[hidden, skip], 1), conditions);
            }
        }
        Flow { hidden, skips }
    }
}

/// One level on the way down; `vs` is the whole network's.
pub(crate) fn down_block(vs: &Path, config: &UnetConfig, level: usize, sites: &mut SiteCounter) -> Vec<Segment> {
    let channels = &config.block_out_channels;
    let (width, from_above) = (channels[level], channels[level.saturating_sub(1)]);
    let block = vs / "down_blocks" / level;
    let has_attention = config.down_has_attention(level);
    let mut segment = |index: i64| {
        let is_first = index == 0;
        // Named as the end of the level above.
        let downsampler = (is_first && level > 0).then(|| {
            let vs = vs / "down_blocks" / (level - 1) / "downsamplers" / "0" / "conv";
            conv2d_strided(&vs, from_above, from_above, 3, 2, 1)
        });
        let inputs = if is_first { from_above } else { width };
        Segment::Down { downsampler, layer: layer(&block, config, index, (inputs, level), has_attention, sites) }
    };
    (0..config.layers_per_block).map(&mut segment).collect()
}

/// Residual block, attention, residual block at the coarsest level.
pub(crate) fn mid_block(vs: &Path, config: &UnetConfig, sites: &mut SiteCounter) -> Vec<Segment> {
    let level = config.block_out_channels.len() - 1;
    let (block, inputs) = (vs / "mid_block", config.block_out_channels[level]);
    let mut segment =
        |index: i64| Segment::Mid { layer: layer(&block, config, index, (inputs, level), index == 0, sites) };
    (0..2).map(&mut segment).collect()
}

/// One level on the way up, counted from the coarsest; `vs` is the whole network's.
pub(crate) fn up_block(vs: &Path, config: &UnetConfig, up_level: usize, sites: &mut SiteCounter) -> Vec<Segment> {
    let channels: Vec<i64> = config.block_out_channels.iter().rev().copied().collect();
    let (width, from_below) = (channels[up_level], channels[up_level.saturating_sub(1)]);
    let from_skip = channels[(up_level + 1).min(channels.len() - 1)]; // the last skip comes from the level above
    let (level, num_layers) = (channels.len() - 1 - up_level, config.layers_per_block + 1);
    let block = vs / "up_blocks" / up_level;
    let has_attention = config.up_has_attention(up_level);
    let mut segment = |index: i64| {
        let is_first = index == 0;
        // Named as the end of the level below.
        let upsampler = (is_first && up_level > 0).then(|| {
            let vs = vs / "up_blocks" / (up_level - 1) / "upsamplers" / "0" / "conv";
            conv2d(&vs, from_below, from_below, 3)
        });
        let skip = if index + 1 == num_layers { from_skip } else { width };
        let inputs = skip + if is_first { from_below } else { width };
        Segment::Up { upsampler, layer: layer(&block, config, index, (inputs, level), has_attention, sites) }
    };
    (0..num_layers).map(&mut segment).collect()
}

/// The layer of a block, from so many channels to those of its level, counted from the finest.
fn layer(
    block: &Path,
    config: &UnetConfig,
    index: i64,
    (inputs, level): (i64, usize),
    has_attention: bool,
    sites: &mut SiteCounter,
) -> Layer {
    let sizes = TransformerSizes::of_level(config, level);
    let attention = || Transformer2d::new(&(block / "attentions" / index), sizes, sites);
    Layer {
        resnet: ResnetBlock2d::new(&(block / "resnets" / index), config, inputs, config.block_out_channels[level]),
        attention: has_attention.then(attention),
    }
}
