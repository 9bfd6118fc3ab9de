//! UniPC, arXiv:2302.04867: a predictor, and a corrector that needs no further call of the model.

use ipa_core::tch::Tensor;
use serde::Deserialize;

use super::level::Level;
use super::sigmas::{FinalSigma, SigmaSettings, TrainSigmas, in_f32};
use super::{Sampler, spacing};
use crate::{NoiseSchedule, PipelineError, PredictionType, SchedulerConfig, SchedulerFile};

#[derive(Debug, Deserialize)]
#[serde(default)]
struct Settings {
    solver_order: usize,
    solver_type: Solver,
    lower_order_final: bool,
    /// Whether x₀ is integrated, or else ε.
    predict_x0: bool,
    /// Steps that are not corrected.
    disable_corrector: Vec<usize>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            solver_order: 2,
            solver_type: Solver::Bh2,
            lower_order_final: true,
            predict_x0: true,
            disable_corrector: Vec::new(),
        }
    }
}

/// B(h) of Eq. 3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Solver {
    /// h.
    Bh1,
    /// e^h − 1.
    #[serde(alias = "midpoint", alias = "heun", alias = "logrho")]
    // other solvers' names, which stand for the usual here
    Bh2,
}

/// The last prediction, to be corrected when the model has seen it.
#[derive(Debug)]
struct Predicted {
    from: Tensor,
    order: usize,
}

#[derive(Debug)]
pub(super) struct Unipc {
    timesteps: Vec<f64>,
    /// One more than the timesteps.
    levels: Vec<Level>,
    settings: Settings,
    prediction_type: PredictionType,
    /// The latest estimates of x₀ or ε, at most the order.
    estimates: Vec<Tensor>,
    predicted: Option<Predicted>,
}

impl Unipc {
    pub(super) fn build(
        file: &SchedulerFile,
        config: &SchedulerConfig,
        num_steps: usize,
    ) -> Result<Self, PipelineError> {
        file.refuse_set(&["use_exponential_sigmas", "use_beta_sigmas", "use_flow_sigmas", "use_dynamic_shifting"])?;
        file.refuse_set(&["solver_p"])?;
        let settings: Settings = file.settings()?;
        if !(1..=3).contains(&settings.solver_order) {
            let reason = format!("`solver_order` is {}; expected 1 to 3, 2 is usual", settings.solver_order);
            return Err(file.refusal(reason).into());
        }
        let sigma_settings: SigmaSettings = file.settings()?;
        let train = TrainSigmas::new(&NoiseSchedule::new(config), config);
        let timesteps = spacing::multistep(config, config.num_train_timesteps, num_steps);
        let (mut sigmas, timesteps) = sigma_settings.of_training(&train, timesteps, num_steps, true);
        sigmas.push(match (sigma_settings.use_karras_sigmas, sigma_settings.final_sigmas_type) {
            (true, FinalSigma::SigmaMin) => sigmas[sigmas.len() - 1],
            _ => sigma_settings.last(train.least()),
        });
        Ok(Self {
            timesteps,
            levels: in_f32(sigmas).into_iter().map(Level::of_ratio).collect(),
            settings,
            prediction_type: config.prediction_type,
            estimates: Vec::new(),
            predicted: None,
        })
    }

    /// x₀ or ε by what the model said.
    fn estimate(&self, index: usize, model_output: &Tensor, sample: &Tensor) -> Tensor {
        match self.settings.predict_x0 {
            true => self.levels[index].pred_x0(self.prediction_type, model_output, sample),
            false => self.levels[index].pred_noise(self.prediction_type, model_output, sample),
        }
    }

    /// From the level of the latest estimate, at `index`, to the next one, Eq. 3 and Eq. 9; corrected by the estimate
    /// there, if it is known already.
    fn update(&self, index: usize, order: usize, sample: &Tensor, next: Option<&Tensor>) -> Tensor {
        let (from, to) = (self.levels[index], self.levels[index + 1]);
        let h = to.lambda() - from.lambda();
        let (hh, ratio, scale) = match self.settings.predict_x0 {
            true => (-h, to.sigma / from.sigma, to.alpha),
            false => (h, to.alpha / from.alpha, to.sigma),
        };
        let phi = f64::exp_m1(hh);
        let step = match self.settings.solver_type {
            Solver::Bh1 => hh,
            Solver::Bh2 => phi,
        };
        let newest = self.estimates.len() - 1;
        let latest = &self.estimates[newest];
        let mut ratios: Vec<f64> = (1..order).map(|i| (self.levels[index - i].lambda() - from.lambda()) / h).collect();
        let mut differences: Vec<Tensor> =
            ratios.iter().enumerate().map(|(i, ratio)| (&self.estimates[newest - 1 - i] - latest) / *ratio).collect();
        if let Some(next) = next {
            ratios.push(1.0);
            differences.push(next - latest);
        }
        let weights = match ratios.len() {
            // Parity: exact to this order without solving, which is what the reference takes.
            1 => vec![0.5],
            _ => solved(&ratios, &right_hand_side(hh, phi, step, ratios.len())),
        };
        let base = sample * ratio - latest * (scale * phi);
        differences
            .iter()
            .zip(weights)
            .fold(base, |sum, (difference, weight)| sum - difference * (scale * step * weight))
    }
}

/// b of Eq. 5.
fn right_hand_side(hh: f64, phi: f64, step: f64, num: usize) -> Vec<f64> {
    let (mut phi_k, mut factorial) = (phi / hh - 1.0, 1.0);
    let next = |i: usize| {
        let b = phi_k * factorial / step;
        factorial *= (i + 1) as f64;
        phi_k = phi_k / hh - 1.0 / factorial;
        b
    };
    (1..=num).map(next).collect()
}

/// Solves `Σ_k ratios[k]^i · x[k] = b[i]`, at most three unknowns: row `i` less `ratios[k]` times row `i − 1` is free of
/// unknown `k`.
fn solved(ratios: &[f64], b: &[f64]) -> Vec<f64> {
    let num = ratios.len();
    let unknown = |wanted: usize| {
        let (mut rows, mut factor) = (b.to_vec(), 1.0);
        for other in (0..num).filter(|&other| other != wanted) {
            rows = rows.windows(2).map(|pair| pair[1] - ratios[other] * pair[0]).collect();
            factor *= ratios[wanted] - ratios[other];
        }
        rows[0] / factor
    };
    (0..num).map(unknown).collect()
}

impl Sampler for Unipc {
    fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    fn step(&mut self, index: usize, model_output: &Tensor, sample: &Tensor, _noise: Option<&Tensor>) -> Tensor {
        let estimate = self.estimate(index, model_output, sample);
        let sample = match self.predicted.take() {
            Some(Predicted { from, order }) if !self.settings.disable_corrector.contains(&(index - 1)) => {
                self.update(index - 1, order, &from, Some(&estimate))
            }
            _ => sample.shallow_clone(),
        };
        if self.estimates.len() == self.settings.solver_order {
            drop(self.estimates.remove(0));
        }
        self.estimates.push(estimate);
        let order = match self.settings.lower_order_final {
            true => self.estimates.len().min(self.timesteps.len() - index),
            false => self.estimates.len(),
        };
        let stepped = self.update(index, order, &sample, None);
        self.predicted = Some(Predicted { from: sample, order });
        stepped
    }

    fn add_noise(&self, index: usize, latents: &Tensor, noise: &Tensor) -> Tensor {
        self.levels[index].add_noise(latents, noise)
    }
}
