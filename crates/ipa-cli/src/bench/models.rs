//! Models of published sizes with random weights.

use std::collections::HashMap;

use anyhow::Result;
use clap::ValueEnum;
use ipa_adapter::{AdapterConfig, IpAdapter, ProjectionConfig, ResamplerConfig};
use ipa_core::noise::Draws;
use ipa_core::tch::nn::{Path, VarStore};
use ipa_core::tch::{self, Device, Kind, Tensor};
use ipa_core::{Config as _, Work};
use ipa_unet::{CallSize, Operation, OperationKind, Unet, UnetConfig};
use serde::Serialize;

use super::preset::{Preset, Side};

/// Tokens of a caption.
pub(super) const TEXT_TOKENS: i64 = 77;
/// Random numbers that all weights are made of: enough that no product repeats, few enough to be drawn in no time.
const NUM_RANDOM: i64 = 1 << 22;

/// Kinds of adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Variant {
    /// Four tokens of an embedding
    Classic,
    /// Sixteen tokens that a resampler makes of a picture's features
    Plus,
}

impl Variant {
    pub(super) fn config(self, preset: Preset, unet: &UnetConfig) -> AdapterConfig {
        let (embed_dim, input) = preset.image_widths();
        let width = if preset == Preset::Sdxl { 1280 } else { unet.cross_attention_dim };
        let attention_width = (width / 64).max(1) * 64;
        let sizes =
            ResamplerConfig { input, width, attention_width, feed_forward: 4 * width, depth: 4, num_tokens: 16 };
        match self {
            Self::Classic => AdapterConfig::classic(embed_dim, unet),
            Self::Plus => AdapterConfig::new(ProjectionConfig::Plus(sizes), unet),
        }
    }

    pub(super) fn num_tokens(self) -> i64 {
        match self {
            Self::Classic => 4,
            Self::Plus => 16,
        }
    }

    /// Shape of what it reads of so many pictures.
    pub(super) fn features(self, preset: Preset, batch: i64) -> Vec<i64> {
        let (embed_dim, input) = preset.image_widths();
        match self {
            Self::Classic => vec![batch, embed_dim],
            Self::Plus => vec![batch, preset.num_patches(), input],
        }
    }
}

/// A model with random weights, and its variables.
pub(super) fn random<M>((device, kind): (Device, Kind), build: impl FnOnce(&Path) -> M) -> (M, VarStore) {
    let mut vs = VarStore::new(device);
    vs.set_kind(kind);
    let model = build(&vs.root());
    fill(vs.variables(), (device, kind));
    (model, vs)
}

/// A UNet with random weights.
pub(super) struct RandomUnet {
    pub(super) config: UnetConfig,
    pub(super) model: Unet,
    pub(super) variables: HashMap<String, Tensor>,
}

impl RandomUnet {
    pub(super) fn new(preset: Preset, options: (Device, Kind)) -> Result<Self> {
        let config = preset.unet()?;
        debug_assert_eq!(config.check(), Ok(()));
        let (model, vs) = random(options, |vs| Unet::new(vs, &config));
        Ok(Self { config, model, variables: vs.variables() })
    }

    /// An adapter as training begins with it.
    pub(super) fn adapter(&self, variant: Variant, preset: Preset, options: (Device, Kind)) -> IpAdapter {
        let adapter = IpAdapter::new(&variant.config(preset, &self.config), options);
        adapter.initialize(&self.variables, 0);
        adapter
    }
}

/// The size of a call on such pictures.
pub(super) fn call_size(batch: i64, side: Side, image_tokens: i64) -> CallSize {
    CallSize { batch, latents: (side.latents, side.latents), text_tokens: TEXT_TOKENS, image_tokens }
}

/// One product of the UNet, as a part of all.
pub(super) fn work_of(operation: &Operation) -> Work {
    let mut work = Work::default();
    let part = match operation.kind {
        OperationKind::Convolution => &mut work.convolutions,
        OperationKind::Linear | OperationKind::TextLinear => &mut work.linear,
        OperationKind::SelfAttention | OperationKind::TextAttention | OperationKind::ImageAttention => {
            &mut work.attention
        }
    };
    *part = operation.flop;
    work
}

/// One call of the UNet.
pub(super) fn forward_work(unet: &UnetConfig, size: CallSize) -> Work {
    unet.operations(size).iter().map(work_of).sum()
}

/// Gives every variable memory of its own: matrices uniform in `±1/√fan_in`, norms the identity, so that what passes
/// through stays finite in every kind.
pub(super) fn fill(variables: HashMap<String, Tensor>, (device, kind): (Device, Kind)) {
    let _no_grad = tch::no_grad_guard();
    let random = (Draws::seeded(0).uniform(&[NUM_RANDOM]) * 2.0 - 1.0).to_device(device).to_kind(kind);
    for (name, mut variable) in variables {
        let size = variable.size();
        let numel = variable.numel() as i64;
        let value = match &size[..] {
            [_] if name.ends_with(".bias") => random.new_zeros(&size, (kind, device)),
            [_] => random.new_ones(&size, (kind, device)),
            _ => {
                let fan_in: i64 = size[1..].iter().product();
                let repeated = random.repeat([(numel + NUM_RANDOM - 1) / NUM_RANDOM]);
                // A product of its own, so that nothing longer is kept.
                (repeated.narrow(0, 0, numel) * (1.0 / (fan_in as f64).sqrt())).view(size.as_slice())
            }
        };
        variable.set_data(&value);
    }
}
