//! From measurements to a report: pure functions of the sorted rows, so that equal rows give equal bytes.

mod compare;
mod judges;
mod method;
mod strengths;
mod variety;

use super::report::MissingPart;
use super::verdict::verdict;
use super::{EvaluationError, EvaluationReport, Measurements, MethodKind, PublishedScores, Row, SCHEMA_VERSION, Set};
use crate::protocol::Protocol;
use crate::{Interval, MAPPING, MetricsError, bootstrap_mean};

const RESAMPLING_SEED: u64 = 0;

impl Measurements {
    /// The report of all that was measured. Sections without measurements are missing.
    ///
    /// # Errors
    /// [`EvaluationError::Metrics`] if embeddings cannot be compared, which those that were taken in can.
    pub fn report(&self) -> Result<EvaluationReport, EvaluationError> {
        let settings = self.settings();
        let methods: Vec<_> =
            settings.methods.iter().map(|method| method::report(self, method)).collect::<Result<_, _>>()?;
        let comparisons = compare::comparisons(self)?;
        let is_protocol = self.rows().any(|row| row.set == Set::Protocol);
        let (adapters, baselines) = methods.into_iter().partition(|method| method.kind == MethodKind::Adapter);
        let mut report = EvaluationReport {
            schema_version: SCHEMA_VERSION,
            verdict: Vec::new(),
            settings: settings.clone(),
            mapping: MAPPING.to_owned(),
            adapters,
            baselines,
            comparisons,
            published: is_protocol.then(PublishedScores::paper),
            missing_part: self.missing_part().map(|(num_images, of)| MissingPart { num_images, of }),
            skipped: self.skipped().cloned().collect(),
            pictures: self.rows().map(|row| Row { embedding: None, ..row.clone() }).collect(),
        };
        let num_images = report.adapters.iter().filter_map(|method| Some(method.protocol.as_ref()?.num_cases)).max();
        if let (Some(published), Some(num_images)) = (&mut report.published, num_images) {
            published.deviations = Protocol::paper().deviations(&report.settings, num_images);
        }
        report.verdict = verdict(&report);
        Ok(report)
    }
}

/// A case's name and the mean of its pictures.
type CaseMean<'a> = (&'a str, f64);

/// The mean of every case, in order; a case with a picture that lacks the value is left out.
fn case_means<'a>(rows: &[&'a Row], value: impl Fn(&Row) -> Option<f64>) -> Vec<CaseMean<'a>> {
    cases(rows).filter_map(|pictures| mean_of(pictures, &value).map(|mean| (pictures[0].case.as_str(), mean))).collect()
}

/// The pictures of every case, in order.
fn cases<'r, 'a>(rows: &'r [&'a Row]) -> impl Iterator<Item = &'r [&'a Row]> {
    rows.chunk_by(|a, b| a.set == b.set && a.case == b.case)
}

/// The mean of a value that all rows have.
fn mean_of(rows: &[&Row], value: impl Fn(&Row) -> Option<f64>) -> Option<f64> {
    let values: Vec<f64> = rows.iter().map(|row| value(row)).collect::<Option<_>>()?;
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// The interval of the means of cases; nothing without any.
fn interval(means: &[CaseMean<'_>], what: &str) -> Result<Option<Interval>, EvaluationError> {
    if means.is_empty() {
        return Ok(None);
    }
    let values: Vec<f64> = means.iter().map(|(_, mean)| *mean).collect();
    bootstrap_mean(&values, RESAMPLING_SEED).map(Some).map_err(|source| failed(what, source))
}

fn failed(what: &str, source: MetricsError) -> EvaluationError {
    EvaluationError::Metrics { what: what.to_owned(), source }
}

/// The cosine with the first caption.
fn first_caption(row: &Row) -> Option<f64> {
    row.caption_cosines.first().copied()
}
