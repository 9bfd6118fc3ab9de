//! Ratios of noise to signal, `σ = √((1 − ᾱ) / ᾱ)`, and the timesteps they belong to (arXiv:2206.00364).

use ipa_core::tch::{Kind, Tensor};
use serde::Deserialize;

use crate::{NoiseSchedule, SchedulerConfig};

/// Parity: diffusers' stand-in for no signal at all, 2⁻²⁴.
const LEAST_ALPHA_CUMPROD: f64 = 1.0 / 16_777_216.0;
/// ρ of arXiv:2206.00364 Eq. 5.
const RHO: f64 = 7.0;

/// What scheduler_config.json says of the ratios to visit.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct SigmaSettings {
    pub(super) use_karras_sigmas: bool,
    pub(super) sigma_min: Option<f64>,
    pub(super) sigma_max: Option<f64>,
    pub(super) final_sigmas_type: FinalSigma,
}

/// Where the last step ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum FinalSigma {
    /// Without noise.
    #[default]
    Zero,
    /// At the least ratio of training.
    SigmaMin,
}

/// The ratios of all training timesteps.
#[derive(Debug)]
pub(super) struct TrainSigmas {
    sigmas: Vec<f64>,
    logs: Vec<f32>,
}

impl TrainSigmas {
    pub(super) fn new(schedule: &NoiseSchedule, config: &SchedulerConfig) -> Self {
        let acp = schedule.alphas_cumprod().copy();
        if config.rescale_betas_zero_snr {
            let _ = acp.get(-1).fill_(LEAST_ALPHA_CUMPROD);
        }
        // Parity: f32 throughout, as the tables of the reference.
        let noise: Tensor = 1.0 - &acp;
        let sigmas = (noise / acp).sqrt();
        let numbers =
            |tensor: &Tensor| Vec::<f64>::try_from(tensor.to_kind(Kind::Double)).expect("a vector of numbers");
        let logs = numbers(&sigmas.log()).into_iter().map(|log| log as f32).collect();
        Self { sigmas: numbers(&sigmas), logs }
    }

    /// Of the first timestep, the least.
    pub(super) fn least(&self) -> f64 {
        self.sigmas[0]
    }

    /// Of the last timestep, the greatest.
    pub(super) fn greatest(&self) -> f64 {
        self.sigmas[self.sigmas.len() - 1]
    }

    /// How many timesteps have a lower λ.
    pub(super) fn num_below(&self, lambda: f64) -> i64 {
        self.logs.iter().filter(|&&log| f64::from(-log) < lambda).count() as i64
    }

    /// Linearly between the timesteps.
    pub(super) fn at(&self, timestep: f64) -> f64 {
        let last = self.sigmas.len() - 1;
        let low = timestep.floor().clamp(0.0, last as f64) as usize;
        match self.sigmas.get(low + 1) {
            Some(high) => self.sigmas[low] + (high - self.sigmas[low]) * (timestep - low as f64),
            None => self.sigmas[last],
        }
    }

    /// The timestep of a ratio, linearly between the logarithms; not rounded.
    pub(super) fn timestep(&self, sigma: f64) -> f64 {
        let log = sigma.max(1e-10).ln();
        let reached = self.logs.partition_point(|&known| f64::from(known) <= log).saturating_sub(1);
        let low = reached.min(self.logs.len().saturating_sub(2));
        let Some(&high) = self.logs.get(low + 1) else { return 0.0 };
        let weight = (f64::from(self.logs[low]) - log) / f64::from(self.logs[low] - high);
        let weight = weight.clamp(0.0, 1.0);
        (1.0 - weight) * low as f64 + weight * (low + 1) as f64
    }
}

impl SigmaSettings {
    /// arXiv:2206.00364 Eq. 5 between two ratios, or those that the file sets in their place.
    pub(super) fn karras(&self, greatest: f64, least: f64, num_steps: usize) -> Vec<f64> {
        let root = |sigma: f64| sigma.powf(1.0 / RHO);
        let (max, min) = (root(self.sigma_max.unwrap_or(greatest)), root(self.sigma_min.unwrap_or(least)));
        let step = if num_steps > 1 { 1.0 / (num_steps - 1) as f64 } else { 0.0 };
        let ramp = |i: usize| if i > 0 && i == num_steps - 1 { 1.0 } else { i as f64 * step };
        (0..num_steps).map(|i| (max + ramp(i) * (min - max)).powf(RHO)).collect()
    }

    /// Where the last step ends.
    pub(super) fn last(&self, least: f64) -> f64 {
        match self.final_sigmas_type {
            FinalSigma::Zero => 0.0,
            FinalSigma::SigmaMin => least,
        }
    }

    /// Ratios and timesteps of Euler's and Heun's methods, without the end: the levels of Eq. 5 lie within the subset
    /// of timesteps, and their timesteps are not rounded.
    pub(super) fn of_subset(&self, train: &TrainSigmas, timesteps: Vec<f64>) -> (Vec<f64>, Vec<f64>) {
        let sigmas: Vec<f64> = timesteps.iter().map(|&timestep| train.at(timestep)).collect();
        if !self.use_karras_sigmas {
            return (sigmas, timesteps);
        }
        let sigmas = self.karras(sigmas[0], sigmas[sigmas.len() - 1], sigmas.len());
        let timesteps = sigmas.iter().map(|&sigma| train.timestep(sigma)).collect();
        (sigmas, in_f32(timesteps))
    }

    /// Ratios and timesteps of the multistep solvers, without the end: the levels of Eq. 5 span all of training, and
    /// their timesteps are rounded if `round`.
    pub(super) fn of_training(
        &self,
        train: &TrainSigmas,
        timesteps: Vec<f64>,
        num_steps: usize,
        round: bool,
    ) -> (Vec<f64>, Vec<f64>) {
        if !self.use_karras_sigmas {
            return (timesteps.iter().map(|&timestep| train.at(timestep)).collect(), timesteps);
        }
        let sigmas = self.karras(train.greatest(), train.least(), num_steps);
        let timestep = |&sigma: &f64| match train.timestep(sigma) {
            timestep if round => timestep.round_ties_even(),
            timestep => timestep.trunc(), // the reference's table is of integers
        };
        let timesteps = sigmas.iter().map(timestep).collect();
        (sigmas, timesteps)
    }
}

/// The digits that the reference keeps.
pub(super) fn in_f32(values: Vec<f64>) -> Vec<f64> {
    values.into_iter().map(|value| f64::from(value as f32)).collect()
}

/// What noise is multiplied by to start from the greatest of these ratios.
pub(super) fn init_noise_sigma(config: &SchedulerConfig, sigmas: &[f64]) -> f64 {
    let greatest = sigmas.iter().copied().fold(0.0, f64::max);
    match config.timestep_spacing {
        crate::TimestepSpacing::Leading => (greatest * greatest + 1.0).sqrt(),
        _ => greatest,
    }
}
