//! What a measurement says.

use std::io::IsTerminal as _;

use anyhow::Result;
use ipa_core::tch::{Device, Kind};
use ipa_unet::{Operation, OperationKind};
use serde::Serialize;

use super::measure::{Timing, matmul_rate};
use super::memory::Memory;
use crate::demo::machine::Machine;
use crate::output;

/// One measurement.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// What was measured.
    bench: &'static str,
    /// The same in words, with what it was measured on.
    #[serde(skip)]
    title: String,
    #[serde(flatten)]
    call: serde_json::Value,
    #[serde(flatten)]
    timing: Timing,
    /// Arithmetic of one call, in 10¹² operations.
    tflop: f64,
    parts_tflop: Parts,
    tflop_per_s: f64,
    matmul_tflop_per_s: f64,
    /// How near the best call is to nothing but matrix products.
    share_of_matmul: f64,
    #[serde(flatten)]
    memory: Option<Memory>,
    machine: Machine,
}

/// Arithmetic by kind, in 10¹² operations.
#[derive(Debug, Default, Clone, Copy, Serialize)]
pub(super) struct Parts {
    pub(super) convolutions: f64,
    pub(super) linear: f64,
    pub(super) attention: f64,
}

impl Parts {
    /// With so many times an operation.
    pub(super) fn and(mut self, operation: &Operation, times: f64) -> Self {
        let part = match operation.kind {
            OperationKind::Convolution => &mut self.convolutions,
            OperationKind::Linear | OperationKind::TextLinear => &mut self.linear,
            OperationKind::SelfAttention | OperationKind::TextAttention | OperationKind::ImageAttention => {
                &mut self.attention
            }
        };
        *part += times * operation.flop / 1e12;
        self
    }

    fn total(&self) -> f64 {
        self.convolutions + self.linear + self.attention
    }
}

/// What is to be told of a measurement.
pub(super) struct Measured {
    pub(super) bench: &'static str,
    pub(super) title: String,
    pub(super) call: serde_json::Value,
    pub(super) timing: Timing,
    pub(super) parts: Parts,
    pub(super) memory: Option<Memory>,
}

/// Measures the machine's matrix product and tells all of it.
pub(super) fn tell(measured: Measured, options: (Device, Kind), json: bool) -> Result<()> {
    let Measured { bench, title, call, timing, parts, memory } = measured;
    let (tflop, matmul) = (parts.total(), matmul_rate(options)? / 1e12);
    let tflop_per_s = tflop / timing.best_s;
    let report = Report {
        bench,
        title,
        call,
        timing,
        tflop,
        parts_tflop: parts,
        tflop_per_s,
        matmul_tflop_per_s: matmul,
        share_of_matmul: tflop_per_s / matmul,
        memory,
        machine: Machine::this(options),
    };
    if json || !std::io::stdout().is_terminal() {
        return Ok(output::json_line(&report)?);
    }
    report.lines().into_iter().try_for_each(|line| Ok(output::line(line)?))
}

impl Report {
    fn lines(&self) -> Vec<String> {
        let (timing, parts) = (&self.timing, &self.parts_tflop);
        let mut lines = vec![
            self.title.clone(),
            format!("  median    {}, of {}", seconds(timing.median_s), timing.runs_s.len()),
            format!("  best      {}", seconds(timing.best_s)),
            format!(
                "  work      {:.3} TFLOP: convolutions {:.3}, matrices {:.3}, attention {:.3}",
                self.tflop, parts.convolutions, parts.linear, parts.attention
            ),
            format!(
                "  rate      {:.3} TFLOP/s, {:.0} % of the {:.3} of a large matrix product",
                self.tflop_per_s,
                100.0 * self.share_of_matmul,
                self.matmul_tflop_per_s
            ),
        ];
        if let Some(memory) = self.memory {
            lines.push(format!(
                "  memory    {:.2} GiB at most, {:.2} above the weights",
                memory.peak_gib, memory.above_weights_gib
            ));
        }
        lines.extend(
            self.machine.facts().into_iter().map(|(name, fact)| format!("  {:<9} {fact}", name.to_lowercase())),
        );
        lines
    }
}

fn seconds(seconds: f64) -> String {
    if seconds < 1.0 { format!("{:.1} ms", 1000.0 * seconds) } else { format!("{seconds:.2} s") }
}
