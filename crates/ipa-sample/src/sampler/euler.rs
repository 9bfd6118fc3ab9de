//! Euler's method for the probability flow, arXiv:2206.00364 algorithm 2 without churn.

use ipa_core::tch::{Kind, Tensor};

use super::level::pred_x0_of_ratio;
use super::sigmas::{SigmaSettings, TrainSigmas, in_f32, init_noise_sigma};
use super::{Sampler, spacing};
use crate::{NoiseSchedule, PipelineError, PredictionType, SchedulerConfig, SchedulerFile};

/// One straight step from each ratio of noise to the next.
#[derive(Debug)]
pub(super) struct Euler {
    timesteps: Vec<f64>,
    /// One more than the timesteps.
    sigmas: Vec<f64>,
    init_noise_sigma: f64,
    prediction_type: PredictionType,
}

impl Euler {
    pub(super) fn build(
        file: &SchedulerFile,
        config: &SchedulerConfig,
        num_steps: usize,
    ) -> Result<Self, PipelineError> {
        file.refuse_set(&["use_exponential_sigmas", "use_beta_sigmas"])?;
        file.refuse_other("interpolation_type", "linear")?;
        file.refuse_other("timestep_type", "discrete")?;
        let settings: SigmaSettings = file.settings()?;
        let train = TrainSigmas::new(&NoiseSchedule::new(config), config);
        let (mut sigmas, timesteps) = settings.of_subset(&train, spacing::fractional(config, num_steps));
        sigmas.push(settings.last(train.least()));
        let sigmas = in_f32(sigmas);
        let init_noise_sigma = init_noise_sigma(config, &sigmas);
        Ok(Self { timesteps, sigmas, init_noise_sigma, prediction_type: config.prediction_type })
    }
}

impl Sampler for Euler {
    fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    fn init_noise_sigma(&self) -> f64 {
        self.init_noise_sigma
    }

    fn scale_model_input(&self, index: usize, sample: &Tensor) -> Tensor {
        sample / (self.sigmas[index].powi(2) + 1.0).sqrt()
    }

    /// The derivative is `(x − x₀) / σ`, Eq. 4. In f32, as the reference.
    fn step(&mut self, index: usize, model_output: &Tensor, sample: &Tensor, _noise: Option<&Tensor>) -> Tensor {
        let (sigma, next) = (self.sigmas[index], self.sigmas[index + 1]);
        let sample = sample.to_kind(Kind::Float);
        let pred_x0 = pred_x0_of_ratio(sigma, self.prediction_type, model_output, &sample);
        let derivative = (&sample - pred_x0) / sigma;
        (sample + derivative * (next - sigma)).to_kind(model_output.kind())
    }

    fn add_noise(&self, index: usize, latents: &Tensor, noise: &Tensor) -> Tensor {
        latents + noise * self.sigmas[index]
    }
}
