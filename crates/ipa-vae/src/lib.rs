//! The variational autoencoder of Stable Diffusion (`AutoencoderKL`, arXiv:2112.10752): pictures to latents and back.
//!
//! Knows nothing of UNets, schedules or adapters. Pixels are in `[-1, 1]`; latents here are *unscaled*: who
//! samples or trains multiplies by [`VaeConfig::scaling_factor`].
//!
//! ```no_run
//! use ipa_core::tch::{Device, Kind};
//! use ipa_vae::Vae;
//!
//! let vae = Vae::load("model/vae", (Device::Cpu, Kind::Float))?;
//! # let pixels = ipa_core::tch::Tensor::zeros([1, 3, 64, 64], (Kind::Float, Device::Cpu));
//! let latents = vae.encode(&pixels).mean;
//! let pixels = vae.decode(&latents);
//! # let _ = pixels;
//! # Ok::<(), ipa_core::WeightsError>(())
//! ```

mod blocks;
mod config;
mod norms;
mod tiling;
mod vae;
mod work;

pub use config::VaeConfig;
pub use vae::{Decoder, DiagonalGaussian, Encoder, Vae};
