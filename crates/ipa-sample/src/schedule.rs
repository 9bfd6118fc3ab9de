//! The noise schedule of a model.

use std::path::Path;

use ipa_core::tch::{Device, Kind, Tensor};
use ipa_formats::FormatError;
use serde::{Deserialize, Serialize};

/// How the betas between first and last are spaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BetaSchedule {
    /// Evenly.
    Linear,
    /// Their square roots evenly: Stable Diffusion.
    ScaledLinear,
}

/// What the UNet was trained to predict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PredictionType {
    /// The noise: Stable Diffusion 1.x.
    Epsilon,
    /// The velocity of arXiv:2202.00512.
    VPrediction,
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

/// `scheduler_config.json`; fields that a file leaves out have diffusers' DDIM defaults.
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
    /// Betas given one by one; not computed here.
    pub trained_betas: Option<Vec<f64>>,
    /// Whether the schedule is rescaled to end in pure noise; not computed here.
    pub rescale_betas_zero_snr: bool,
    /// Whether estimates of x₀ are clipped by quantile; not computed here.
    pub thresholding: bool,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        Self {
            class_name: "DDIMScheduler".to_owned(),
            num_train_timesteps: 1000,
            beta_start: 0.0001,
            beta_end: 0.02,
            beta_schedule: BetaSchedule::Linear,
            prediction_type: PredictionType::Epsilon,
            timestep_spacing: TimestepSpacing::Leading,
            steps_offset: 0,
            set_alpha_to_one: true,
            trained_betas: None,
            rescale_betas_zero_snr: false,
            thresholding: false,
        }
    }
}

impl SchedulerConfig {
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

    /// Reads `scheduler_config.json` of a model's `scheduler` folder.
    ///
    /// # Errors
    /// [`FormatError`] naming the file and the field at fault.
    pub fn from_folder(folder: &Path) -> Result<Self, FormatError> {
        let config: Self = ipa_formats::read_json(&folder.join("scheduler_config.json"))?;
        // Parity: diffusers' pipelines force this for Stable Diffusion, whatever the file says.
        Ok(Self { steps_offset: 1, ..config })
    }
}

/// Noise levels of every training timestep (arXiv:2006.11239).
#[derive(Debug)]
pub struct NoiseSchedule {
    alphas_cumprod: Tensor,
}

impl NoiseSchedule {
    /// The levels that `config` describes.
    ///
    /// # Panics
    /// If it has no timesteps.
    pub fn new(config: &SchedulerConfig) -> Self {
        let options = (Kind::Float, Device::Cpu);
        let SchedulerConfig { beta_start, beta_end, num_train_timesteps, .. } = *config;
        // Parity: the same tensor operations in f32, so that every digit is the reference's.
        let betas = match config.beta_schedule {
            BetaSchedule::Linear => Tensor::linspace(beta_start, beta_end, num_train_timesteps, options),
            BetaSchedule::ScaledLinear => {
                Tensor::linspace(beta_start.sqrt(), beta_end.sqrt(), num_train_timesteps, options).square()
            }
        };
        let alphas: Tensor = 1.0 - betas;
        Self { alphas_cumprod: alphas.cumprod(0, Kind::Float) }
    }

    /// Number of training timesteps.
    pub fn len(&self) -> i64 {
        self.alphas_cumprod.size()[0]
    }

    /// Whether there is no timestep: never.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// ᾱ of every timestep, `[len]`, f32 on the CPU.
    pub fn alphas_cumprod(&self) -> &Tensor {
        &self.alphas_cumprod
    }

    /// ᾱ of one timestep.
    ///
    /// # Panics
    /// If there is no such timestep.
    pub fn alpha_cumprod(&self, timestep: i64) -> f64 {
        self.alphas_cumprod.double_value(&[timestep])
    }

    /// `√ᾱ_t x₀ + √(1 − ᾱ_t) ε` for every sample's own timestep; the kind of `latents` throughout, as the reference.
    ///
    /// # Shapes
    /// - `latents`, `noise`: `[batch, ..]`; `timesteps`: `[batch]`, integers
    pub fn add_noise(&self, latents: &Tensor, noise: &Tensor, timesteps: &Tensor) -> Tensor {
        let acp = self.alphas_cumprod.to_kind(latents.kind()).to_device(latents.device());
        let mut shape = vec![1; latents.dim()];
        shape[0] = -1;
        let acp = acp.index_select(0, &timesteps.to_device(latents.device())).view(shape.as_slice());
        let noise_level: Tensor = 1.0 - &acp;
        acp.sqrt() * latents + noise_level.sqrt() * noise
    }
}
