//! What an evaluation says at its end: one screen, or one line of JSON.

use std::path::Path;

use anyhow::Result;
use ipa_metrics::evaluation::{Comparison, EvaluationReport, MethodKind, MethodReport, Remark, Skipped, Summary, Tone};
use ipa_metrics::{CaseScore, Interval};
use serde::Serialize;

use crate::output;

/// The line of `--json`: the report but for settings and single pictures, which its file has.
#[derive(Serialize)]
struct Line<'a> {
    report: std::path::PathBuf,
    verdict: &'a [Remark],
    adapters: &'a [MethodReport],
    baselines: &'a [MethodReport],
    comparisons: &'a [Comparison],
    skipped: &'a [Skipped],
}

/// Tells what was found, and where the report is.
///
/// # Errors
/// If nobody reads on.
pub(super) fn tell(report: &EvaluationReport, folder: &Path, json: bool) -> Result<()> {
    if json {
        let EvaluationReport { verdict, adapters, baselines, comparisons, skipped, .. } = report;
        let report = folder.join("evaluation_report.json");
        return Ok(output::json_line(&Line { report, verdict, adapters, baselines, comparisons, skipped })?);
    }
    for row in table(report) {
        output::line(row)?;
    }
    output::line("")?;
    for Remark { tone, text } in &report.verdict {
        let mark = if *tone == Tone::Caution { '!' } else { ' ' };
        output::line(format_args!("{mark} {text}"))?;
    }
    output::line(format_args!("\nreport: {}", folder.join("report.html").display()))?;
    Ok(())
}

/// A line for every method and set.
fn table(report: &EvaluationReport) -> Vec<String> {
    let rows: Vec<[String; 6]> = report.methods().flat_map(rows).collect();
    let header = ["method", "of", "CLIP-I", "CLIP-T", "combined", "calibrated"].map(str::to_owned);
    let all: Vec<&[String; 6]> = std::iter::once(&header).chain(&rows).collect();
    let width = |column: usize| all.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let line = |row: &&[String; 6]| {
        let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    all.iter().map(line).collect()
}

fn rows(method: &MethodReport) -> Vec<[String; 6]> {
    let sets = [
        (["test", "tests"], &method.tests),
        (["held-out"; 2], &method.held_out),
        (["image", "images"], &method.protocol),
    ];
    let row = |([one, many], summary): ([&str; 2], &Summary)| {
        let cosine = |interval: Option<Interval>| interval.map(|found| format!("{found:.3}")).unwrap_or_default();
        let clip_t = summary.clip_t.or(summary.captions.as_ref().map(|captions| captions.first));
        // Grades are for adapters.
        let grade = |score: CaseScore| match method.kind {
            MethodKind::Adapter => format!("{:.0} % {}", score.combined, score.grade),
            _ => format!("{:.0} %", score.combined),
        };
        let combined = summary.score.map(grade);
        let calibrated = summary.calibrated.map(|interval| format!("{:.0}", interval.mean));
        [
            method.name.clone(),
            format!("{} {}", summary.num_cases, if summary.num_cases == 1 { one } else { many }),
            cosine(Some(summary.clip_i)),
            cosine(clip_t),
            combined.unwrap_or_default(),
            calibrated.unwrap_or_default(),
        ]
    };
    sets.into_iter().filter_map(|(of, summary)| Some((of, summary.as_ref()?))).map(row).collect()
}
