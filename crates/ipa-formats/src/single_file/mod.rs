//! Single-file checkpoints of Stable Diffusion 1.x and 2.x, and the diffusers folders they stand for.
//!
//! A single file has the names of the LDM code base (`model.diffusion_model.input_blocks.1.0…`), a
//! folder those of diffusers (`down_blocks.0.resnets.0…`). Everything here follows from names, element
//! types and sizes; data is touched by [`TensorPlan::apply`] alone, which moves bytes.
//!
//! - [`read_single_file`] recognises a file and plans the tensors and configurations of its folder;
//! - [`plan_single_file`] plans the way back;
//! - [`is_single_file`] is the quick question before.
//!
//! Source: diffusers' `loaders/single_file_utils.py` (version 0.42), whose conversion is followed to the byte.

mod configs;
mod error;
mod info;
mod names;
mod options;
mod others;
mod parts;
mod plan;
mod read;
mod text;
mod unet;
mod vae;
mod write;

pub use configs::ComponentConfigs;
pub use error::SingleFileError;
pub use info::{ModelTask, ModelVersion, SingleFileInfo};
pub use options::{PredictionType, SingleFileOptions};
pub use plan::{Component, Operation, TensorPlan};
pub use read::{SingleFile, is_single_file, read_single_file};
pub(crate) use unet::ldm_module;
pub use write::{FolderTensors, plan_single_file};
