//! The recipe of a run, in sections as its TOML file has them.

mod check;
mod file;
mod presets;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub(crate) use check::refuse;
pub use presets::{Memory, Preset};

use crate::validation::ValidationSettings;
use crate::{FeatureKind, Variant};

/// The recipe of a run; [`TrainConfig::mini`] is for a handful of pictures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// Decides order, noise, timesteps and drops.
    pub seed: u64,
    /// What stays as it is.
    pub model: ModelSettings,
    /// What is trained.
    pub adapter: AdapterSettings,
    /// What it learns from.
    pub data: DataSettings,
    /// How it moves.
    pub optimizer: OptimizerSettings,
    /// How long, and how fast when.
    pub schedule: ScheduleSettings,
    /// What is minimised.
    pub objective: ObjectiveSettings,
    /// How it is judged on rows that it does not learn from.
    pub validation: ValidationSettings,
    /// What is kept.
    pub output: OutputSettings,
}

/// What stays as it is, and where it computes; names and paths, which a run's results do not depend on.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelSettings {
    /// Base model: a folder, a single file or `pocket`.
    pub base: Option<String>,
    /// Folder of the image encoder; without one the model's own.
    pub image_encoder: Option<PathBuf>,
    /// Adapter to begin with.
    pub init_adapter: Option<PathBuf>,
    /// What that is, where its tensors do not show it.
    pub init_variant: Option<String>,
    /// How its layers are numbered, `published` or `dense`.
    pub init_numbering: Option<String>,
    /// Folder of a whole CLIP that scores validations; without one the model's own `clip`, if it has one.
    pub clip: Option<PathBuf>,
    /// `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
    pub device: Option<String>,
    /// `auto`, `f32`, `f16` or `bf16`: what the frozen models compute in; the adapter is f32.
    pub dtype: Option<String>,
    /// Compute parts of the UNet again on the way back instead of keeping what they computed: less memory, more time.
    pub recompute: bool,
}

/// What is trained.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdapterSettings {
    /// Kind of adapter; without one that of the adapter it begins with, or classic, or plus for fine features.
    pub variant: Option<Variant>,
    /// What it reads of pictures; without them [`Variant::usual_features`].
    pub features: Option<FeatureKind>,
    /// Tokens a picture becomes; without a number 4 from global, 16 from fine features.
    pub num_tokens: Option<i64>,
    /// Rank of the changes to the UNet that face adapters bring; without a number the published 128.
    pub lora_rank: Option<i64>,
    /// The UNet's own weights learn too, and are written as `unet/`: what adapters are compared with.
    pub train_unet: bool,
}

/// What it learns from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataSettings {
    /// List, folder or shards of captioned pictures.
    pub path: Option<PathBuf>,
    /// Side of the training pictures in pixels, a multiple of 8.
    pub resolution: u32,
    /// Further sides; every step draws one of all of them.
    pub more_resolutions: Vec<u32>,
    /// Pictures keep their shape as far as multiples of this many pixels allow, in steps of pictures of one shape; none makes
    /// all of them square.
    pub bucket_step: Option<u32>,
    /// What of a picture is cut off where its shape is another.
    pub crop: CropChoice,
    /// Share of rows that are mirrored.
    pub flip: f64,
    /// Share of rows whose picture is left out, so that guidance has something to lead away from.
    pub image_drop: f64,
    /// Share of rows whose caption is left out.
    pub text_drop: f64,
    /// Share of rows that lose both.
    pub both_drop: f64,
    /// Where what the frozen encoders make of rows is kept.
    pub cache: Cache,
    /// Folder of a cache on the disk, which any number of runs may share.
    pub cache_folder: Option<PathBuf>,
    /// Most that a cache takes, GiB; what is beyond it is computed anew.
    pub cache_gib: f64,
}

/// What is cut off of a picture.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CropChoice {
    /// As much on either side: the reference's.
    #[default]
    Center,
    /// Anew in every step, so that latents cannot be kept.
    Random,
}

