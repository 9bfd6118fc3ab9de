//! Denoising diffusion probabilistic models, arXiv:2006.11239.

use ipa_core::tch::Tensor;
use serde::Deserialize;

use super::ddim::clipped;
use super::level::Level;
use super::{Sampler, SamplerKind, drawn, spacing};
use crate::{NoiseSchedule, PipelineError, PredictionType, SchedulerConfig, SchedulerFile};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Settings {
    variance_type: Variance,
}

/// Variance of the reverse process, §3.2.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::enum_variant_names, reason = "the names of scheduler_config.json")]
enum Variance {
    /// β̃.
    #[default]
    FixedSmall,
    /// β̃ by way of its logarithm.
    FixedSmallLog,
    /// β.
    FixedLarge,
}

/// What one step needs.
#[derive(Debug, Clone, Copy)]
struct DdpmStep {
    level: Level,
    /// Of x₀ in the posterior's mean, Eq. 7.
    x0: f64,
    /// Of the sample in it.
    sample: f64,
    /// Square root of the variance.
    noise: f64,
}

/// The posterior of every visited timestep given x₀.
#[derive(Debug)]
pub(super) struct Ddpm {
    timesteps: Vec<f64>,
    steps: Vec<DdpmStep>,
    clip: Option<f64>,
    prediction_type: PredictionType,
    schedule: NoiseSchedule,
}

impl Ddpm {
    pub(super) fn build(
        file: &SchedulerFile,
        config: &SchedulerConfig,
        num_steps: usize,
    ) -> Result<Self, PipelineError> {
        let Settings { variance_type } = file.settings()?;
        let schedule = NoiseSchedule::new(config);
        let timesteps = spacing::whole(config, num_steps);
        let step = |index: usize| {
            let acp = schedule.alpha_cumprod_at(timesteps[index]);
            let prev = timesteps.get(index + 1).map_or(1.0, |&next| schedule.alpha_cumprod_at(next));
            let (alpha, beta) = (acp / prev, 1.0 - acp / prev);
            let posterior = ((1.0 - prev) / (1.0 - acp) * beta).max(1e-20);
            let variance = match variance_type {
                Variance::FixedSmall | Variance::FixedSmallLog => posterior,
                Variance::FixedLarge => beta,
            };
            DdpmStep {
                level: Level::of_alpha_cumprod(acp),
                x0: prev.sqrt() * beta / (1.0 - acp),
                sample: alpha.sqrt() * (1.0 - prev) / (1.0 - acp),
                noise: variance.sqrt(),
            }
        };
        let steps = (0..timesteps.len()).map(step).collect();
        let clip = file.clip_range(SamplerKind::Ddpm)?;
        Ok(Self { timesteps, steps, clip, prediction_type: config.prediction_type, schedule })
    }
}

impl Sampler for Ddpm {
    fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    fn draws_noise(&self, index: usize) -> bool {
        self.timesteps[index] > 0.0
    }

    /// Eq. 7 and Eq. 11.
    fn step(&mut self, index: usize, model_output: &Tensor, sample: &Tensor, noise: Option<&Tensor>) -> Tensor {
        let step = self.steps[index];
        let pred_x0 = clipped(step.level.pred_x0(self.prediction_type, model_output, sample), self.clip);
        let mean = pred_x0 * step.x0 + sample * step.sample;
        match self.draws_noise(index) {
            true => mean + drawn(noise) * step.noise,
            false => mean,
        }
    }

    fn add_noise(&self, index: usize, latents: &Tensor, noise: &Tensor) -> Tensor {
        self.schedule.add_noise_at(self.timesteps[index], latents, noise)
    }
}
