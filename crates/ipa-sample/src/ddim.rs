//! Denoising diffusion implicit models, arXiv:2010.02502.

use ipa_core::tch::Tensor;

use crate::{NoiseSchedule, PredictionType, SchedulerConfig, TimestepSpacing};

/// What one step needs.
#[derive(Debug, Clone, Copy, PartialEq)]
struct DdimStep {
    timestep: i64,
    alpha_cumprod: f64,
    alpha_cumprod_prev: f64,
}

/// The deterministic sampler (η = 0) over a subset of the training timesteps.
#[derive(Debug, Clone)]
pub struct Ddim {
    steps: Vec<DdimStep>,
    prediction_type: PredictionType,
}

impl Ddim {
    /// A sampler of `num_steps` steps, at most one for each training timestep.
    ///
    /// # Panics
    /// If `num_steps` is 0 or more than that; requests are checked before.
    pub fn new(schedule: &NoiseSchedule, config: &SchedulerConfig, num_steps: usize) -> Self {
        let num_train = schedule.len();
        assert!((1..=num_train as usize).contains(&num_steps), "{num_steps} steps of {num_train}");
        let ratio = num_train / num_steps as i64;
        let last = if config.set_alpha_to_one { 1.0 } else { schedule.alpha_cumprod(0) };
        let step = |timestep: i64| DdimStep {
            timestep,
            alpha_cumprod: schedule.alpha_cumprod(timestep),
            // Parity: one ratio below, also where the spacing visits another timestep next.
            alpha_cumprod_prev: if timestep >= ratio { schedule.alpha_cumprod(timestep - ratio) } else { last },
        };
        let steps = timesteps(config, num_train, num_steps).into_iter().map(step).collect();
        Self { steps, prediction_type: config.prediction_type }
    }

    /// The timesteps to call the model at, falling.
    pub fn timesteps(&self) -> impl Iterator<Item = i64> {
        self.steps.iter().map(|step| step.timestep)
    }

    /// One deterministic step, arXiv:2010.02502 Eq. 12 with σ = 0; `model_output` as the model predicts it.
    ///
    /// # Panics
    /// If `index` is not that of a step.
    pub fn step(&self, index: usize, model_output: &Tensor, latents: &Tensor) -> Tensor {
        let DdimStep { alpha_cumprod, alpha_cumprod_prev, .. } = self.steps[index];
        let (signal, noise) = (alpha_cumprod.sqrt(), (1.0 - alpha_cumprod).sqrt());
        let (pred_x0, noise_pred) = match self.prediction_type {
            PredictionType::Epsilon => ((latents - model_output * noise) / signal, model_output.shallow_clone()),
            PredictionType::VPrediction => {
                (latents * signal - model_output * noise, model_output * signal + latents * noise)
            }
        };
        pred_x0 * alpha_cumprod_prev.sqrt() + noise_pred * (1.0 - alpha_cumprod_prev).sqrt()
    }
}

fn timesteps(config: &SchedulerConfig, num_train: i64, num_steps: usize) -> Vec<i64> {
    let n = num_steps as i64;
    match config.timestep_spacing {
        TimestepSpacing::Leading => {
            let latest = num_train - 1;
            (0..n).rev().map(|i| (i * (num_train / n) + config.steps_offset).min(latest)).collect()
        }
        TimestepSpacing::Linspace => {
            let step = if n > 1 { (num_train - 1) as f64 / (n - 1) as f64 } else { 0.0 };
            (0..n).rev().map(|i| (i as f64 * step).round_ties_even() as i64).collect()
        }
        TimestepSpacing::Trailing => {
            let step = num_train as f64 / n as f64;
            (0..n).map(|i| (num_train as f64 - i as f64 * step).round_ties_even() as i64 - 1).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipa_core::noise::Draws;

    #[test]
    fn given_the_true_noise_every_step_stays_on_the_line_between_picture_and_noise() {
        let config = SchedulerConfig::sd15_ddim();
        let schedule = NoiseSchedule::new(&config);
        let ddim = Ddim::new(&schedule, &config, 10);
        let mut draws = Draws::seeded(3);
        let (x0, noise) = (draws.normal(&[1, 4, 8, 8]), draws.normal(&[1, 4, 8, 8]));
        let mix = |acp: f64| &x0 * acp.sqrt() + &noise * (1.0 - acp).sqrt();
        for (index, step) in ddim.steps.iter().enumerate() {
            let stepped = ddim.step(index, &noise, &mix(step.alpha_cumprod));
            let error = (stepped - mix(step.alpha_cumprod_prev)).abs().max().double_value(&[]);
            assert!(error < 1e-5, "step {index}: {error}");
        }
    }

    #[test]
    fn fifty_steps_visit_the_published_timesteps() {
        let config = SchedulerConfig::sd15_ddim();
        let ddim = Ddim::new(&NoiseSchedule::new(&config), &config, 50);
        assert!(ddim.timesteps().eq((0..50).rev().map(|i| 20 * i + 1)));
    }
}
