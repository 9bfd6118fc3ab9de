//! Models of published sizes with random weights.

use std::collections::HashMap;

use anyhow::Result;
use clap::ValueEnum;
use ipa_adapter::{AdapterConfig, IpAdapter, ProjectionConfig, ResamplerConfig};
use ipa_core::Config as _;
use ipa_core::noise::Draws;
use ipa_core::read_config;
use ipa_core::tch::{self, Device, Kind, Tensor, nn::VarStore};
use ipa_formats::{Component, ModelOptions};
use ipa_unet::{CallSize, Unet, UnetConfig};
use serde::Serialize;

use crate::failure::UsageError;
use crate::model;

/// Tokens of a caption.
pub(super) const TEXT_TOKENS: i64 = 77;
/// Random numbers that all weights are made of: enough that no product repeats, few enough to be drawn in no time.
const NUM_RANDOM: i64 = 1 << 22;

/// Sizes by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Preset {
    /// Stable Diffusion 1.5
    Sd15,
    /// Stable Diffusion 2.1
    Sd21,
    /// Stable Diffusion XL, without what it adds to the timestep
    Sdxl,
    /// The small model inside this program
    Pocket,
}

impl Preset {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Sd15 => "sd15",
            Self::Sd21 => "sd21",
            Self::Sdxl => "sdxl",
            Self::Pocket => "pocket",
        }
    }

    pub(super) fn unet(self) -> Result<UnetConfig> {
        Ok(match self {
            Self::Sd15 => UnetConfig::sd15(),
            Self::Sd21 => UnetConfig::sd21(),
            Self::Sdxl => UnetConfig::sdxl(),
            Self::Pocket => {
                let files = model::resolve("pocket", ModelOptions::default())?.files;
                read_config(files.component(Component::Unet)?)?
            }
        })
    }

    /// Side of the pictures, which are of the model's own size unless another is asked for.
    ///
    /// # Errors
    /// [`UsageError`] if it is no multiple of 8.
    pub(super) fn side(self, size: Option<i64>) -> Result<Side, UsageError> {
        let (downsampling, own) = match self {
            Self::Sd15 | Self::Sd21 => (8, 512),
            Self::Sdxl => (8, 1024),
            Self::Pocket => (4, 64),
        };
        match size.unwrap_or(own) {
            pixels if pixels % 8 == 0 => Ok(Side { pixels, latents: pixels / downsampling }),
            pixels => Err(UsageError(format!("`--size` is {pixels}; expected a multiple of 8"))),
        }
    }

    /// Width of its vision tower's embeddings and features, with ViT-H for all but the pocket model.
    fn image_widths(self) -> (i64, i64) {
        match self {
            Self::Pocket => (128, 128),
            _ => (1024, 1280),
        }
    }

    /// Patches that the vision tower's features are of, and the one for the whole.
    fn num_patches(self) -> i64 {
        match self {
            Self::Pocket => 65,
            _ => 257,
        }
    }
}

/// Side of square pictures, and of their latents.
#[derive(Debug, Clone, Copy)]
pub(super) struct Side {
    pub(super) pixels: i64,
    pub(super) latents: i64,
}

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

/// A UNet with random weights.
pub(super) struct RandomUnet {
    pub(super) config: UnetConfig,
    pub(super) model: Unet,
    pub(super) variables: HashMap<String, Tensor>,
}

impl RandomUnet {
    pub(super) fn new(preset: Preset, (device, kind): (Device, Kind)) -> Result<Self> {
        let config = preset.unet()?;
        debug_assert_eq!(config.check(), Ok(()));
        let mut vs = VarStore::new(device);
        vs.set_kind(kind);
        let model = Unet::new(&vs.root(), &config);
        fill(&vs);
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

/// Gives every variable memory of its own: matrices uniform in `±1/√fan_in`, norms the identity, so that what passes
/// through stays finite in every kind.
fn fill(vs: &VarStore) {
    let _no_grad = tch::no_grad_guard();
    let random = (Draws::seeded(0).uniform(&[NUM_RANDOM]) * 2.0 - 1.0).to_device(vs.device()).to_kind(vs.kind());
    for (name, mut variable) in vs.variables() {
        let size = variable.size();
        let numel = variable.numel() as i64;
        let value = match &size[..] {
            [_] if name.ends_with(".bias") => random.new_zeros(&size, (vs.kind(), vs.device())),
            [_] => random.new_ones(&size, (vs.kind(), vs.device())),
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
