//! What a measurement says.

use std::io::IsTerminal as _;

use anyhow::Result;
use ipa_core::Work;
use ipa_core::tch::{Device, Kind};
use serde::Serialize;

use super::measure::{Timing, matmul_rate};
use super::memory::Memory;
use crate::demo::machine::Machine;
use crate::output;

/// What is to be told of a measurement.
pub(super) struct Measured {
    pub(super) bench: &'static str,
    /// The same in words, with what it was measured on.
    pub(super) title: String,
    /// What was called, and what else was found, for the JSON object.
    pub(super) call: serde_json::Value,
    /// What else was found, for the table.
    pub(super) found: Vec<(&'static str, String)>,
    pub(super) timing: Timing,
    /// Arithmetic of one call, if it is arithmetic that takes the time.
    pub(super) work: Option<Work>,
    pub(super) memory: Option<Memory>,
}

/// One measurement as it is told.
#[derive(Debug, Serialize)]
struct Report {
    bench: &'static str,
    #[serde(skip)]
    title: String,
    #[serde(flatten)]
    call: serde_json::Value,
    #[serde(skip)]
    found: Vec<(&'static str, String)>,
    #[serde(flatten)]
    timing: Timing,
    #[serde(flatten)]
    arithmetic: Option<Arithmetic>,
    #[serde(flatten)]
    memory: Option<Memory>,
    machine: Machine,
}

/// Arithmetic of one call, in 10¹² operations, and how near the best call is to nothing but matrix products.
#[derive(Debug, Serialize)]
struct Arithmetic {
    tflop: f64,
    parts_tflop: Parts,
    tflop_per_s: f64,
    matmul_tflop_per_s: f64,
    share_of_matmul: f64,
}

#[derive(Debug, Serialize)]
struct Parts {
    convolutions: f64,
    linear: f64,
    attention: f64,
}

impl Arithmetic {
    fn new(work: Work, best_s: f64, matmul_rate: f64) -> Self {
        let rate = work.total() / best_s;
        let Work { convolutions, linear, attention } = work * 1e-12;
        Self {
            tflop: work.total() / 1e12,
            parts_tflop: Parts { convolutions, linear, attention },
            tflop_per_s: rate / 1e12,
            matmul_tflop_per_s: matmul_rate / 1e12,
            share_of_matmul: rate / matmul_rate,
        }
    }
}

/// Measures the machine's matrix product, if there is arithmetic to compare with it, and tells all of it.
pub(super) fn tell(all: Vec<Measured>, options: (Device, Kind), json: bool) -> Result<()> {
    let has_work = all.iter().any(|measured| measured.work.is_some());
    let matmul_rate = has_work.then(|| matmul_rate(options)).transpose()?;
    for measured in all {
        let Measured { bench, title, call, found, timing, work, memory } = measured;
        let arithmetic = work.zip(matmul_rate).map(|(work, rate)| Arithmetic::new(work, timing.best_s, rate));
        let machine = Machine::this(options);
        let report = Report { bench, title, call, found, timing, arithmetic, memory, machine };
        match json || !std::io::stdout().is_terminal() {
            true => output::json_line(&report)?,
            false => report.lines().into_iter().try_for_each(output::line)?,
        }
    }
    Ok(())
}

impl Report {
    fn lines(&self) -> Vec<String> {
        let timing = &self.timing;
        let mut facts = vec![
            ("median", format!("{}, of {}", seconds(timing.median_s), timing.runs_s.len())),
            ("best", seconds(timing.best_s)),
        ];
        facts.extend(self.found.clone());
        facts.extend(self.arithmetic.iter().flat_map(Arithmetic::facts));
        if let Some(Memory { peak_gib, above_weights_gib, .. }) = self.memory {
            facts.push(("memory", format!("{peak_gib:.2} GiB at most, {above_weights_gib:.2} above the weights")));
        }
        facts.extend(self.machine.facts());
        let lines = facts.into_iter().map(|(name, fact)| format!("  {:<9} {fact}", name.to_lowercase()));
        std::iter::once(self.title.clone()).chain(lines).collect()
    }
}

impl Arithmetic {
    fn facts(&self) -> [(&'static str, String); 2] {
        let Parts { convolutions, linear, attention } = self.parts_tflop;
        let parts = format!("convolutions {convolutions:.3}, matrices {linear:.3}, attention {attention:.3}");
        let share = format!("{:.0} % of the {:.3}", 100.0 * self.share_of_matmul, self.matmul_tflop_per_s);
        [
            ("work", format!("{:.3} TFLOP: {parts}", self.tflop)),
            ("rate", format!("{:.3} TFLOP/s, {share} of a large matrix product", self.tflop_per_s)),
        ]
    }
}

/// Seconds for people.
pub(super) fn seconds(seconds: f64) -> String {
    if seconds < 1.0 { format!("{:.1} ms", 1000.0 * seconds) } else { format!("{seconds:.2} s") }
}
