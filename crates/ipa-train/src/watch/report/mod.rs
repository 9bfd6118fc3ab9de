//! `training_report.html`: a run as one page that needs no other file.

mod curves;
mod samples;
mod settings;
mod usage;
mod verdict;

use std::ops::RangeInclusive;
use std::path::Path;

use ipa_formats::{FormatError, write_atomically};
use ipa_metrics::Report;
use serde_json::Value;

use super::{StepLoss, ValidationResult};

pub use usage::TrainedAdapter;

/// Something by its name.
pub type Fact = (String, String);

/// All that the page shows.
#[derive(Debug, Clone)]
pub struct ReportInput<'a> {
    /// Heads the page.
    pub title: &'a str,
    /// The output folder, where the grids of the validations are looked for.
    pub folder: &'a Path,
    /// Steps that the run was to have; `losses` says how many it has.
    pub steps: u64,
    /// Timesteps that were drawn.
    pub timesteps: RangeInclusive<i64>,
    /// The lines of losses.jsonl.
    pub losses: &'a [StepLoss],
    /// The lines of validation.jsonl.
    pub validations: &'a [ValidationResult],
    /// The best of them, if there is one.
    pub best: Option<BestStep>,
    /// The configuration with all defaults in place.
    pub settings: &'a Value,
    /// What was learned from: rows, held-out rows, sizes, where from.
    pub data: &'a [Fact],
    /// What it ran on and how long: device, precision, hours, memory.
    pub run: &'a [Fact],
    /// What was written, paths relative to the page, and what each is.
    pub files: &'a [Fact],
    /// The finished adapter; none of a run that has not ended.
    pub adapter: Option<TrainedAdapter>,
}

/// The validation that a run is judged by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BestStep {
    /// Steps done then.
    pub step: u64,
    /// What it was best in: `loss`, or the name of a score.
    pub metric: String,
}

/// Writes the page; equal inputs give equal bytes.
///
/// What there is nothing of, it says, and how to get it. A grid that cannot be read is named on the page, not an error.
///
/// # Errors
/// [`FormatError::Write`] if the page cannot be written; one that was there before then remains.
pub fn write_report(path: &Path, input: &ReportInput) -> Result<(), FormatError> {
    write_atomically(path, |file| file.write_all(html(input).as_bytes()))
}

fn html(input: &ReportInput) -> String {
    let mut page = Report::new(input.title, subtitle(input));
    for sentence in verdict::sentences(input) {
        page.paragraph(&sentence);
    }
    curves::training(&mut page, input);
    curves::validation(&mut page, input);
    samples::section(&mut page, input);
    facts(&mut page, "Data", input.data, "Nothing was noted of the data.");
    facts(&mut page, "Run", input.run, "Nothing was noted of the machine.");
    settings::section(&mut page, input.settings);
    files(&mut page, input.files);
    usage::section(&mut page, input.adapter.as_ref());
    page.to_html()
}

fn subtitle(input: &ReportInput) -> String {
    let done = input.losses.last().map_or(0, |line| line.step);
    let variant = input.adapter.as_ref().map(|adapter| format!("{} adapter, ", adapter.variant)).unwrap_or_default();
    match done == input.steps {
        true => format!("{variant}{done} steps"),
        false => format!("{variant}stopped after {done} of {} steps", input.steps),
    }
}

fn facts(page: &mut Report, title: &str, facts: &[Fact], none: &str) {
    page.section(title);
    match facts.is_empty() {
        true => page.paragraph(none),
        false => page.key_values(facts),
    };
}

fn files(page: &mut Report, files: &[Fact]) {
    page.section("Files");
    if files.is_empty() {
        page.paragraph("No files were noted.");
    }
    for (path, what) in files {
        page.file(path, what);
    }
}

/// The name of a score, or of the loss, for people.
fn score_name(name: &str) -> String {
    match name {
        "loss" => "held-out loss".to_owned(),
        "clip_i" => "CLIP-I".to_owned(),
        "clip_i_own_encoder" => "CLIP-I in the adapter's own encoder".to_owned(),
        "clip_t" => "CLIP-T".to_owned(),
        _ => name.replace('_', " "),
    }
}

/// A loss or a score with the digits that one compares.
fn number(value: f64) -> String {
    match value.abs() {
        0.0 | 0.001..1000.0 => format!("{value:.4}"),
        _ => format!("{value:.3e}"),
    }
}
