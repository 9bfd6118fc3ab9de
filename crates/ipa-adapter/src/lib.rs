//! IP-Adapter (arXiv:2308.06721): image prompts for Stable Diffusion through decoupled cross-attention.
//!
//! An [`IpAdapter`] projects what CLIP says of images, or who is in them, into prompt tokens and prepares keys and values
//! for every cross-attention layer; the [`ImagePrompt`] it gives is a hook that the UNet calls. Several add up to a
//! [`Composition`]. Knows nothing of CLIP, samplers or files other than its own.
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
mod composition;
mod error;
mod features;
mod initialize;
mod lora;
mod maps;
mod mask;
mod projection;
mod prompt;

pub use adapter::{AdapterConfig, IpAdapter, check_base};
pub use composition::{ComposedPrompt, Composition, Timing};
pub use error::AdapterError;
pub use features::{Features, ImageFeatures};
pub use ipa_formats::{AdapterCoupling, AdapterFile, AdapterOptions, AdapterVariant};
pub use lora::{Lora, LoraLayer};
pub use maps::{AttentionMaps, PartMaps, Watched, WatchedCall};
pub use mask::RegionMask;
pub use projection::{
    FaceConfig, FacePlusProjection, FaceProjection, FullFaceProjection, ImageProjection, ProjectionConfig, Resampler,
    ResamplerConfig,
};
pub use prompt::ImagePrompt;
