//! Latent consistency models, arXiv:2310.04378.

use ipa_core::tch::Tensor;
use serde::Deserialize;

use super::ddim::clipped;
use super::level::Level;
use super::{Sampler, SamplerKind, drawn, num_steps_error};
use crate::{NoiseSchedule, PipelineError, PredictionType, SchedulerConfig, SchedulerFile};

const SIGMA_DATA: f64 = 0.5;

#[derive(Debug, Deserialize)]
#[serde(default)]
struct Settings {
    /// Steps of the sampler that the model was distilled from.
    original_inference_steps: i64,
    timestep_scaling: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { original_inference_steps: 50, timestep_scaling: 10.0 }
    }
}

/// What one step needs.
#[derive(Debug, Clone, Copy)]
struct LcmStep {
    level: Level,
    skip: f64,
    out: f64,
    /// Of the next step.
    next: Option<Level>,
}

#[derive(Debug)]
pub(super) struct Lcm {
    timesteps: Vec<f64>,
    steps: Vec<LcmStep>,
    clip: Option<f64>,
    prediction_type: PredictionType,
    schedule: NoiseSchedule,
}

impl Lcm {
    pub(super) fn build(
        file: &SchedulerFile,
        config: &SchedulerConfig,
        num_steps: usize,
    ) -> Result<Self, PipelineError> {
        let Settings { original_inference_steps: original, timestep_scaling } = file.settings()?;
        if !(1..=config.num_train_timesteps).contains(&original) {
            let allowed = "expected 1 to `num_train_timesteps`";
            return Err(file.refusal(format!("`original_inference_steps` is {original}; {allowed}")).into());
        }
        if num_steps as i64 > original {
            let allowed = "choose at most the `original_inference_steps` of the model's scheduler_config.json (50 if \
                           it has none) for the sampler lcm; 4 to 8 are usual";
            return Err(num_steps_error(num_steps, allowed));
        }
        let schedule = NoiseSchedule::new(config);
        let timesteps = timesteps(config.num_train_timesteps, original, num_steps);
        let level = |timestep: f64| Level::of_alpha_cumprod(schedule.alpha_cumprod_at(timestep));
        let step = |index: usize| {
            let scaled = timesteps[index] * timestep_scaling;
            let variance = scaled * scaled + SIGMA_DATA * SIGMA_DATA;
            LcmStep {
                level: level(timesteps[index]),
                skip: SIGMA_DATA * SIGMA_DATA / variance,
                out: scaled / variance.sqrt(),
                next: timesteps.get(index + 1).map(|&next| level(next)),
            }
        };
        let steps = (0..num_steps).map(step).collect();
        let clip = file.clip_range(SamplerKind::Lcm)?;
        Ok(Self { timesteps, steps, clip, prediction_type: config.prediction_type, schedule })
    }
}

/// An even choice of the distillation's timesteps, the latest first.
fn timesteps(num_train: i64, original: i64, num_steps: usize) -> Vec<f64> {
    let ratio = num_train / original;
    let step = original as f64 / num_steps as f64;
    (0..num_steps).map(|i| ((original - (i as f64 * step).floor() as i64) * ratio - 1) as f64).collect()
}

impl Sampler for Lcm {
    fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    fn draws_noise(&self, index: usize) -> bool {
        index + 1 < self.steps.len()
    }

    /// The consistency function, Eq. 9 with the boundary condition's scalings; then noise of the next level.
    fn step(&mut self, index: usize, model_output: &Tensor, sample: &Tensor, noise: Option<&Tensor>) -> Tensor {
        let LcmStep { level, skip, out, next } = self.steps[index];
        let pred_x0 = clipped(level.pred_x0(self.prediction_type, model_output, sample), self.clip);
        let denoised = pred_x0 * out + sample * skip;
        match next {
            Some(next) => next.add_noise(&denoised, drawn(noise)),
            None => denoised,
        }
    }

    fn add_noise(&self, index: usize, latents: &Tensor, noise: &Tensor) -> Tensor {
        self.schedule.add_noise_at(self.timesteps[index], latents, noise)
    }
}
