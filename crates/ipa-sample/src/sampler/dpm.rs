//! DPM-Solver++, arXiv:2211.01095: exponential integrators over the logarithm of the signal-to-noise ratio.

use ipa_core::tch::{Kind, Tensor};
use serde::Deserialize;

use super::level::Level;
use super::sigmas::{SigmaSettings, TrainSigmas, in_f32};
use super::{Sampler, SamplerKind, drawn, spacing};
use crate::{BetaSchedule, NoiseSchedule, PipelineError, PredictionType, SchedulerConfig, SchedulerFile};

/// Fewer steps than this end at a lower order, where the file wants it.
const FEW_STEPS: usize = 15;

#[derive(Debug, Deserialize)]
#[serde(default)]
struct Settings {
    solver_order: usize,
    solver_type: Solver,
    lower_order_final: bool,
    euler_at_final: bool,
    /// Timesteps of a lower λ are left out.
    lambda_min_clipped: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            solver_order: 2,
            solver_type: Solver::Midpoint,
            lower_order_final: true,
            euler_at_final: false,
            lambda_min_clipped: f64::NEG_INFINITY,
        }
    }
}

/// How the second order is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Solver {
    #[serde(alias = "logrho", alias = "bh1", alias = "bh2")] // other solvers' names, which stand for the usual here
    Midpoint,
    Heun,
}

/// Weights of one step: of the sample, of the differences of zeroth, first and second order, and of the noise.
#[derive(Debug, Clone, Copy)]
struct Weights {
    sample: f64,
    differences: [f64; 3],
    noise: f64,
}

/// The multistep solver of first to third order, deterministic or stochastic.
#[derive(Debug)]
pub(super) struct DpmSolver {
    timesteps: Vec<f64>,
    /// One more than the timesteps.
    levels: Vec<Level>,
    settings: Settings,
    ends_without_noise: bool,
    sde: bool,
    prediction_type: PredictionType,
    /// The latest estimates of x₀, at most the order.
    pred_x0s: Vec<Tensor>,
}

impl DpmSolver {
    pub(super) fn build(
        file: &SchedulerFile,
        kind: SamplerKind,
        config: &SchedulerConfig,
        num_steps: usize,
    ) -> Result<Self, PipelineError> {
        file.refuse_set(&["use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas", "use_flow_sigmas"])?;
        file.refuse_set(&["variance_type"])?;
        let settings: Settings = file.settings()?;
        if !(1..=3).contains(&settings.solver_order) {
            let reason = format!("`solver_order` is {}; expected 1 to 3, 2 is usual", settings.solver_order);
            return Err(file.refusal(reason).into());
        }
        let sigma_settings = SigmaSettings { use_karras_sigmas: kind.is_karras(), ..file.settings()? };
        let train = TrainSigmas::new(&NoiseSchedule::new(config), config);
        let end = config.num_train_timesteps - train.num_below(settings.lambda_min_clipped);
        let timesteps = spacing::multistep(config, end, num_steps);
        let round = config.beta_schedule != BetaSchedule::SquaredcosCapV2;
        let (mut sigmas, timesteps) = sigma_settings.of_training(&train, timesteps, num_steps, round);
        let last = sigma_settings.last(train.least());
        sigmas.push(last);
        Ok(Self {
            timesteps,
            levels: in_f32(sigmas).into_iter().map(Level::of_ratio).collect(),
            settings,
            ends_without_noise: last == 0.0,
            sde: kind.is_sde(),
            prediction_type: config.prediction_type,
            pred_x0s: Vec::new(),
        })
    }

    /// Lower at the begin, for want of estimates, and at the end, for stability.
    fn order(&self, index: usize) -> usize {
        let Settings { lower_order_final, euler_at_final, .. } = self.settings;
        let lower = lower_order_final && self.timesteps.len() < FEW_STEPS;
        let most = match self.timesteps.len() - index {
            1 if euler_at_final || lower || self.ends_without_noise => 1,
            2 if lower => 2,
            _ => 3,
        };
        self.pred_x0s.len().min(most)
    }

    /// Appendix B, algorithm 2 (deterministic), and Eq. 18 onwards (stochastic); third order as the reference has it.
    fn weights(&self, index: usize, order: usize) -> Weights {
        let (from, to) = (self.levels[index], self.levels[index + 1]);
        let h = to.lambda() - from.lambda();
        let ratio = to.sigma / from.sigma;
        // The stochastic equation covers twice the distance in what is estimated, and forgets as much of the sample.
        let (sample, twice) = if self.sde { (ratio * (-h).exp(), 2.0 * h) } else { (ratio, h) };
        let reached = -f64::exp_m1(-twice); // 1 − e^(−h) or 1 − e^(−2h)
        let slope = 1.0 - reached / twice;
        let first = match (order, self.settings.solver_type) {
            (1, _) => 0.0,
            (2, Solver::Midpoint) => 0.5 * reached,
            _ => slope,
        };
        let second = match order {
            3 if self.sde => -0.5 - slope / twice, // parity: the sign of one half
            3 => 0.5 - slope / twice,
            _ => 0.0,
        };
        let noise = if self.sde { to.sigma * reached.sqrt() } else { 0.0 };
        Weights { sample, differences: [reached, first, second].map(|weight| to.alpha * weight), noise }
    }

    /// Differences of the latest estimates over λ, of zeroth order up.
    fn differences(&self, index: usize, order: usize) -> Vec<Tensor> {
        let estimate = |back: usize| &self.pred_x0s[self.pred_x0s.len() - 1 - back];
        let lambda = |index: usize| self.levels[index].lambda();
        let h = lambda(index + 1) - lambda(index);
        let mut differences = vec![estimate(0).shallow_clone()];
        if order > 1 {
            let r0 = (lambda(index) - lambda(index - 1)) / h;
            let latest = (estimate(0) - estimate(1)) * (1.0 / r0);
            if order > 2 {
                let r1 = (lambda(index - 1) - lambda(index - 2)) / h;
                let earlier = (estimate(1) - estimate(2)) * (1.0 / r1);
                let change = &latest - earlier;
                differences.push(latest + &change * (r0 / (r0 + r1)));
                differences.push(change * (1.0 / (r0 + r1)));
            } else {
                differences.push(latest);
            }
        }
        differences
    }
}

impl Sampler for DpmSolver {
    fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    fn draws_noise(&self, _index: usize) -> bool {
        self.sde
    }

    /// In f32 but for the estimate, as the reference.
    fn step(&mut self, index: usize, model_output: &Tensor, sample: &Tensor, noise: Option<&Tensor>) -> Tensor {
        if self.pred_x0s.len() == self.settings.solver_order {
            drop(self.pred_x0s.remove(0));
        }
        self.pred_x0s.push(self.levels[index].pred_x0(self.prediction_type, model_output, sample));
        let order = self.order(index);
        let weights = self.weights(index, order);
        let mut stepped = sample.to_kind(Kind::Float) * weights.sample;
        for (difference, weight) in self.differences(index, order).iter().zip(weights.differences) {
            stepped += difference * weight;
        }
        if self.sde {
            stepped += drawn(noise) * weights.noise;
        }
        stepped.to_kind(model_output.kind())
    }

    fn draws_in_f32(&self) -> bool {
        true
    }

    fn add_noise(&self, index: usize, latents: &Tensor, noise: &Tensor) -> Tensor {
        self.levels[index].add_noise(latents, noise)
    }
}
