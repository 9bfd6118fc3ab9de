//! One noise level of a variance-preserving process.

use ipa_core::tch::Tensor;

use crate::PredictionType;

/// A sample is `alpha · x₀ + sigma · ε`, with `alpha² + sigma² = 1`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Level {
    pub(super) alpha: f64,
    pub(super) sigma: f64,
}

impl Level {
    /// Of ᾱ.
    pub(super) fn of_alpha_cumprod(alpha_cumprod: f64) -> Self {
        Self { alpha: alpha_cumprod.sqrt(), sigma: (1.0 - alpha_cumprod).sqrt() }
    }

    /// Of the ratio of noise to signal.
    pub(super) fn of_ratio(ratio: f64) -> Self {
        let alpha = 1.0 / (ratio * ratio + 1.0).sqrt();
        Self { alpha, sigma: ratio * alpha }
    }

    /// Half the logarithm of the signal-to-noise ratio; infinite without noise.
    pub(super) fn lambda(self) -> f64 {
        self.alpha.ln() - self.sigma.ln()
    }

    /// x₀ by what the model said of `sample`.
    pub(super) fn pred_x0(self, prediction_type: PredictionType, model_output: &Tensor, sample: &Tensor) -> Tensor {
        let Self { alpha, sigma } = self;
        match prediction_type {
            PredictionType::Epsilon => (sample - model_output * sigma) / alpha,
            PredictionType::VPrediction => sample * alpha - model_output * sigma,
            PredictionType::Sample => model_output.shallow_clone(),
        }
    }

    /// ε by what the model said of `sample`.
    pub(super) fn pred_noise(self, prediction_type: PredictionType, model_output: &Tensor, sample: &Tensor) -> Tensor {
        let Self { alpha, sigma } = self;
        match prediction_type {
            PredictionType::Epsilon => model_output.shallow_clone(),
            PredictionType::VPrediction => model_output * alpha + sample * sigma,
            PredictionType::Sample => (sample - model_output * alpha) / sigma,
        }
    }

    pub(super) fn add_noise(self, latents: &Tensor, noise: &Tensor) -> Tensor {
        latents * self.alpha + noise * self.sigma
    }
}

/// x₀ of a sample `x₀ + ratio · ε` that the model saw divided by `√(ratio² + 1)`.
pub(super) fn pred_x0_of_ratio(
    ratio: f64,
    prediction_type: PredictionType,
    model_output: &Tensor,
    sample: &Tensor,
) -> Tensor {
    let variance = ratio * ratio + 1.0;
    match prediction_type {
        PredictionType::Epsilon => sample - model_output * ratio,
        PredictionType::VPrediction => model_output * (-ratio / variance.sqrt()) + sample / variance,
        PredictionType::Sample => model_output.shallow_clone(),
    }
}