/// Where what the frozen encoders make of rows is kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cache {
    /// In memory.
    #[default]
    Memory,
    /// In files, for the next run too.
    Disk,
    /// Nowhere: computed in every step.
    None,
}

/// How the adapter moves: AdamW.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OptimizerSettings {
    /// Step size at its largest.
    pub learning_rate: f64,
    /// Decay of every parameter.
    pub weight_decay: f64,
    /// Length that gradients are shortened to; none leaves them.
    pub max_grad_norm: Option<f64>,
    /// Decay of the average of all steps, which then is what is written; none writes the last step.
    pub ema_decay: Option<f64>,
}

/// How long, and how fast when.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScheduleSettings {
    /// Passes over the data, at most a million.
    pub epochs: u64,
    /// Steps after which the run ends, if the epochs are longer.
    pub max_steps: Option<u64>,
    /// Rows that go through the model at once.
    pub batch: usize,
    /// How many such go into one step; the last step of an epoch may have fewer rows.
    pub accumulation: usize,
    /// Course of the learning rate.
    pub learning_rate: LearningRate,
    /// Steps in which the learning rate rises from 0.
    pub warmup_steps: u64,
}

/// Course of the learning rate after its rise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LearningRate {
    /// The same to the end: the reference's.
    #[default]
    Constant,
    /// Straight down to 0.
    Linear,
    /// Down to 0 along half a cosine.
    Cosine,
}

/// What is minimised.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ObjectiveSettings {
    /// γ of min-SNR weighting (arXiv:2303.09556 §3.4), 5 there; none weighs all timesteps alike.
    pub min_snr_gamma: Option<f64>,
    /// Deviation of a shift of the whole noise, by picture and channel.
    pub noise_offset: f64,
    /// Deviation of what is added to the noise that the model sees and not to the target (arXiv:2301.11706).
    pub input_perturbation: f64,
    /// First timestep that is drawn.
    pub first_timestep: i64,
    /// Last one; none is the schedule's last.
    pub last_timestep: Option<i64>,
}

/// What is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OutputSettings {
    /// Where it goes.
    pub folder: Option<PathBuf>,
    /// Steps between checkpoints.
    pub save_steps: u64,
    /// How many checkpoints are kept, the latest.
    pub keep_checkpoints: usize,
    /// Event files for TensorBoard.
    pub tensorboard: bool,
    /// `training_report.html`.
    pub report: bool,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self::mini(512)
    }
}

impl Default for DataSettings {
    fn default() -> Self {
        Self {
            path: None,
            resolution: 512,
            more_resolutions: Vec::new(),
            bucket_step: None,
            crop: CropChoice::Center,
            flip: 0.0,
            image_drop: 0.05,
            text_drop: 0.05,
            both_drop: 0.05,
            cache: Cache::Memory,
            cache_folder: None,
            cache_gib: 4.0,
        }
    }
}

impl Default for OptimizerSettings {
    fn default() -> Self {
        Self { learning_rate: 1e-4, weight_decay: 1e-2, max_grad_norm: None, ema_decay: None }
    }
}

impl Default for ScheduleSettings {
    fn default() -> Self {
        Self {
            epochs: 10,
            max_steps: None,
            batch: 1,
            accumulation: 1,
            learning_rate: LearningRate::Constant,
            warmup_steps: 0,
        }
    }
}

impl Default for OutputSettings {
    fn default() -> Self {
        Self { folder: None, save_steps: 5, keep_checkpoints: 3, tensorboard: false, report: true }
    }
}

