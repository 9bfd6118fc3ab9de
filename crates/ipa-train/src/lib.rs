//! Adapter training by the reference's recipe (arXiv:2308.06721 §4.1) with exact resume, and, in [`pretrain`], the
//! loops that make the pocket model.
//!
//! Every draw depends on (seed, purpose, step) alone, so a resumed run is the uninterrupted one bit for bit. Knows
//! nothing of command lines.
//!
//! ```no_run
//! use std::ops::ControlFlow;
//! use ipa_core::tch::{Device, Kind};
//! use ipa_train::{Dataset, FrozenModels, TrainConfig, Trainer};
//!
//! let models = FrozenModels::load("model".as_ref(), None, (Device::Cpu, Kind::Float))?;
//! let dataset = Dataset::open("pictures/data.json".as_ref())?;
//! let mut trainer = Trainer::new(&models, &dataset, TrainConfig::mini(512), None, |_| {})?;
//! trainer.run("out".as_ref(), |progress| {
//!     println!("{} of {}: {}", progress.step, progress.steps, progress.loss);
//!     ControlFlow::Continue(())
//! })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod adamw;
mod checkpoint;
mod config;
mod data;
mod gradients;
mod identity;
mod json_lines;
mod losses;
mod metadata;
mod models;
mod objective;
pub mod pretrain;
mod recompute;
mod trainer;
mod validation;
mod variant;

pub use adamw::{AdamW, AdamWConfig, Ema};
pub use checkpoint::{check_unused, latest_checkpoint};
pub use config::{
    AdapterSettings, DataSettings, LearningRate, ObjectiveSettings, OptimizerSettings, OutputSettings,
    ScheduleSettings, TrainConfig,
};
pub use data::{DataError, Dataset, Row, training_pixels};
pub use models::{EncodeError, EncodedRow, FrozenModels, ModelsError};
pub use objective::{Batch, Drops, drops, training_loss};
pub use recompute::backward_by_segments;
pub use trainer::{Progress, TrainError, Trainer};
pub use validation::{
    Best, HeldOut, Metric, Validation, ValidationError, ValidationProgress, ValidationResult, ValidationSettings,
    read_results, scoring_clip, write_results,
};
pub use variant::{FeatureKind, Variant};
