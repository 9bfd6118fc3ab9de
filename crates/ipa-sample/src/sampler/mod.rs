//! Samplers: from pure noise to latents, one call of the model after another.
//!
//! Each lives in a file of its own, a table of steps and one equation; [`SchedulerFile::sampler`] makes them from a
//! model's `scheduler_config.json`. Every number is that of diffusers' scheduler of the same class.

mod ddim;
mod ddpm;
mod dpm;
mod euler;
mod euler_ancestral;
mod heun;
mod kind;
mod lcm;
mod level;
mod pndm;
mod sigmas;
mod spacing;
mod unipc;

use std::fmt::Debug;

use ipa_core::tch::Tensor;

use crate::{PipelineError, RequestError, SchedulerFile};

pub use ddim::Ddim;
pub use kind::{SamplerKind, UnknownSampler};

/// A sampler of one request: knows its timesteps and takes one step after each call of the model.
///
/// Indices count the calls, `0..timesteps().len()`, and are visited in order, from 0 or, where a picture is given to
/// start from, from a later one.
pub trait Sampler: Debug {
    /// What to call the model at, falling; not always whole numbers.
    fn timesteps(&self) -> &[f64];

    /// Calls that make one step of the request; fewer at its end.
    fn order(&self) -> usize {
        1
    }

    /// What standard normal noise is multiplied by to start from.
    fn init_noise_sigma(&self) -> f64 {
        1.0
    }

    /// The sample as the model wants to see it.
    fn scale_model_input(&self, _index: usize, sample: &Tensor) -> Tensor {
        sample.shallow_clone()
    }

    /// Whether this step needs fresh noise: one draw of the sample's shape.
    fn draws_noise(&self, _index: usize) -> bool {
        false
    }

    /// Whether that noise is drawn in f32 whatever the run computes in.
    fn draws_in_f32(&self) -> bool {
        false
    }

    /// The next sample, given what the model said of this one (not of the scaled one).
    ///
    /// `noise` is standard normal, of the sample's shape, there where [`Sampler::draws_noise`].
    ///
    /// # Panics
    /// If `index` is none, or noise is missing.
    fn step(&mut self, index: usize, model_output: &Tensor, sample: &Tensor, noise: Option<&Tensor>) -> Tensor;

    /// Clean latents with as much noise as the sample at `index` has.
    fn add_noise(&self, index: usize, latents: &Tensor, noise: &Tensor) -> Tensor;
}

/// The calls of the model that a request makes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Calls {
    pub(crate) num: usize,
    /// Steps of the request that they make.
    pub(crate) num_steps: usize,
    /// Calls a step.
    pub(crate) order: usize,
}

impl Calls {
    /// How many steps are done after a call, counted from 0; none if it was only a part of one.
    ///
    /// As diffusers' progress bar counts: calls beyond `order` a step belong to the first.
    pub(crate) fn steps_done(self, call: usize) -> Option<usize> {
        let Self { num, num_steps, order } = self;
        if call + 1 == num {
            return Some(num_steps);
        }
        let extra = num.saturating_sub(num_steps * order);
        let done = (call + 1).checked_sub(extra)?;
        (done > 0 && done % order == 0).then_some(done / order)
    }
}

impl SchedulerFile {
    /// The sampler `kind` of `num_steps` steps as this file sets it up. `eta` is DDIM's η, 0 to 1; others ignore it.
    ///
    /// # Errors
    /// [`PipelineError`] naming the file's field that is wrong or not computed, or the request's `num_steps` if there
    /// are too many or too few.
    pub fn sampler(&self, kind: SamplerKind, num_steps: usize, eta: f64) -> Result<Box<dyn Sampler>, PipelineError> {
        let config = self.config(kind)?;
        if !(1..=config.num_train_timesteps).contains(&(num_steps as i64)) {
            let allowed = "choose at least 1 and at most the model's number of training timesteps";
            return Err(num_steps_error(num_steps, allowed));
        }
        Ok(match kind {
            SamplerKind::Ddim => Box::new(ddim::build(self, &config, num_steps, eta)?),
            SamplerKind::Ddpm => Box::new(ddpm::Ddpm::build(self, &config, num_steps)?),
            SamplerKind::Pndm => Box::new(pndm::Pndm::build(self, &config, num_steps)?),
            SamplerKind::Euler => Box::new(euler::Euler::build(self, &config, num_steps)?),
            SamplerKind::EulerAncestral => Box::new(euler_ancestral::EulerAncestral::build(self, &config, num_steps)?),
            SamplerKind::Heun => Box::new(heun::Heun::build(self, &config, num_steps)?),
            SamplerKind::Dpmpp2m
            | SamplerKind::Dpmpp2mKarras
            | SamplerKind::Dpmpp2mSde
            | SamplerKind::Dpmpp2mSdeKarras => Box::new(dpm::DpmSolver::build(self, kind, &config, num_steps)?),
            SamplerKind::Unipc => Box::new(unipc::Unipc::build(self, &config, num_steps)?),
            SamplerKind::Lcm => Box::new(lcm::Lcm::build(self, &config, num_steps)?),
        })
    }
}

/// That a request has too many or too few steps.
fn num_steps_error(num_steps: usize, allowed: &'static str) -> PipelineError {
    RequestError::Field { field: "num_steps", value: num_steps.to_string(), allowed }.into()
}

/// The noise of a step that asked for it.
fn drawn(noise: Option<&Tensor>) -> &Tensor {
    noise.expect("noise is drawn where `draws_noise` says so")
}
