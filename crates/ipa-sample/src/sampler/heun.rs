//! Heun's method for the probability flow, arXiv:2206.00364 algorithm 1: two calls a step, one for the last.

use ipa_core::tch::Tensor;

use super::level::pred_x0_of_ratio;
use super::sigmas::{SigmaSettings, TrainSigmas, in_f32, init_noise_sigma};
use super::{Sampler, SamplerKind, ddim::clipped, spacing};
use crate::{NoiseSchedule, PipelineError, PredictionType, SchedulerConfig, SchedulerFile};

/// Where a step began, while its end is looked at.
#[derive(Debug)]
struct Trial {
    sample: Tensor,
    derivative: Tensor,
    length: f64,
}

#[derive(Debug)]
pub(super) struct Heun {
    /// The first once, all others twice.
    timesteps: Vec<f64>,
    /// Likewise, and the end once.
    sigmas: Vec<f64>,
    init_noise_sigma: f64,
    trial: Option<Trial>,
    clip: Option<f64>,
    prediction_type: PredictionType,
}

impl Heun {
    pub(super) fn build(
        file: &SchedulerFile,
        config: &SchedulerConfig,
        num_steps: usize,
    ) -> Result<Self, PipelineError> {
        file.refuse_set(&["use_exponential_sigmas", "use_beta_sigmas"])?;
        let settings: SigmaSettings = file.settings()?;
        let train = TrainSigmas::new(&NoiseSchedule::new(config), config);
        let (sigmas, timesteps) = settings.of_subset(&train, spacing::fractional(config, num_steps));
        let mut sigmas = all_but_the_first_twice(&in_f32(sigmas));
        sigmas.push(0.0);
        Ok(Self {
            timesteps: all_but_the_first_twice(&timesteps),
            init_noise_sigma: init_noise_sigma(config, &sigmas),
            sigmas,
            trial: None,
            clip: file.clip_range(SamplerKind::Heun)?,
            prediction_type: config.prediction_type,
        })
    }

    /// Eq. 4.
    fn derivative(&self, sigma: f64, model_output: &Tensor, sample: &Tensor) -> Tensor {
        let pred_x0 = pred_x0_of_ratio(sigma, self.prediction_type, model_output, sample);
        (sample - clipped(pred_x0, self.clip)) / sigma
    }
}

fn all_but_the_first_twice(values: &[f64]) -> Vec<f64> {
    values.iter().enumerate().flat_map(|(i, &value)| std::iter::repeat_n(value, 1 + usize::from(i > 0))).collect()
}

impl Sampler for Heun {
    fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    fn order(&self) -> usize {
        2
    }

    fn init_noise_sigma(&self) -> f64 {
        self.init_noise_sigma
    }

    fn scale_model_input(&self, index: usize, sample: &Tensor) -> Tensor {
        sample / (self.sigmas[index].powi(2) + 1.0).sqrt()
    }

    fn step(&mut self, index: usize, model_output: &Tensor, sample: &Tensor, _noise: Option<&Tensor>) -> Tensor {
        let sigma = self.sigmas[index];
        let derivative = self.derivative(sigma, model_output, sample);
        if let Some(trial) = self.trial.take() {
            let mean = (trial.derivative + derivative) / 2.0;
            return trial.sample + mean * trial.length;
        }
        let length = self.sigmas[index + 1] - sigma;
        let stepped = sample + &derivative * length;
        self.trial = Some(Trial { sample: sample.shallow_clone(), derivative, length });
        stepped
    }

    fn add_noise(&self, index: usize, latents: &Tensor, noise: &Tensor) -> Tensor {
        latents + noise * self.sigmas[index]
    }
}
