//! Methods against each other.

use super::super::super::Set;
use super::super::super::report::{Comparison, EvaluationReport, MethodReport};
use super::super::charts::{Words, scatter};
use super::{cosine, groups, scored, set};
use crate::{Interval, Report};

/// Paired differences.
pub(in super::super) fn comparisons(page: &mut Report, report: &EvaluationReport) {
    if report.comparisons.is_empty() {
        return;
    }
    page.section("Against the baselines");
    page.paragraph(
        "Differences case by case, so that easy and hard cases cancel out. In brackets the 95 % interval: where it \
         holds 0, the difference could be chance; with fewer than six cases it could be in any case.",
    );
    let row = |found: &Comparison| {
        let name = format!("{} − {}", found.method, found.against);
        vec![
            name,
            set(found.set).to_owned(),
            num_cases(found),
            cosine(Some(found.clip_i)),
            cosine(found.clip_t),
            could_be_chance(found).to_owned(),
        ]
    };
    let rows: Vec<Vec<String>> = report.comparisons.iter().map(row).collect();
    page.table(&["difference", "over", "cases", "CLIP-I", "CLIP-T", "could be chance"], &rows);
}

/// Over how many cases; CLIP-T may have fewer.
fn num_cases(found: &Comparison) -> String {
    match found.num_clip_t_cases {
        0 => found.num_cases.to_string(),
        num if num == found.num_cases => num.to_string(),
        num => format!("{}, CLIP-T {num}", found.num_cases),
    }
}

/// Which of the two differences could be chance.
fn could_be_chance(found: &Comparison) -> &'static str {
    match (found.is_likeness_beyond_chance(), found.is_following_beyond_chance()) {
        _ if found.has_few_cases() => "too few cases",
        (true, Some(false)) => "CLIP-T",
        (true, _) => "none",
        (false, Some(false)) => "both",
        (false, _) => "CLIP-I",
    }
}

/// Both cosines of every picture.
pub(in super::super) fn likeness_and_prompt(page: &mut Report, report: &EvaluationReport) {
    // What the crosses are means of, and nothing else.
    let shown = match report.methods().any(|method| method.tests.is_some()) {
        true => Set::Tests,
        false => Set::Protocol,
    };
    let values = |method: &MethodReport| -> Vec<(f64, f64)> {
        let rows = scored(report, method).filter(|row| row.set == shown && row.prompt_index == 0);
        rows.filter_map(|row| Some((row.text_cosine.or(row.caption_cosines.first().copied())?, row.image_cosine)))
            .collect()
    };
    let groups = groups(report, values);
    if groups.iter().map(|group| group.values.len()).sum::<usize>() < 3 {
        return;
    }
    let mean = |name: &str| {
        let method = report.methods().find(|method| method.name == name)?;
        let summary = if shown == Set::Tests { method.tests.as_ref() } else { method.protocol.as_ref() }?;
        Some([summary.clip_t.or(summary.captions.as_ref().map(|captions| captions.first))?, summary.clip_i])
    };
    let means: Vec<Option<[Interval; 2]>> = groups.iter().map(|group| mean(group.name)).collect();
    page.section("Likeness and prompt together");
    page.push(scatter(
        &Words {
            title: "Every picture with its case's own prompt by its two cosines",
            labels: ["CLIP-T, like the prompt", "CLIP-I, like the reference"],
            note: "Best is the upper right. Crosses: means with 95 % intervals.",
        },
        &groups,
        &means,
    ));
}
