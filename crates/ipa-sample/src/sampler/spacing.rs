//! Which of the training timesteps are visited.
//!
//! Parity: the arithmetic of numpy's `arange` and `linspace`, so that halves are rounded the same way.

use crate::{SchedulerConfig, TimestepSpacing};

/// Whole numbers: DDIM, DDPM, PNDM.
pub(super) fn whole(config: &SchedulerConfig, num_steps: usize) -> Vec<f64> {
    let SchedulerConfig { num_train_timesteps, steps_offset, .. } = *config;
    match config.timestep_spacing {
        TimestepSpacing::Leading => leading(num_train_timesteps, num_steps, steps_offset),
        TimestepSpacing::Linspace => rounded(linspace(num_train_timesteps - 1, num_steps)),
        TimestepSpacing::Trailing => trailing(num_train_timesteps, num_train_timesteps, num_steps),
    }
}

/// Not rounded between first and last, in f32: the samplers over ratios of noise to signal.
pub(super) fn fractional(config: &SchedulerConfig, num_steps: usize) -> Vec<f64> {
    match config.timestep_spacing {
        TimestepSpacing::Linspace => {
            let exact = linspace(config.num_train_timesteps - 1, num_steps);
            exact.into_iter().map(|timestep| f64::from(timestep as f32)).collect()
        }
        _ => whole(config, num_steps),
    }
}

/// One more than the steps, without the earliest, and none from `end` on: the multistep solvers.
pub(super) fn multistep(config: &SchedulerConfig, end: i64, num_steps: usize) -> Vec<f64> {
    let mut timesteps = match config.timestep_spacing {
        TimestepSpacing::Leading => leading(end, num_steps + 1, config.steps_offset),
        TimestepSpacing::Linspace => rounded(linspace(end - 1, num_steps + 1)),
        TimestepSpacing::Trailing => return trailing(config.num_train_timesteps, end, num_steps),
    };
    timesteps.truncate(num_steps);
    timesteps
}

/// Multiples of a whole step. With as many steps as timesteps, the offset makes the first one that was never trained.
fn leading(num_train: i64, num: usize, offset: i64) -> Vec<f64> {
    let ratio = num_train / num as i64;
    (0..num as i64).rev().map(|i| (i * ratio + offset) as f64).collect()
}

fn linspace(last: i64, num: usize) -> Vec<f64> {
    let step = if num > 1 { last as f64 / (num - 1) as f64 } else { 0.0 };
    let at = |i: usize| if i > 0 && i == num - 1 { last as f64 } else { i as f64 * step };
    (0..num).rev().map(at).collect()
}

/// Down from `end`; as many as fit.
fn trailing(num_train: i64, end: i64, num_steps: usize) -> Vec<f64> {
    let (end, step) = (end as f64, num_train as f64 / num_steps as f64);
    // Not one more for a last value of 1e-12, which numpy gives to 62 of the first 1000 numbers of steps, and diffusers
    // takes for timestep -1, the noisiest: pictures are ruined by it.
    let num = (end / step - 1e-6).ceil().max(1.0) as usize;
    let delta = (end - step) - end;
    (0..num).map(|i| (end + i as f64 * delta).round_ties_even() - 1.0).collect()
}

fn rounded(timesteps: Vec<f64>) -> Vec<f64> {
    timesteps.into_iter().map(f64::round_ties_even).collect()
}
