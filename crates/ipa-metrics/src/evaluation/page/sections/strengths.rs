//! The sweep over λ.

use maud::{Markup, html};

use super::super::super::report::{AtScale, EvaluationReport, MethodReport};
use super::super::super::{Row, Set};
use super::super::charts::{Words, sweep};
use super::super::figures::{Heading, cell, grid};
use super::super::pictures::ReportPictures;
use super::{MAX_CASES, cosine, groups, or_dash, reference};
use crate::{Interval, Report};

/// The sweep over λ.
pub(in super::super) fn strengths(page: &mut Report, report: &EvaluationReport, pictures: &ReportPictures) {
    let swept: Vec<&MethodReport> =
        report.adapters.iter().filter(|method| method.scale_sensitivity.is_some()).collect();
    if swept.is_empty() {
        return;
    }
    page.section("Strength λ");
    page.paragraph(
        "The stronger the reference, the more of it comes through and, as a rule, the less of the prompt. A good adapter has \
         a strength at which both do.",
    );
    let curve = |value: fn(&AtScale) -> Option<Interval>| {
        groups(report, move |method| {
            let scales = method.scale_sensitivity.iter().flat_map(|sensitivity| &sensitivity.scales);
            scales.filter_map(|at| Some((at.scale, value(at)?))).collect()
        })
    };
    let words =
        |title, y| Words { title, labels: ["λ", y], note: "Means over tests; lines up and down: 95 % intervals." };
    let (likeness, following) = (curve(|at| Some(at.clip_i)), curve(|at| at.clip_t));
    page.push(html! {
        div.charts {
            (sweep(&words("Likeness to the reference", "CLIP-I"), &likeness))
            @if !following.is_empty() { (sweep(&words("Prompt following", "CLIP-T"), &following)) }
        }
    });
    for method in &swept {
        page.push(strength_grid(report, method, pictures));
    }
    let rows = swept.iter().flat_map(|method| {
        let scales = method.scale_sensitivity.iter().flat_map(|sensitivity| &sensitivity.scales);
        scales.map(|at| {
            let combined = or_dash(at.score.map(|score| format!("{:.1}", score.combined)));
            let grade = or_dash(at.score.map(|score| score.grade.to_string()));
            vec![method.name.clone(), at.scale.to_string(), cosine(Some(at.clip_i)), cosine(at.clip_t), combined, grade]
        })
    });
    page.table(&["adapter", "λ", "CLIP-I", "CLIP-T", "combined %", "grade"], &rows.collect::<Vec<_>>());
    page.paragraph(
        "The trend is Kendall's τ: 1 where a cosine rises at every step of λ, −1 where it falls at every step, near 0 where it \
         does neither.",
    );
    page.table(
        &["adapter", "trend of CLIP-I", "trend of CLIP-T", "best combined at λ", "no worse beyond chance"],
        &swept.iter().filter_map(|method| trends(method)).collect::<Vec<_>>(),
    );
}

fn trends(method: &MethodReport) -> Option<Vec<String>> {
    let found = method.scale_sensitivity.as_ref()?;
    let trend = |trend: f64| format!("{trend:.2}");
    let best = or_dash(found.best.as_ref().map(|best| best.scale.to_string()));
    let as_good: Vec<String> = found.best.iter().flat_map(|best| &best.as_good).map(f64::to_string).collect();
    let as_good = if as_good.is_empty() { "–".to_owned() } else { as_good.join(", ") };
    Some(vec![method.name.clone(), trend(found.clip_i_trend), or_dash(found.clip_t_trend.map(trend)), best, as_good])
}

fn strength_grid(report: &EvaluationReport, method: &MethodReport, pictures: &ReportPictures) -> Markup {
    let scales: Vec<f64> = method.scale_sensitivity.iter().flat_map(|found| &found.scales).map(|at| at.scale).collect();
    let columns: Vec<String> =
        std::iter::once("reference".to_owned()).chain(scales.iter().map(|scale| format!("λ = {scale}"))).collect();
    let mut rows = Vec::new();
    for case in method.test_cases.iter().take(MAX_CASES / 2) {
        let at = |scale: &f64| {
            let is_meant = |row: &&Row| {
                row.set == Set::Tests && row.case == case.case && row.method == method.name && row.prompt_index == 0
            };
            let row = report.pictures.iter().filter(is_meant).find(|row| row.scale == *scale)?;
            Some(cell(row, &format!("{}, {}, λ = {scale}", case.case, method.name)))
        };
        let reference = reference(&case.case, &case.reference);
        let cells = std::iter::once(Some(reference)).chain(scales.iter().map(at)).collect();
        rows.push((Heading { name: &case.case, more: &case.prompt }, cells));
    }
    html! { h3 { (method.name) } (grid(&format!("{} by strength", method.name), &columns, &rows, pictures)) }
}
