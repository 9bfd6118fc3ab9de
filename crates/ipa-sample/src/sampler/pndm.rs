//! Pseudo numerical methods for diffusion models, arXiv:2202.09778.

use ipa_core::tch::Tensor;
use serde::Deserialize;

use super::level::Level;
use super::{Sampler, num_steps_error, spacing};
use crate::{NoiseSchedule, PipelineError, PredictionType, SchedulerConfig, SchedulerFile};

/// Steps that begin with Runge-Kutta's method, of four calls each, if the file does not skip them.
const PRK_STEPS: usize = 3;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Settings {
    skip_prk_steps: bool,
}

/// Linear multistep (PLMS), after three steps of Runge-Kutta (PRK) or, as Stable Diffusion has it, after one step taken
/// twice.
#[derive(Debug)]
pub(super) struct Pndm {
    timesteps: Vec<f64>,
    /// Calls of the model that belong to Runge-Kutta.
    prk_calls: usize,
    /// Distance of two steps in timesteps.
    ratio: f64,
    last_alpha_cumprod: f64,
    prediction_type: PredictionType,
    schedule: NoiseSchedule,
    calls: usize,
    /// The latest outputs, at most four.
    outputs: Vec<Tensor>,
    /// Weighted outputs of an unfinished Runge-Kutta step.
    sum: Option<Tensor>,
    /// Where an unfinished step began.
    start: Option<Tensor>,
}

impl Pndm {
    pub(super) fn build(
        file: &SchedulerFile,
        config: &SchedulerConfig,
        num_steps: usize,
    ) -> Result<Self, PipelineError> {
        file.refuse_prediction(config, PredictionType::Sample)?;
        let Settings { skip_prk_steps } = file.settings()?;
        if !skip_prk_steps && num_steps <= PRK_STEPS {
            let allowed = "choose at least 4 for this model's sampler, whose `skip_prk_steps` is not set";
            return Err(num_steps_error(num_steps, allowed));
        }
        let schedule = NoiseSchedule::new(config);
        let ratio = (config.num_train_timesteps / num_steps as i64) as f64;
        let steps = spacing::whole(config, num_steps);
        let (timesteps, prk_calls) = match skip_prk_steps {
            true => (first_step_twice(steps), 0),
            false => (with_runge_kutta(&steps, (ratio / 2.0).floor()), 4 * PRK_STEPS),
        };
        Ok(Self {
            timesteps,
            prk_calls,
            ratio,
            last_alpha_cumprod: if config.set_alpha_to_one { 1.0 } else { schedule.alpha_cumprod(0) },
            prediction_type: config.prediction_type,
            schedule,
            calls: 0,
            outputs: Vec::new(),
            sum: None,
            start: None,
        })
    }

    /// §3.3, algorithm 1: the weights of Runge-Kutta's method, each look from where the step began.
    fn step_prk(&mut self, index: usize, output: &Tensor, sample: &Tensor) -> Tensor {
        let half = if self.calls % 2 == 1 { 0.0 } else { (self.ratio / 2.0).floor() };
        let prev = self.timesteps[index] - half;
        let timestep = self.timesteps[self.calls / 4 * 4];
        let sum = |weight: f64, sum: Option<Tensor>| match sum {
            Some(sum) => sum + output * weight,
            None => output * weight,
        };
        let output = match self.calls % 4 {
            0 => {
                self.sum = Some(sum(1.0 / 6.0, self.sum.take()));
                self.outputs.push(output.shallow_clone());
                self.start = Some(sample.shallow_clone());
                output.shallow_clone()
            }
            1 | 2 => {
                self.sum = Some(sum(1.0 / 3.0, self.sum.take()));
                output.shallow_clone()
            }
            _ => sum(1.0 / 6.0, self.sum.take()),
        };
        let start = self.start.as_ref().unwrap_or(sample);
        self.transferred(start, timestep, prev, &output)
    }

    /// §3.2, Eq. 12 with fewer outputs at the beginning.
    fn step_plms(&mut self, index: usize, output: &Tensor, sample: &Tensor) -> Tensor {
        let timestep = self.timesteps[index];
        if self.calls == 1 {
            // The first step again, with the mean of the outputs at both its ends.
            let output = (output + &self.outputs[self.outputs.len() - 1]) / 2.0;
            let start = self.start.take().unwrap_or_else(|| sample.shallow_clone());
            return self.transferred(&start, timestep + self.ratio, timestep, &output);
        }
        if self.outputs.len() > 3 {
            self.outputs.drain(..self.outputs.len() - 3);
        }
        self.outputs.push(output.shallow_clone());
        let output = match &self.outputs[..] {
            [e0] => {
                self.start = Some(sample.shallow_clone());
                e0.shallow_clone()
            }
            [e1, e0] => (e0 * 3.0 - e1) / 2.0,
            [e2, e1, e0] => (e0 * 23.0 - e1 * 16.0 + e2 * 5.0) / 12.0,
            [e3, e2, e1, e0] => (e0 * 55.0 - e1 * 59.0 + e2 * 37.0 - e3 * 9.0) * (1.0 / 24.0),
            others => unreachable!("one to four outputs are kept, not {}", others.len()),
        };
        self.transferred(sample, timestep, timestep - self.ratio, &output)
    }

    /// The transfer from one timestep to another, Eq. 11.
    fn transferred(&self, sample: &Tensor, timestep: f64, prev: f64, output: &Tensor) -> Tensor {
        let acp = self.schedule.alpha_cumprod_at(timestep);
        let acp_prev = if prev >= 0.0 { self.schedule.alpha_cumprod_at(prev) } else { self.last_alpha_cumprod };
        let noise_pred = Level::of_alpha_cumprod(acp).pred_noise(self.prediction_type, output, sample);
        let denominator = acp * (1.0 - acp_prev).sqrt() + (acp * (1.0 - acp) * acp_prev).sqrt();
        sample * (acp_prev / acp).sqrt() - noise_pred * ((acp_prev - acp) / denominator)
    }
}

/// The second timestep doubled, which takes the first step again.
fn first_step_twice(mut timesteps: Vec<f64>) -> Vec<f64> {
    if let Some(&second) = timesteps.get(1) {
        timesteps.insert(1, second);
    }
    timesteps
}

/// Each of the first three steps looked at from its begin, twice from its middle, and from its end.
fn with_runge_kutta(steps: &[f64], half: f64) -> Vec<f64> {
    let looks = |pair: &[f64]| [pair[0], pair[1] + half, pair[1] + half, pair[1]];
    let runge_kutta = steps[..=PRK_STEPS].windows(2).flat_map(looks);
    runge_kutta.chain(steps[PRK_STEPS..].iter().copied()).collect()
}

impl Sampler for Pndm {
    fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    fn step(&mut self, index: usize, model_output: &Tensor, sample: &Tensor, _noise: Option<&Tensor>) -> Tensor {
        let stepped = match self.calls < self.prk_calls {
            true => self.step_prk(index, model_output, sample),
            false => self.step_plms(index, model_output, sample),
        };
        self.calls += 1;
        stepped
    }

    fn add_noise(&self, index: usize, latents: &Tensor, noise: &Tensor) -> Tensor {
        self.schedule.add_noise_at(self.timesteps[index], latents, noise)
    }
}
