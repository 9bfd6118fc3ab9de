//! The conditional UNet of Stable Diffusion 1.x and 2.x (`UNet2DConditionModel`, arXiv:2112.10752) and its one seam: a
//! [`CrossAttentionHook`] that listens at every cross-attention layer and may add to it.
//!
//! Knows nothing of image prompts, samplers or files other than its own. Timesteps count down from 999.
//!
//! ```no_run
//! use ipa_core::tch::{Device, Kind, Tensor};
//! use ipa_unet::{NoHook, Unet};
//!
//! let unet = Unet::load("model/unet", (Device::Cpu, Kind::Float))?;
//! # let (latents, context) = (Tensor::new(), Tensor::new());
//! let noise_pred = unet.forward(&latents, &Tensor::from(999.0), &context, &NoHook);
//! # let _ = noise_pred;
//! # Ok::<(), ipa_core::WeightsError>(())
//! ```

mod attention;
mod blocks;
mod config;
mod hook;
mod resnet;
mod reuse;
mod time;
mod unet;
mod work;

pub use blocks::{Conditions, Flow};
pub use config::{PerLevel, Site, UnetConfig};
pub use hook::{CrossAttentionHook, NoHook, SiteId};
pub use reuse::DeepFeatures;
pub use time::timestep_embedding;
pub use unet::Unet;
pub use work::{CallSize, Operation, OperationKind};
