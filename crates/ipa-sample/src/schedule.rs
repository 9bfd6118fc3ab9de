//! The noise schedule of a model.

use std::f64::consts::FRAC_PI_2;

use ipa_core::tch::{Device, Kind, Tensor};

use crate::{BetaSchedule, SchedulerConfig};

/// Noise levels of every training timestep (arXiv:2006.11239).
#[derive(Debug)]
pub struct NoiseSchedule {
    alphas_cumprod: Tensor,
    /// The same, to look up.
    values: Vec<f64>,
}

impl Clone for NoiseSchedule {
    fn clone(&self) -> Self {
        Self { alphas_cumprod: self.alphas_cumprod.shallow_clone(), values: self.values.clone() }
    }
}

impl NoiseSchedule {
    /// The levels that `config` describes.
    ///
    /// # Panics
    /// If it has no timesteps.
    pub fn new(config: &SchedulerConfig) -> Self {
        // Parity: the same tensor operations in f32, so that every digit is the reference's.
        let betas = match config.rescale_betas_zero_snr {
            true => rescaled_to_zero_snr(&betas(config)),
            false => betas(config),
        };
        let alphas: Tensor = 1.0 - betas;
        let alphas_cumprod = alphas.cumprod(0, Kind::Float);
        let values = Vec::try_from(alphas_cumprod.to_kind(Kind::Double)).expect("a vector of numbers");
        Self { alphas_cumprod, values }
    }

    /// Number of training timesteps.
    pub fn len(&self) -> i64 {
        self.values.len() as i64
    }

    /// Whether there is no timestep: never.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// ᾱ of every timestep, `[len]`, f32 on the CPU.
    pub fn alphas_cumprod(&self) -> &Tensor {
        &self.alphas_cumprod
    }

    /// ᾱ of one timestep.
    ///
    /// # Panics
    /// If there is no such timestep.
    pub fn alpha_cumprod(&self, timestep: i64) -> f64 {
        self.values[timestep as usize]
    }

    /// ᾱ of a sampler's timestep, a whole number; the nearest known one's beyond both ends, where a spacing may go.
    pub(crate) fn alpha_cumprod_at(&self, timestep: f64) -> f64 {
        self.values[timestep.clamp(0.0, (self.values.len() - 1) as f64) as usize]
    }

    /// `√ᾱ_t ε − √(1 − ᾱ_t) x₀`, the velocity (arXiv:2202.00512 §4), for every sample's own timestep.
    ///
    /// # Shapes
    /// As [`NoiseSchedule::add_noise`].
    pub fn velocity(&self, latents: &Tensor, noise: &Tensor, timesteps: &Tensor) -> Tensor {
        let (signal, level) = self.levels(latents, timesteps);
        signal * noise - level * latents
    }

    /// `√ᾱ_t x₀ + √(1 − ᾱ_t) ε` for every sample's own timestep; the kind of `latents` throughout, as the reference.
    ///
    /// # Shapes
    /// - `latents`, `noise`: `[batch, ..]`; `timesteps`: `[batch]`, integers
    pub fn add_noise(&self, latents: &Tensor, noise: &Tensor, timesteps: &Tensor) -> Tensor {
        let (signal, level) = self.levels(latents, timesteps);
        signal * latents + level * noise
    }

    /// `√ᾱ_t` and `√(1 − ᾱ_t)` of every sample's timestep, in the kind and as many dimensions as `like` has.
    fn levels(&self, like: &Tensor, timesteps: &Tensor) -> (Tensor, Tensor) {
        let acp = self.alphas_cumprod.to_kind(like.kind()).to_device(like.device());
        let mut shape = vec![1; like.dim()];
        shape[0] = -1;
        let acp = acp.index_select(0, &timesteps.to_device(like.device())).view(shape.as_slice());
        let noise_level: Tensor = 1.0 - &acp;
        (acp.sqrt(), noise_level.sqrt())
    }

    /// The same for all samples at a sampler's timestep.
    pub(crate) fn add_noise_at(&self, timestep: f64, latents: &Tensor, noise: &Tensor) -> Tensor {
        let timestep = (timestep as i64).clamp(0, self.len() - 1);
        self.add_noise(latents, noise, &Tensor::from_slice(&[timestep]))
    }
}

fn betas(config: &SchedulerConfig) -> Tensor {
    let options = (Kind::Float, Device::Cpu);
    let SchedulerConfig { beta_start, beta_end, num_train_timesteps, .. } = *config;
    if let Some(betas) = &config.trained_betas {
        return Tensor::from_slice(betas).to_kind(Kind::Float);
    }
    match config.beta_schedule {
        BetaSchedule::Linear => Tensor::linspace(beta_start, beta_end, num_train_timesteps, options),
        BetaSchedule::ScaledLinear => {
            Tensor::linspace(beta_start.sqrt(), beta_end.sqrt(), num_train_timesteps, options).square()
        }
        BetaSchedule::SquaredcosCapV2 => {
            let alpha_bar = |t: f64| ((t + 0.008) / 1.008 * FRAC_PI_2).cos().powi(2);
            let at = |i: i64| i as f64 / num_train_timesteps as f64;
            let beta = |i: i64| (1.0 - alpha_bar(at(i + 1)) / alpha_bar(at(i))).min(0.999);
            Tensor::from_slice(&(0..num_train_timesteps).map(beta).collect::<Vec<f64>>()).to_kind(Kind::Float)
        }
    }
}

/// Shifts and scales √ᾱ so that the last is 0 and the first stays, arXiv:2305.08891 algorithm 1.
fn rescaled_to_zero_snr(betas: &Tensor) -> Tensor {
    let alphas: Tensor = 1.0 - betas;
    let roots = alphas.cumprod(0, Kind::Float).sqrt();
    let (first, last) = (roots.get(0), roots.get(-1));
    let roots = (roots - &last) * (&first / (&first - &last));
    let cumprod = roots.square();
    let num = cumprod.size()[0];
    let alphas = cumprod.narrow(0, 1, num - 1) / cumprod.narrow(0, 0, num - 1);
    1.0 - Tensor::cat(&[cumprod.narrow(0, 0, 1), alphas], 0)
}
