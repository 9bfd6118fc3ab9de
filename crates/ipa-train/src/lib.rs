//! Adapter training by the reference's recipe (arXiv:2308.06721 §4.1) with exact resume, and, in [`pretrain`], the
//! loops that make the pocket model.
//!
//! Every draw depends on (seed, purpose, step) alone, so a resumed run is the uninterrupted one bit for bit. Knows
//! nothing of command lines.
//!
//! ```no_run
//! use std::ops::ControlFlow;
//! use ipa_core::tch::{Device, Kind};
//! use ipa_train::{Dataset, Event, FrozenModels, TrainConfig, Trainer};
//!
//! let models = FrozenModels::load("model".as_ref(), None, (Device::Cpu, Kind::Float))?;
//! let dataset = Dataset::open("pictures/data.json".as_ref())?;
//! let mut trainer = Trainer::new(&models, &dataset, TrainConfig::mini(512), None)?;
//! trainer.run("out".as_ref(), |event| {
//!     if let Event::Step { progress, .. } = event {
//!         println!("{} of {}: {}", progress.step, progress.steps, progress.loss);
//!     }
//!     ControlFlow::Continue(())
//! })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod adamw;
mod checkpoint;
mod config;
mod dataset;
mod encode;
mod gradients;
mod identity;
mod json_lines;
mod losses;
mod low_rank;
mod metadata;
mod models;
mod objective;
pub mod pretrain;
mod recompute;
mod trainer;
mod tune;
mod validation;
mod variant;
pub mod watch;
mod whole_unet;

pub use adamw::{AdamW, AdamWConfig, Ema};
pub use checkpoint::{check_unused, latest_checkpoint};
pub use config::{
    AdapterSettings, Cache, CropChoice, DataSettings, LearningRate, Memory, ModelSettings, ObjectiveSettings,
    OptimizerSettings, OutputSettings, Preset, ScheduleSettings, TrainConfig,
};
pub use dataset::{
    Buckets, CheckSettings, CheckedRow, Crop, DataError, Dataset, DatasetCheck, Finding, Overflow, Place, RowDrops,
    Sample, Source, Split, batches, check_dataset, resize_to_cover, training_pixels,
};
pub use encode::{EncodedRow, Reads, RowEncoder, View};
pub use low_rank::LowRankUnet;
pub use models::{EncodeError, FrozenModels, ModelsError};
pub use objective::{Batch, Drops, drops, training_loss};
pub use recompute::backward_by_segments;
pub use trainer::{ADAPTER_FILE, BEST, CONFIG_FILE, Event, Forecast, REPORT_FILE, TrainError, Trainer};
pub use tune::{BEST_CONFIG, Search, Strength, Trial, TuneEvent, TuneSettings, Tuned};
pub use validation::{
    Best, HeldOut, Metric, Validation, ValidationError, ValidationProgress, ValidationResult, ValidationSettings,
    read_results, scoring_clip, write_results,
};
pub use variant::{FeatureKind, Variant};
pub use watch::Progress;
