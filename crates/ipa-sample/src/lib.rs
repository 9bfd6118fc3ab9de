//! Noise schedules, samplers, guidance, requests, and the pipeline from a request to pictures.
//!
//! Knows nothing of command lines. Timesteps count down from 999; `guidance_scale` is 1 + w of arXiv:2207.12598, so 1
//! is off; the same seed gives the noise that diffusers draws from its CPU generator.
//!
//! ```no_run
//! use std::ops::ControlFlow;
//! use ipa_core::tch::{Device, Kind};
//! use ipa_sample::{GenerateRequest, Pipeline};
//!
//! let pipeline = Pipeline::load("stable-diffusion-v1-5".as_ref(), (Device::Cpu, Kind::Float))?
//!     .with_adapter("ip-adapter_sd15.safetensors".as_ref(), Some("image_encoder".as_ref()))?;
//! let request = GenerateRequest { prompt: "in a garden".into(), scale: 0.6, seed: 42, ..Default::default() };
//! let reference = ipa_clip::load_image("cat.png".as_ref())?;
//! let generated = pipeline.generate(&request, &[reference], |_| ControlFlow::Continue(()))?;
//! let record = pipeline.record(&request, 0, &generated.pictures[0]);
//! ipa_sample::write_picture("out.png".as_ref(), &generated.pictures[0], &record, ipa_sample::PictureFormat::Png)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod attention;
mod config;
mod denoise;
mod encoder;
mod fast;
mod graph;
mod guidance;
mod image_prompt;
mod parameters;
mod parts;
mod picture_file;
mod pictures;
mod pipeline;
mod preflight;
mod prompt;
mod record;
mod request;
mod reuse;
mod sampler;
mod schedule;
mod scheduler_file;

pub use attention::{ReferenceMap, reference_maps};
pub use config::{BetaSchedule, PredictionType, SchedulerConfig, TimestepSpacing};
pub use encoder::ImageEncoder;
pub use fast::{Fast, UnknownFast};
pub use guidance::guided;
pub use image_prompt::{
    AdapterSource, BlockScale, Crop, ImagePromptSpec, LayerScales, Layers, Merge, PartScale, Parts, Preset, Reference,
    Tuned, read_faces, what_is_lost,
};
pub use parameters::parameters;
pub use parts::{check_parts, native_side};
pub use picture_file::{PictureFormat, RECORD_KEYWORD, RecordError, read_record, write_picture};
pub use pictures::Pictures;
pub use pipeline::{Decoded, Extras, Generated, Pipeline, PipelineError, decode_each};
pub use preflight::check_adapter;
pub use record::{AdapterRecord, FileRecord, ModelRecord, Record};
pub use request::{
    DEFAULT_NEGATIVE_PROMPT, DEFAULT_PROMPT, GenerateRequest, MAX_IMAGES, MAX_SIDE, NoiseDtype, RequestError,
};
pub use reuse::UnetCall;
pub use sampler::{Ddim, Sampler, SamplerKind, UnknownSampler};
pub use schedule::NoiseSchedule;
pub use scheduler_file::SchedulerFile;
