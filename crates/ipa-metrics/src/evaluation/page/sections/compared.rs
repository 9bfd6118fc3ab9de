//! Methods against each other.

use super::super::super::report::{Comparison, EvaluationReport, MethodReport};
use super::super::charts::{Words, scatter};
use super::{cosine, groups, is_scored, set};
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
            found.num_cases.to_string(),
            cosine(Some(found.clip_i)),
            cosine(found.clip_t),
            could_be_chance(found).to_owned(),
        ]
    };
    let rows: Vec<Vec<String>> = report.comparisons.iter().map(row).collect();
    page.table(&["difference", "over", "cases", "CLIP-I", "CLIP-T", "could be chance"], &rows);
}

/// Which of the two differences could be chance.
fn could_be_chance(found: &Comparison) -> &'static str {
    let following = found.clip_t.as_ref().map(|clip_t| found.is_beyond_chance(clip_t));
    match (found.is_beyond_chance(&found.clip_i), following) {
        _ if found.has_few_cases() => "too few cases",
        (true, Some(false)) => "CLIP-T",
        (true, _) => "none",
        (false, Some(false)) => "both",
        (false, _) => "CLIP-I",
    }
}

/// Both cosines of every picture.
pub(in super::super) fn likeness_and_prompt(page: &mut Report, report: &EvaluationReport) {
    let values = |method: &MethodReport| -> Vec<(f64, f64)> {
        let rows = report.pictures.iter().filter(|row| is_scored(report, method, row));
        rows.filter_map(|row| Some((row.text_cosine.or(row.caption_cosines.first().copied())?, row.image_cosine)))
            .collect()
    };
    let groups = groups(report, values);
    if groups.iter().map(|group| group.values.len()).sum::<usize>() < 3 {
        return;
    }
    let mean = |name: &str| {
        let method = report.methods().find(|method| method.name == name)?;
        let summary = method.tests.as_ref().or(method.protocol.as_ref())?;
        Some([summary.clip_t.or(summary.captions.as_ref().map(|captions| captions.first))?, summary.clip_i])
    };
    let means: Vec<Option<[Interval; 2]>> = groups.iter().map(|group| mean(group.name)).collect();
    page.section("Likeness and prompt together");
    page.push(scatter(
        &Words {
            title: "Every picture by its two cosines",
            labels: ["CLIP-T, like the prompt", "CLIP-I, like the reference"],
            note: "Best is the upper right. Crosses: means with 95 % intervals.",
        },
        &groups,
        &means,
    ));
}
