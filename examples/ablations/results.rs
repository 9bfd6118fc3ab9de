//! The raw numbers, as docs/ablations.json keeps them, and what they say.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use ipa::formats::write_atomically;
use ipa::metrics::{Interval, bootstrap_mean, paired_difference};
use serde::{Deserialize, Serialize};

use crate::draw::{Condition, SCALE};

const RESAMPLING_SEED: u64 = 0;

/// How much is trained and drawn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Settings {
    pub(crate) steps: u64,
    pub(crate) batch: usize,
    pub(crate) num_scenes: u64,
    pub(crate) num_references: usize,
    pub(crate) drawing_steps: usize,
}

impl Settings {
    /// Those of the page in this project's documentation.
    pub(crate) const FULL: Self =
        Self { steps: 600, batch: 16, num_scenes: 4000, num_references: 64, drawing_steps: 15 };
}

/// Where it was done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) system: String,
    pub(crate) cores: usize,
    /// Runs at once, each on threads of its own.
    pub(crate) jobs: usize,
}

/// One arm from one seed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) arm: String,
    pub(crate) seed: u64,
    pub(crate) settings: Settings,
    pub(crate) machine: Machine,
    /// How many numbers were trained.
    pub(crate) parameters: usize,
    /// Of an undisturbed step: one in ten is faster. 0 without training.
    pub(crate) seconds_a_step: f64,
    pub(crate) drawings: Vec<Drawing>,
}

/// What became of the references in one condition, a number each.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Drawing {
    pub(crate) condition: Condition,
    pub(crate) scale: f64,
    pub(crate) clip_i: Vec<f64>,
    pub(crate) clip_t: Vec<f64>,
    /// Bits: colour, shape, fill, style, background.
    pub(crate) judged: Vec<u8>,
}

/// A number of every picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Measure {
    ClipI,
    ClipT,
    /// Whether an attribute is right, by its bit.
    Attribute(u8),
    /// Share of the first so many attributes that are right.
    Share(u8),
}

impl Measure {
    fn of(self, drawing: &Drawing) -> Vec<f64> {
        let judged = |value: &dyn Fn(u8) -> f64| drawing.judged.iter().map(|bits| value(*bits)).collect();
        match self {
            Self::ClipI => drawing.clip_i.clone(),
            Self::ClipT => drawing.clip_t.clone(),
            Self::Attribute(bit) => judged(&|bits| f64::from((bits >> bit) & 1)),
            Self::Share(num) => judged(&|bits| f64::from((bits & ((1 << num) - 1)).count_ones()) / f64::from(num)),
        }
    }
}

/// One arm less another, reference by reference; of several seeds each reference counts as its mean over them.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Difference {
    pub(crate) interval: Interval,
    pub(crate) by_seed: Vec<f64>,
}

impl Difference {
    /// Not by chance of the references, nor of one seed: the interval excludes zero and all seeds agree in sign.
    pub(crate) fn is_clear(&self) -> bool {
        let sign = self.interval.mean.signum();
        self.interval.excludes_zero() && self.by_seed.iter().all(|mean| mean * sign > 0.0)
    }
}

/// All that was found.
#[derive(Debug)]
pub(crate) struct Results {
    pub(crate) runs: Vec<Run>,
}

impl Results {
    /// One run a line.
    ///
    /// # Errors
    /// If the file cannot be read, is none, or mixes runs of different sizes.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let runs = serde_json::from_str(&text).with_context(|| format!("{} is not of this command", path.display()))?;
        Self::new(runs).with_context(|| format!("{} cannot be used", path.display()))
    }

    /// # Errors
    /// If there are none, or they are of different sizes.
    pub(crate) fn new(runs: Vec<Run>) -> Result<Self> {
        let first = runs.first().context("there are no runs")?;
        ensure!(runs.iter().all(|run| run.settings == first.settings), "the runs are of different sizes");
        let num = first.settings.num_references;
        let is_whole = |drawing: &Drawing| {
            [drawing.clip_i.len(), drawing.clip_t.len(), drawing.judged.len()].iter().all(|len| *len == num)
        };
        ensure!(
            runs.iter().flat_map(|run| &run.drawings).all(is_whole),
            "a drawing has not the {num} references that its settings name"
        );
        Ok(Self { runs })
    }

    /// # Errors
    /// If the file cannot be written.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let lines = self.runs.iter().map(serde_json::to_string).collect::<Result<Vec<_>, _>>()?;
        let text = format!("[\n{}\n]\n", lines.join(",\n"));
        Ok(write_atomically(path, |file| file.write_all(text.as_bytes()))?)
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.runs[0].settings
    }

    pub(crate) fn of_arm(&self, arm: &str) -> impl Iterator<Item = &Run> {
        self.runs.iter().filter(move |run| run.arm == arm)
    }

    /// Mean over the references, each the mean over the seeds; none if the arm was not drawn so.
    pub(crate) fn mean(&self, arm: &str, at: (Condition, f64), measure: Measure) -> Option<Interval> {
        let seeds: Vec<Vec<f64>> = self.of_arm(arm).filter_map(|run| values(run, at, measure)).collect();
        bootstrap_mean(&over_seeds(&seeds)?, RESAMPLING_SEED).ok()
    }

    /// `arm` less `against` at λ = 1, over the seeds that both have.
    pub(crate) fn difference(
        &self,
        (arm, against): (&str, &str),
        condition: Condition,
        measure: Measure,
    ) -> Option<Difference> {
        let of = |run: &Run| values(run, (condition, SCALE), measure);
        let pairs: Vec<(Vec<f64>, Vec<f64>)> = self
            .of_arm(arm)
            .filter_map(|run| of(run).zip(of(self.of_arm(against).find(|other| other.seed == run.seed)?)))
            .collect();
        let (own, other): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
        let by_seed = own.iter().zip(&other).map(|(own, other)| mean(own) - mean(other)).collect();
        let interval = paired_difference(&over_seeds(&other)?, &over_seeds(&own)?, RESAMPLING_SEED).ok()?;
        Some(Difference { interval, by_seed })
    }
}

fn values(run: &Run, (condition, scale): (Condition, f64), measure: Measure) -> Option<Vec<f64>> {
    let drawing = run.drawings.iter().find(|drawing| drawing.condition == condition && drawing.scale == scale)?;
    Some(measure.of(drawing))
}

/// By reference; none without seeds.
fn over_seeds(seeds: &[Vec<f64>]) -> Option<Vec<f64>> {
    let first = seeds.first()?;
    Some((0..first.len()).map(|index| seeds.iter().map(|seed| seed[index]).sum::<f64>() / seeds.len() as f64).collect())
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}
