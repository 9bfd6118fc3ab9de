//! What judges found, what was skipped, how to read the numbers, and how they were made.

use maud::html;

use super::super::super::Set;
use super::super::super::report::EvaluationReport;
use super::set;
use crate::Report;

/// What judges of pixels found.
pub(in super::super) fn judges(page: &mut Report, report: &EvaluationReport) {
    let rows: Vec<Vec<String>> = report
        .methods()
        .flat_map(|method| {
            let sets =
                [(Set::Tests, &method.tests), (Set::HeldOut, &method.held_out), (Set::Protocol, &method.protocol)];
            sets.into_iter().filter_map(|(set, found)| Some((set, found.as_ref()?))).flat_map(move |(of, found)| {
                found.judged.iter().map(move |(what, share)| {
                    let percent = |value: f64| format!("{:.0}", 100.0 * value);
                    let range = format!("{} [{}, {}]", percent(share.mean), percent(share.low), percent(share.high));
                    vec![method.name.clone(), set(of).to_owned(), what.clone(), range]
                })
            })
        })
        .collect();
    if rows.is_empty() {
        return;
    }
    page.section("Judged from pixels");
    page.paragraph(
        "Share of pictures that show what the reference shows, in per cent, judged without any network. In brackets 95 % \
         intervals: Wilson's over pictures; where a case has several, each end is the outer one of that and of the bootstrap's \
         over cases.",
    );
    page.table(&["method", "over", "attribute", "right, %"], &rows);
}

/// What could not be evaluated.
pub(in super::super) fn skipped(page: &mut Report, report: &EvaluationReport) {
    if report.skipped.is_empty() {
        return;
    }
    page.section("Skipped");
    let rows: Vec<Vec<String>> = report
        .skipped
        .iter()
        .map(|skip| vec![skip.case.clone(), skip.file.clone(), set(skip.set).to_owned(), skip.reason.clone()])
        .collect();
    page.table(&["case", "file", "of the", "reason"], &rows);
}

/// Each number in a sentence.
pub(in super::super) fn reading(page: &mut Report, report: &EvaluationReport) {
    let scale = report.settings.calibration.map(|found| {
        format!(
            "CLIP-I on this CLIP's own scale: 0 where shuffled pictures are ({:.3}), 100 where real pictures of one thing are \
             ({:.3}).",
            found.shuffled, found.real
        )
    });
    let terms = [
        (
            "CLIP-I",
            "Cosine of the image embeddings of picture and reference, at most 1. Higher is more alike; near 1 it may be a copy.",
        ),
        (
            "CLIP-T",
            "Cosine of the picture's embedding and the prompt's. Real matching pairs have 0.2 to 0.35 under most CLIPs; 1 is out of reach.",
        ),
        (
            "Preservation, following, combined, grade",
            "The two cosines as percentages, their mean, and a school grade; over several tests, the means of theirs. A summary to \
             glance at, not a measurement.",
        ),
        (
            "Intervals in brackets",
            "95 % bootstrap intervals over cases: were other cases drawn from the same source, their mean would mostly lie there. \
             Of fewer than six cases they are no wider than the cases themselves, and too narrow; one case has none.",
        ),
        ("λ", "Strength of the reference: 0 none, 1 as trained."),
    ];
    let ends = (!report.baselines.is_empty()).then_some((
        "Text only, reference itself",
        "The two ends: no reference at all, and nothing but the reference. An adapter belongs between them.",
    ));
    page.section("How to read the numbers");
    page.push(html! {
        dl.terms.card {
            @for (term, meaning) in terms.into_iter().chain(ends) { div { dt { (term) } dd { (meaning) } } }
            @if let Some(scale) = scale { div { dt { "Calibrated" } dd { (scale) } } }
        }
    });
    page.paragraph("Numbers of different scoring CLIPs are not comparable. docs/accuracy.md says more about each.");
}

/// How it was drawn, what was decided, and the files beside the page.
pub(in super::super) fn settings(page: &mut Report, report: &EvaluationReport) {
    let settings = &report.settings;
    let scales = settings.scales.iter().map(f64::to_string).collect::<Vec<_>>().join(", ");
    let mut facts = vec![
        ("Model".to_owned(), settings.model.clone()),
        ("Scored by".to_owned(), settings.metric_model.clone()),
        ("λ".to_owned(), settings.scale.to_string()),
        ("λ of the sweep".to_owned(), if scales.is_empty() { "none".to_owned() } else { scales }),
        ("Sampler".to_owned(), format!("{}, {} steps", settings.sampler, settings.num_steps)),
        ("Guidance scale".to_owned(), settings.guidance_scale.to_string()),
        ("Size".to_owned(), format!("{} × {}", settings.size[0], settings.size[1])),
    ];
    let digests = settings.methods.iter().filter_map(|method| {
        let digest = method.sha256.as_ref()?;
        Some((format!("SHA-256 of {}", method.name), digest.chars().take(16).chain(['…']).collect()))
    });
    facts.extend(digests);
    page.section("Settings").key_values(&facts);
    if !settings.choices.is_empty() {
        let rows: Vec<Vec<String>> =
            settings.choices.iter().map(|choice| vec![choice.question.clone(), choice.answer.clone()]).collect();
        page.table(&["open question", "chosen here"], &rows);
    }
    page.file("evaluation_report.json", "all numbers, with the raw cosines of every picture");
    page.file("pictures.csv", "a row a picture").file("summary.csv", "a row a mean");
}
