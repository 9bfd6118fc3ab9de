//! The grades, and the test cases that they are of.

use maud::{Markup, html};

use super::super::super::report::{EvaluationReport, MethodReport, Summary, TestCase};
use super::super::super::{MethodKind, Row, Set};
use super::super::charts::{Words, bars};
use super::super::figures::{Heading, cell, grid};
use super::super::pictures::ReportPictures;
use super::{MAX_CASES, columns, cosine, groups, or_dash, reference, scored};
use crate::report::score::{bar, tone};
use crate::{CaseScore, Interval, Report};

/// A card for each adapter that has a score.
pub(in super::super) fn score_cards(report: &EvaluationReport) -> Markup {
    let scored = report.adapters.iter().filter_map(|method| Some((method, method.tests.as_ref()?)));
    let scored: Vec<_> = scored.filter_map(|(method, tests)| Some((method, tests, tests.score?))).collect();
    html! {
        @if !scored.is_empty() {
            div.scores { @for (method, tests, score) in &scored { (score_card(report, method, tests, score)) } }
            p.note { (report.mapping) }
        }
    }
}

fn score_card(report: &EvaluationReport, method: &MethodReport, tests: &Summary, score: &CaseScore) -> Markup {
    let shown = |name: &str, interval: Option<Interval>| interval.map(|interval| format!("{name} {interval:.3}"));
    let calibrated = tests.calibrated.map(|interval| format!("calibrated {interval:.0}"));
    let over_text = report.over_text_only(&method.name).map(|found| found.clip_i);
    let lines = [
        shown("CLIP-I over text only", over_text),
        shown("CLIP-I", Some(tests.clip_i)),
        shown("CLIP-T", tests.clip_t),
        calibrated,
    ];
    html! {
        article.card.score {
            h3 { (method.name) }
            p.prompt { (tests.graded_cases()) }
            p.total {
                span.percent { (format!("{:.1}", score.combined)) small { " %" } }
                span class={ "grade " (tone(score.grade)) } aria-label={ "Grade " (score.grade) } { (score.grade) }
            }
            (bar("Reference preservation", score.reference_preservation, score.image_cosine))
            (bar("Prompt following", score.prompt_following, score.text_cosine))
            p.raw.all { @for line in lines.into_iter().flatten() { (line) br; } }
        }
    }
}

fn kind(kind: MethodKind) -> &'static str {
    match kind {
        MethodKind::Adapter => "adapter",
        MethodKind::TextOnly => "the prompt without the reference",
        MethodKind::ReferenceItself => "the reference handed back",
    }
}

/// A picture of each method, case by case.
pub(in super::super) fn tests(page: &mut Report, report: &EvaluationReport, pictures: &ReportPictures) {
    let shown: Vec<&MethodReport> = report
        .methods()
        .filter(|method| method.kind != MethodKind::ReferenceItself && !method.test_cases.is_empty())
        .collect();
    let Some(first) = shown.iter().max_by_key(|method| method.test_cases.len()) else { return };
    page.section("Tests");
    let has_text_only = shown.iter().any(|method| method.kind == MethodKind::TextOnly);
    page.paragraph(&format!(
        "Each test has a reference and a prompt. Adapters draw at λ = {}{}. Select a picture to enlarge it; the arrow keys \
         go on to the next.",
        report.settings.scale,
        if has_text_only { "; \"text only\" sees no reference" } else { "" }
    ));
    let rows = first.test_cases.iter().take(MAX_CASES).map(|case| {
        let reference = reference(&case.case, &case.reference);
        let drawn = shown.iter().map(|method| {
            let is_meant = |row: &&Row| row.set == Set::Tests && row.case == case.case && row.prompt_index == 0;
            Some(cell(scored(report, method).find(is_meant)?, &format!("{}, {}", case.case, method.name)))
        });
        let cells: Vec<_> = std::iter::once(Some(reference)).chain(drawn).collect();
        (Heading { name: &case.case, more: &case.prompt }, cells)
    });
    page.push(grid("Tests by method", &columns(shown.iter().copied()), &rows.collect::<Vec<_>>(), pictures));
    let cases: Vec<&str> = first.test_cases.iter().take(MAX_CASES).map(|case| case.case.as_str()).collect();
    page.push(case_bars(report, &cases));
    page.table(
        &["method", "what it is", "CLIP-I", "CLIP-T", "calibrated"],
        &report.methods().filter_map(overview).collect::<Vec<_>>(),
    );
    let header =
        ["method", "test", "CLIP-I", "CLIP-T", "preservation %", "following %", "combined %", "grade", "calibrated"];
    let is_shown = |case: &&TestCase| cases.contains(&case.case.as_str());
    // That a reference is most like itself is no news.
    let rows =
        shown.iter().flat_map(|method| method.test_cases.iter().filter(is_shown).map(move |case| test(method, case)));
    page.table(&header, &rows.collect::<Vec<_>>());
    if first.test_cases.len() > MAX_CASES {
        page.paragraph(&format!(
            "Shown are the first {MAX_CASES} of {} tests; the files beside the page have all.",
            first.test_cases.len()
        ));
    }
}

/// A method over all tests.
fn overview(method: &MethodReport) -> Option<Vec<String>> {
    let Summary { clip_i, clip_t, calibrated, .. } = method.tests.as_ref()?;
    let calibrated = or_dash(calibrated.map(|interval| format!("{interval:.0}")));
    Some(vec![method.name.clone(), kind(method.kind).to_owned(), cosine(Some(*clip_i)), cosine(*clip_t), calibrated])
}

/// A test; grades are for adapters.
fn test(method: &MethodReport, case: &TestCase) -> Vec<String> {
    let percent = |value: fn(&CaseScore) -> f64| or_dash(case.score.map(|score| format!("{:.1}", value(&score))));
    let grade = case.score.filter(|_| method.kind == MethodKind::Adapter).map(|score| score.grade.to_string());
    vec![
        method.name.clone(),
        case.case.replace(' ', "\u{a0}"), // on one line
        format!("{:.3}", case.clip_i),
        or_dash(case.clip_t.map(|clip_t| format!("{clip_t:.3}"))),
        percent(|score| score.reference_preservation),
        percent(|score| score.prompt_following),
        percent(|score| score.combined),
        or_dash(grade),
        or_dash(case.calibrated.map(|calibrated| format!("{calibrated:.0}"))),
    ]
}

/// CLIP-I by case, and the mean of all with its interval.
fn case_bars(report: &EvaluationReport, cases: &[&str]) -> Markup {
    let value = |method: &MethodReport| -> Vec<Option<Interval>> {
        let of_case = |case: &&str| {
            let mean = method.test_cases.iter().find(|found| found.case == **case)?.clip_i;
            Some(Interval { mean, low: mean, high: mean })
        };
        let all = method.tests.as_ref().map(|tests| tests.clip_i);
        let is_shown = method.kind != MethodKind::ReferenceItself && all.is_some();
        if is_shown { cases.iter().map(of_case).chain([all]).collect() } else { Vec::new() }
    };
    let names: Vec<&str> = cases.iter().copied().chain(["all"]).collect();
    let words = Words {
        title: "Likeness to the reference, test by test",
        labels: ["CLIP-I", ""],
        note: "Last: the mean over all tests with its 95 % interval.",
    };
    bars(&words, &names, &groups(report, value))
}
