//! The clock.

use std::time::Instant;

use anyhow::Result;
use ipa_core::noise::Draws;
use ipa_core::tch::{Cuda, Device, Kind, Tensor};
use serde::Serialize;

use crate::{interrupt, progress};

/// Seconds that calls took.
#[derive(Debug, Serialize)]
pub(super) struct Timing {
    pub(super) median_s: f64,
    pub(super) best_s: f64,
    pub(super) runs_s: Vec<f64>,
}

impl Timing {
    pub(super) fn of(runs_s: Vec<f64>) -> Self {
        let mut sorted = runs_s.clone();
        sorted.sort_by(f64::total_cmp);
        let half = sorted.len() / 2;
        let median_s = if sorted.len() % 2 == 1 { sorted[half] } else { (sorted[half - 1] + sorted[half]) / 2.0 };
        Self { median_s, best_s: sorted[0], runs_s }
    }
}

/// Times `runs` calls after one that warms up.
pub(super) fn timed(
    device: Device,
    runs: u64,
    shown: (&'static str, bool),
    mut call: impl FnMut() -> Result<()>,
) -> Result<Timing> {
    Ok(timed_by_turns(device, runs, shown, 1, |_| call())?.swap_remove(0))
}

/// Times `num` kinds of call by turns, so that what else the machine does hits all of them alike: a round warms up, then
/// `runs` rounds are counted. `call` is told which one to make.
pub(super) fn timed_by_turns(
    device: Device,
    runs: u64,
    (title, json): (&'static str, bool),
    num: usize,
    mut call: impl FnMut(usize) -> Result<()>,
) -> Result<Vec<Timing>> {
    let bar = progress::bar((runs + 1) * num as u64, title, json);
    let mut seconds = vec![Vec::new(); num];
    for round in 0..=runs {
        for (index, seconds) in seconds.iter_mut().enumerate() {
            let taken = seconds_of(device, || call(index))?;
            if round > 0 {
                seconds.push(taken);
            }
            bar.inc(1);
            interrupt::stop_if_requested("nothing is told of what was not measured to its end");
        }
    }
    Ok(seconds.into_iter().map(Timing::of).collect())
}

fn seconds_of(device: Device, call: impl FnOnce() -> Result<()>) -> Result<f64> {
    finish(device);
    let start = Instant::now();
    call()?;
    finish(device);
    Ok(start.elapsed().as_secs_f64())
}

/// Waits for a card to have done what it was told.
pub(super) fn finish(device: Device) {
    if let Device::Cuda(index) = device {
        Cuda::synchronize(index as i64);
    }
}

/// Floating-point operations a second of a large matrix product: of 4096² matrices on a CPU, of 8192² elsewhere.
pub(super) fn matmul_rate((device, kind): (Device, Kind)) -> Result<f64> {
    let (side, runs) = if device == Device::Cpu { (4096, 3) } else { (8192, 20) };
    let matrix = |seed| (Draws::seeded(seed).uniform(&[side, side]) - 0.5).to_device(device).to_kind(kind);
    let (a, b) = (matrix(0), matrix(1));
    let multiply = || -> Result<()> {
        let _product: Tensor = a.matmul(&b);
        Ok(())
    };
    let timing = timed(device, runs, ("matrix product", true), multiply)?;
    Ok(2.0 * (side as f64).powi(3) / timing.best_s)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(Timing::of(vec![3.0, 1.0, 2.0]).median_s, 2.0);
        let even = Timing::of(vec![4.0, 1.0, 2.0, 3.0]);
        assert_eq!((even.median_s, even.best_s), (2.5, 1.0));
        assert_eq!(even.runs_s, [4.0, 1.0, 2.0, 3.0]);
    }

    #[test]
    fn the_first_call_warms_up() {
        let mut calls = 0;
        let call = || {
            calls += 1;
            Ok(())
        };
        let timing = timed(Device::Cpu, 2, ("", true), call).expect("nothing fails");
        assert_eq!((calls, timing.runs_s.len()), (3, 2));
    }

    #[test]
    fn calls_take_turns() {
        let mut calls = Vec::new();
        let call = |index| {
            calls.push(index);
            Ok(())
        };
        let timings = timed_by_turns(Device::Cpu, 1, ("", true), 3, call).expect("nothing fails");
        assert_eq!(calls, [0, 1, 2, 0, 1, 2]);
        assert!(timings.iter().all(|timing| timing.runs_s.len() == 1));
    }
}