impl ScheduleSettings {
    /// Factor on the learning rate of a step, counted from 0, of so many.
    ///
    /// Parity: diffusers' `get_scheduler`, whose first step of a warm-up has 0.
    pub fn factor(&self, step: u64, steps: u64) -> f64 {
        let warmup = self.warmup_steps;
        if step < warmup {
            return step as f64 / warmup as f64;
        }
        let length = steps.saturating_sub(warmup).max(1) as f64;
        let progress = (step - warmup) as f64 / length;
        match self.learning_rate {
            LearningRate::Constant => 1.0,
            LearningRate::Linear => (1.0 - progress).max(0.0),
            LearningRate::Cosine => (0.5 * (1.0 + (std::f64::consts::PI * progress).cos())).max(0.0),
        }
    }

    /// Rows of a step.
    pub(crate) fn rows(&self) -> usize {
        self.batch * self.accumulation
    }
}

impl TrainConfig {
    /// Without names, paths and what else the steps do not depend on: what a finished adapter says of its training.
    pub fn recorded(&self) -> Self {
        let data =
            DataSettings { path: None, cache: Cache::Memory, cache_folder: None, cache_gib: 4.0, ..self.data.clone() };
        let output = OutputSettings { folder: None, tensorboard: false, report: true, ..self.output.clone() };
        let model = ModelSettings { recompute: self.model.recompute, ..ModelSettings::default() };
        // Where patience may end a run, its end depends on all of them.
        let validation = match self.validation.patience {
            Some(_) => self.validation.clone(),
            None => ValidationSettings { held_out: self.validation.held_out, ..ValidationSettings::default() },
        };
        Self { model, data, output, validation, ..self.clone() }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::TrainError;

    fn factors(learning_rate: LearningRate, warmup_steps: u64) -> Vec<f64> {
        let schedule = ScheduleSettings { learning_rate, warmup_steps, ..ScheduleSettings::default() };
        (0..10).map(|step| schedule.factor(step, 10)).collect()
    }

    /// Reference values: `diffusers.optimization.get_scheduler(name, optimizer, num_warmup_steps=2,
    /// num_training_steps=10)` of diffusers 0.42.1.
    #[test]
    fn learning_rates_are_those_of_diffusers() {
        let cosine = [
            0.0,
            0.5,
            1.0,
            0.961_939_766_255_643_4,
            0.853_553_390_593_273_8,
            0.691_341_716_182_544_9,
            0.5,
            0.308_658_283_817_455_2,
            0.146_446_609_406_726_24,
            0.038_060_233_744_356_63,
        ];
        let close = |found: &[f64], expected: &[f64]| found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12);
        assert!(close(&factors(LearningRate::Cosine, 2), &cosine));
        let linear = [0.0, 0.5, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125];
        assert!(close(&factors(LearningRate::Linear, 2), &linear));
        let constant = [0.0, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0];
        assert!(close(&factors(LearningRate::Constant, 2), &constant));
        assert_eq!(factors(LearningRate::Constant, 0), [1.0; 10]);
    }

    pub(super) fn read(text: &str, base: &TrainConfig) -> Result<TrainConfig, TrainError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.toml");
        std::fs::write(&path, text).unwrap();
        TrainConfig::from_toml(&path, base)
    }

    /// The file in docs/training.md is read, and names every field there is.
    #[test]
    fn every_field_is_documented() {
        let document = include_str!("../../../../docs/training.md");
        let example = document.split("```toml").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
        let config: TrainConfig = toml::from_str(example).unwrap(); // its paths as they stand
        config.check().unwrap();
        let (fields, given): (toml::Table, toml::Table) =
            (toml::Table::try_from(&config).unwrap(), toml::from_str(example).unwrap());
        assert_eq!(fields, given, "a field is missing in the example, or has a default that it does not show");
        for (section, fields) in fields.iter().filter_map(|(name, value)| Some((name, value.as_table()?))) {
            let of_section = |field: &String| document.contains(&format!("`{section}.{field}`"));
            let beside = |field: &String| document.contains(&format!(", `{field}`"));
            let missing: Vec<&String> = fields.keys().filter(|field| !of_section(field) && !beside(field)).collect();
            assert!(missing.is_empty(), "{section}: {missing:?}");
        }
    }
}
