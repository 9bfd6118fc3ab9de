//! IP-Adapter (arXiv:2308.06721): image prompts for Stable Diffusion through decoupled cross-attention.
//!
//! An [`IpAdapter`] projects what CLIP says of images into prompt tokens and prepares keys and values for every
//! cross-attention layer; the [`ImagePrompt`] it gives is a hook that the UNet calls. Knows nothing of CLIP,
//! samplers or files other than its own.
//!
//! ```no_run
//! use ipa_adapter::IpAdapter;
//! use ipa_core::tch::{Device, Kind, Tensor};
//! use ipa_unet::Unet;
//!
//! let options = (Device::Cpu, Kind::Float);
//! let unet = Unet::load("model/unet", options)?;
//! let adapter = IpAdapter::load("ip-adapter_sd15.safetensors".as_ref(), unet.config(), options)?;
//! # let (image_embeds, latents, context) = (Tensor::new(), Tensor::new(), Tensor::new());
//! let prompt = adapter.prompt(&image_embeds, 0.6)?;
//! let noise_pred = unet.forward(&latents, &Tensor::from(999.0), &context, &prompt);
//! # let _ = noise_pred;
//! # Ok::<(), ipa_adapter::AdapterError>(())
//! ```

mod adapter;
mod error;
mod projection;
mod prompt;

pub use adapter::{AdapterConfig, IpAdapter};
pub use error::AdapterError;
pub use projection::{
    FullFaceProjection, ImageFeatures, ImageProjection, ProjectionConfig, Resampler, ResamplerConfig,
};
pub use prompt::ImagePrompt;
