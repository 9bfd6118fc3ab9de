//! Euler's method with ancestral noise: the step goes below the next level and noise brings it back.
//!
//! K. Crowson, k-diffusion, `sample_euler_ancestral`; the levels are those of DDPM's posterior, arXiv:2006.11239 Eq. 7.

use ipa_core::tch::{Kind, Tensor};

use super::level::pred_x0_of_ratio;
use super::sigmas::{TrainSigmas, in_f32, init_noise_sigma};
use super::{Sampler, drawn, spacing};
use crate::{NoiseSchedule, PipelineError, PredictionType, SchedulerConfig, SchedulerFile};

/// What one step needs, as ratios of noise to signal.
#[derive(Debug, Clone, Copy)]
struct AncestralStep {
    sigma: f64,
    down: f64,
    up: f64,
}

#[derive(Debug)]
pub(super) struct EulerAncestral {
    timesteps: Vec<f64>,
    steps: Vec<AncestralStep>,
    init_noise_sigma: f64,
    prediction_type: PredictionType,
}

impl EulerAncestral {
    pub(super) fn build(
        file: &SchedulerFile,
        config: &SchedulerConfig,
        num_steps: usize,
    ) -> Result<Self, PipelineError> {
        file.refuse_prediction(config, PredictionType::Sample)?;
        let train = TrainSigmas::new(&NoiseSchedule::new(config), config);
        let timesteps = spacing::fractional(config, num_steps);
        let mut sigmas: Vec<f64> = timesteps.iter().map(|&timestep| train.at(timestep)).collect();
        sigmas.push(0.0);
        let sigmas = in_f32(sigmas);
        Ok(Self {
            timesteps,
            steps: sigmas.windows(2).map(|pair| AncestralStep::between(pair[0], pair[1])).collect(),
            init_noise_sigma: init_noise_sigma(config, &sigmas),
            prediction_type: config.prediction_type,
        })
    }
}

impl AncestralStep {
    /// Parity: in f32, where the difference of squares loses digits when the levels lie far apart.
    fn between(sigma: f64, next: f64) -> Self {
        let (from, to) = (sigma as f32, next as f32);
        let up = (to * to * (from * from - to * to) / (from * from)).sqrt();
        let down = (to * to - up * up).sqrt();
        Self { sigma, down: f64::from(down), up: f64::from(up) }
    }
}

impl Sampler for EulerAncestral {
    fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    fn init_noise_sigma(&self) -> f64 {
        self.init_noise_sigma
    }

    fn scale_model_input(&self, index: usize, sample: &Tensor) -> Tensor {
        sample / (self.steps[index].sigma.powi(2) + 1.0).sqrt()
    }

    /// Parity: at the last step too, where nothing of it is added.
    fn draws_noise(&self, _index: usize) -> bool {
        true
    }

    fn step(&mut self, index: usize, model_output: &Tensor, sample: &Tensor, noise: Option<&Tensor>) -> Tensor {
        let AncestralStep { sigma, down, up } = self.steps[index];
        let sample = sample.to_kind(Kind::Float);
        let pred_x0 = pred_x0_of_ratio(sigma, self.prediction_type, model_output, &sample);
        let derivative = (&sample - pred_x0) / sigma;
        (sample + derivative * (down - sigma) + drawn(noise) * up).to_kind(model_output.kind())
    }

    fn add_noise(&self, index: usize, latents: &Tensor, noise: &Tensor) -> Tensor {
        latents + noise * self.steps[index].sigma
    }
}
