//! Image prompts for Stable Diffusion on libtorch: train, check and use IP-Adapters (arXiv:2308.06721) without Python.
//!
//! This crate computes nothing itself. It re-exports the libraries of the workspace, each under its short name, and
//! beside them the few types that most programs begin with. `docs/ARCHITECTURE.md` maps the libraries.
//!
//! ```no_run
//! use std::ops::ControlFlow;
//!
//! use ipa::tch::{Device, Kind};
//! use ipa::{GenerateRequest, Pipeline, load_image};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let pipeline = Pipeline::load("stable-diffusion-v1-5".as_ref(), (Device::Cpu, Kind::Float))?
//!         .with_adapter("ip-adapter_sd15.safetensors".as_ref(), Some("image_encoder".as_ref()))?;
//!     let (prompt, scheduler) = ("a cat in a garden".into(), Some("ddim".into()));
//!     let request = GenerateRequest { prompt, scheduler, scale: 0.6, seed: 42, ..Default::default() };
//!     let reference = load_image("cat.png".as_ref())?;
//!     let generated = pipeline.generate(&request, &[reference], |_step| ControlFlow::Continue(()))?;
//!     generated.pictures[0].save("out.png")?;
//!     Ok(())
//! }
//! ```

pub use ipa_adapter as adapter;
pub use ipa_clip as clip;
pub use ipa_core as core;
pub use ipa_formats as formats;
pub use ipa_metrics as metrics;
pub use ipa_pocket as pocket;
pub use ipa_sample as sample;
pub use ipa_train as train;
pub use ipa_unet as unet;
pub use ipa_vae as vae;

#[cfg(feature = "allocator")]
pub use ipa_core::allocator;

pub use ipa_adapter::{ImagePrompt, IpAdapter};
pub use ipa_clip::load_image;
pub use ipa_core::tch;
pub use ipa_sample::{GenerateRequest, Generated, PictureFormat, Pipeline, write_picture};
pub use ipa_train::{Dataset, FrozenModels, TrainConfig, Trainer};

/// The README's example compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
