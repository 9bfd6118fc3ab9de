//! Sizes of published models, by name.

use anyhow::Result;
use clap::ValueEnum;
use ipa_clip::{Activation, TextConfig};
use ipa_core::{Config, read_config};
use ipa_formats::Component;
use ipa_unet::UnetConfig;
use ipa_vae::VaeConfig;
use serde::Serialize;

use crate::failure::UsageError;
use crate::model;

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
            Self::Pocket => pocket(Component::Unet)?,
        })
    }

    pub(super) fn vae(self) -> Result<VaeConfig> {
        Ok(match self {
            Self::Sd15 | Self::Sd21 | Self::Sdxl => VaeConfig::sd15(),
            Self::Pocket => pocket(Component::Vae)?,
        })
    }

    /// The text tower that the UNet reads; of the two of XL the smaller.
    pub(super) fn text(self) -> Result<TextConfig> {
        Ok(match self {
            Self::Sd15 | Self::Sdxl => TextConfig::clip_l(),
            Self::Sd21 => TextConfig {
                hidden_size: 1024,
                intermediate_size: 4096,
                num_hidden_layers: 23,
                num_attention_heads: 16,
                hidden_act: Activation::Gelu,
                ..TextConfig::clip_l()
            },
            Self::Pocket => pocket(Component::TextEncoder)?,
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
    pub(super) fn image_widths(self) -> (i64, i64) {
        match self {
            Self::Pocket => (128, 128),
            _ => (1024, 1280),
        }
    }

    /// Patches that the vision tower's features are of, and the one for the whole.
    pub(super) fn num_patches(self) -> i64 {
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

/// What a part of the model inside this program says of its sizes.
fn pocket<C: Config>(part: Component) -> Result<C> {
    Ok(read_config(model::bundled()?.files.component(part)?)?)
}
