//! Denoising diffusion implicit models, arXiv:2010.02502.

use ipa_core::tch::Tensor;

use super::level::Level;
use super::{Sampler, drawn, spacing};
use crate::{NoiseSchedule, PipelineError, PredictionType, SchedulerConfig, SchedulerFile};

/// What one step needs.
#[derive(Debug, Clone, Copy, PartialEq)]
struct DdimStep {
    level: Level,
    alpha_cumprod_prev: f64,
    /// σ of Eq. 16.
    noise: f64,
}

/// DDIM over a subset of the training timesteps; deterministic (η = 0) unless told otherwise.
#[derive(Debug, Clone)]
pub struct Ddim {
    timesteps: Vec<f64>,
    steps: Vec<DdimStep>,
    eta: f64,
    clip: Option<f64>,
    prediction_type: PredictionType,
    schedule: NoiseSchedule,
}

pub(super) fn build(
    file: &SchedulerFile,
    config: &SchedulerConfig,
    num_steps: usize,
    eta: f64,
) -> Result<Ddim, PipelineError> {
    let clip = file.clip_range(super::SamplerKind::Ddim)?;
    Ok(Ddim { clip, ..Ddim::new(&NoiseSchedule::new(config), config, num_steps).with_eta(eta) })
}

impl Ddim {
    /// A sampler of `num_steps` steps, at most one for each training timestep.
    ///
    /// # Panics
    /// If `num_steps` is 0 or more than that; requests are checked before.
    pub fn new(schedule: &NoiseSchedule, config: &SchedulerConfig, num_steps: usize) -> Self {
        let num_train = schedule.len();
        assert!((1..=num_train as usize).contains(&num_steps), "{num_steps} steps of {num_train}");
        let timesteps = spacing::whole(config, num_steps);
        let ratio = num_train / num_steps as i64;
        let last = if config.set_alpha_to_one { 1.0 } else { schedule.alpha_cumprod(0) };
        let step = |&timestep: &f64| {
            // Parity: one ratio below, also where the spacing visits another timestep next.
            let prev = timestep as i64 - ratio;
            DdimStep {
                level: Level::of_alpha_cumprod(schedule.alpha_cumprod_at(timestep)),
                alpha_cumprod_prev: if prev >= 0 { schedule.alpha_cumprod_at(prev as f64) } else { last },
                noise: 0.0,
            }
        };
        Self {
            steps: timesteps.iter().map(step).collect(),
            timesteps,
            eta: 0.0,
            clip: None,
            prediction_type: config.prediction_type,
            schedule: schedule.clone(),
        }
    }

    /// The same with η of Eq. 16: 0 is deterministic, 1 has the noise of DDPM.
    pub fn with_eta(mut self, eta: f64) -> Self {
        self.eta = eta;
        for step in &mut self.steps {
            let (acp, prev) = (step.level.alpha.powi(2), step.alpha_cumprod_prev);
            step.noise = eta * ((1.0 - prev) / step.level.sigma.powi(2) * (1.0 - acp / prev)).sqrt();
        }
        self
    }

    /// The timesteps to call the model at, falling.
    pub fn timesteps(&self) -> impl Iterator<Item = i64> {
        self.timesteps.iter().map(|&timestep| timestep as i64)
    }

    /// One step without its fresh noise, arXiv:2010.02502 Eq. 12; `model_output` as the model predicts it.
    ///
    /// # Panics
    /// If `index` is not that of a step.
    pub fn step(&self, index: usize, model_output: &Tensor, latents: &Tensor) -> Tensor {
        let DdimStep { level, alpha_cumprod_prev, noise } = self.steps[index];
        let pred_x0 = clipped(level.pred_x0(self.prediction_type, model_output, latents), self.clip);
        let noise_pred = level.pred_noise(self.prediction_type, model_output, latents);
        pred_x0 * alpha_cumprod_prev.sqrt() + noise_pred * (1.0 - alpha_cumprod_prev - noise * noise).sqrt()
    }
}

impl Sampler for Ddim {
    fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    fn draws_noise(&self, _index: usize) -> bool {
        self.eta > 0.0
    }

    fn step(&mut self, index: usize, model_output: &Tensor, sample: &Tensor, noise: Option<&Tensor>) -> Tensor {
        let stepped = Ddim::step(self, index, model_output, sample);
        match self.eta > 0.0 {
            true => stepped + drawn(noise) * self.steps[index].noise,
            false => stepped,
        }
    }

    fn add_noise(&self, index: usize, latents: &Tensor, noise: &Tensor) -> Tensor {
        self.schedule.add_noise_at(self.timesteps[index], latents, noise)
    }
}

/// Values between `-range` and `range`.
pub(super) fn clipped(pred_x0: Tensor, range: Option<f64>) -> Tensor {
    match range {
        Some(range) => pred_x0.clamp(-range, range),
        None => pred_x0,
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
        let mix = |level: Level| level.add_noise(&x0, &noise);
        for (index, step) in ddim.steps.iter().enumerate() {
            let stepped = ddim.step(index, &noise, &mix(step.level));
            let error = (stepped - mix(Level::of_alpha_cumprod(step.alpha_cumprod_prev))).abs().max();
            let error = error.double_value(&[]);
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
