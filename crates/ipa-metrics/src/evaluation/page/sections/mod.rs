//! The sections of the page; one without measurements is left out.

mod about;
mod compared;
mod references;
mod scores;
mod strengths;
mod variety;

pub(super) use about::{judges, reading, settings, skipped};
pub(super) use compared::{comparisons, likeness_and_prompt};
pub(super) use references::{held_out, protocol};
pub(super) use scores::{score_cards, tests};
pub(super) use strengths::strengths;
pub(super) use variety::{copying, seeds_and_prompts};

use super::super::report::{EvaluationReport, MethodReport};
use super::super::{Row, Set};
use super::charts::Group;
use super::figures::Cell;
use super::pictures::ReportPictures;
use crate::Interval;

const MAX_CASES: usize = ReportPictures::MAX_CASES;

/// A method's place in the settings, which is its colour.
pub(super) fn place(report: &EvaluationReport, name: &str) -> usize {
    report.settings.method(name).map_or(0, |(place, _)| place)
}

/// The values of the methods that have any, for a chart.
pub(super) fn groups<'a, T>(
    report: &'a EvaluationReport,
    values: impl Fn(&MethodReport) -> Vec<T>,
) -> Vec<Group<'a, T>> {
    let group = |method: &'a MethodReport| Group {
        name: &method.name,
        colour: place(report, &method.name),
        values: values(method),
    };
    report.methods().map(group).filter(|group| !group.values.is_empty()).collect()
}

pub(super) fn cosine(interval: Option<Interval>) -> String {
    or_dash(interval.map(|interval| format!("{interval:.3}")))
}

/// The pictures of a method that count where no strength is named.
pub(super) fn scored<'a>(report: &'a EvaluationReport, method: &'a MethodReport) -> impl Iterator<Item = &'a Row> {
    report.pictures.iter().filter(|row| row.method == method.name && report.settings.counts(row))
}

/// The reference of a case, without numbers.
pub(super) fn reference<'a>(case: &str, file: &'a str) -> Cell<'a> {
    Cell { file, alt: format!("{case}, reference"), numbers: Vec::new(), prompt: "" }
}

/// The heading of the references' column, and those of the others.
pub(super) fn columns<'a>(others: impl Iterator<Item = &'a MethodReport>) -> Vec<String> {
    std::iter::once("reference".to_owned()).chain(others.map(|method| method.name.clone())).collect()
}

/// A number that may be missing.
pub(super) fn or_dash(number: Option<String>) -> String {
    number.unwrap_or_else(|| "–".to_owned())
}

/// A set in words.
pub(super) fn set(set: Set) -> &'static str {
    match set {
        Set::Tests => "tests",
        Set::HeldOut => "held\u{2011}out",
        Set::Protocol => "protocol",
        Set::Training => "training pictures",
    }
}
