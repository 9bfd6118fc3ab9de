//! What all samplers read of `scheduler_config.json`.

use std::path::Path;

use ipa_core::{Config, WeightsError};
use serde::{Deserialize, Serialize};

use crate::{SamplerKind, SchedulerFile};

/// Far above every published model, far below what exhausts a machine.
const MAX_TIMESTEPS: i64 = 1_000_000;

/// How the betas between first and last are spaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BetaSchedule {
    /// Evenly.
    Linear,
    /// Their square roots evenly: Stable Diffusion.
    ScaledLinear,
    /// By a squared cosine of ᾱ, arXiv:2102.09672 Eq. 17; first and last beta have no part in it.
    SquaredcosCapV2,
}

/// What the UNet was trained to predict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PredictionType {
    /// The noise: Stable Diffusion 1.x.
    Epsilon,
    /// The velocity of arXiv:2202.00512.
    VPrediction,
    /// The clean latents.
    Sample,
}

/// Which of the training timesteps a sampler visits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimestepSpacing {
    /// Multiples of a whole step, from `steps_offset`.
    Leading,
    /// Evenly from first to last, rounded.
    Linspace,
    /// Evenly down from the last.
    Trailing,
}

/// What all samplers read of `scheduler_config.json`, with every field filled in for one of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SchedulerConfig {
    /// The sampler that the model names for itself, such as `PNDMScheduler`.
    #[serde(rename = "_class_name")]
    pub class_name: String,
    /// Timesteps of training.
    pub num_train_timesteps: i64,
    /// First beta.
    pub beta_start: f64,
    /// Last beta.
    pub beta_end: f64,
    /// Their spacing.
    pub beta_schedule: BetaSchedule,
    /// What the UNet predicts.
    pub prediction_type: PredictionType,
    /// Which timesteps are visited.
    pub timestep_spacing: TimestepSpacing,
    /// Added to every timestep of [`TimestepSpacing::Leading`].
    pub steps_offset: i64,
    /// Whether the last step ends at no noise at all (`true`) or at that of timestep 0.
    pub set_alpha_to_one: bool,
    /// Betas given one by one, in place of first and last.
    pub trained_betas: Option<Vec<f64>>,
    /// Whether the schedule is rescaled to end in pure noise, arXiv:2305.08891 §3.1.
    pub rescale_betas_zero_snr: bool,
    /// Whether estimates of x₀ are clipped by quantile; not computed here.
    pub thresholding: bool,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        Self::of_kind(SamplerKind::Ddim)
    }
}

impl SchedulerConfig {
    /// The values that diffusers' scheduler takes for fields that nobody gives it.
    pub fn of_kind(kind: SamplerKind) -> Self {
        let beta_schedule = match kind {
            SamplerKind::Lcm => BetaSchedule::ScaledLinear,
            _ => BetaSchedule::Linear,
        };
        let (beta_start, beta_end) = match kind {
            SamplerKind::Lcm | SamplerKind::Heun => (0.00085, 0.012),
            _ => (0.0001, 0.02),
        };
        let timestep_spacing = match kind {
            SamplerKind::Ddim | SamplerKind::Ddpm | SamplerKind::Pndm | SamplerKind::Lcm => TimestepSpacing::Leading,
            _ => TimestepSpacing::Linspace,
        };
        Self {
            class_name: kind.class_name().to_owned(),
            num_train_timesteps: 1000,
            beta_start,
            beta_end,
            beta_schedule,
            prediction_type: PredictionType::Epsilon,
            timestep_spacing,
            steps_offset: 0,
            set_alpha_to_one: kind != SamplerKind::Pndm,
            trained_betas: None,
            rescale_betas_zero_snr: false,
            thresholding: false,
        }
    }

    /// Stable Diffusion 1.x with the DDIM settings of the reference's demos.
    pub fn sd15_ddim() -> Self {
        Self {
            beta_start: 0.00085,
            beta_end: 0.012,
            beta_schedule: BetaSchedule::ScaledLinear,
            steps_offset: 1,
            set_alpha_to_one: false,
            ..Self::default()
        }
    }

    /// [`SchedulerFile::own_config`] of a model's `scheduler` folder.
    ///
    /// # Errors
    /// [`WeightsError`] naming the file and the field at fault.
    pub fn from_folder(folder: &Path) -> Result<Self, WeightsError> {
        SchedulerFile::open(folder)?.own_config()
    }
}

impl Config for SchedulerConfig {
    fn check(&self) -> Result<(), String> {
        if self.thresholding {
            return Err("`thresholding` is set, which is not built yet: choose a model without it".to_owned());
        }
        if !(1..=MAX_TIMESTEPS).contains(&self.num_train_timesteps) {
            let found = self.num_train_timesteps;
            return Err(format!("`num_train_timesteps` is {found}; expected 1 to {MAX_TIMESTEPS}, 1000 is usual"));
        }
        let given = self.trained_betas.as_deref();
        if let Some(betas) = given.filter(|betas| betas.len() as i64 != self.num_train_timesteps) {
            let (found, expected) = (betas.len(), self.num_train_timesteps);
            return Err(format!("`trained_betas` has {found} values, `num_train_timesteps` is {expected}"));
        }
        let ends = [("beta_start", self.beta_start), ("beta_end", self.beta_end)];
        let betas = given.unwrap_or_default().iter().map(|&beta| ("trained_betas", beta));
        match ends.into_iter().chain(betas).find(|(_, beta)| !(0.0..1.0).contains(beta)) {
            Some((name, beta)) => Err(format!("`{name}` is {beta}; expected 0 to less than 1")),
            None => Ok(()),
        }
    }
}
