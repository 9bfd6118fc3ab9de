//! The findings in words.

use super::report::{Comparison, EvaluationReport, MethodReport, Remark, Summary, Tone};
use super::{MethodKind, Set};
use crate::Interval;

/// Fewer cases than this are an impression.
const FEW_CASES: usize = 10;
/// A mean likeness from here on looks more like copying than like drawing.
const SUSPICIOUS_LIKENESS: f64 = 0.97;

/// Scores first, then comparisons, strengths, and what to be careful with.
pub(super) fn verdict(report: &EvaluationReport) -> Vec<Remark> {
    let mut remarks: Vec<Remark> = report.adapters.iter().filter_map(scores).collect();
    if remarks.is_empty() && !report.adapters.is_empty() {
        remarks.push(caution("No picture of an adapter was measured yet.".to_owned()));
    }
    remarks.extend(report.comparisons.iter().filter_map(|comparison| compared(comparison, report)));
    remarks.extend(report.adapters.iter().filter_map(strengths));
    remarks.extend(report.adapters.iter().filter_map(held_out));
    remarks.extend(report.adapters.iter().filter_map(ignored_prompts));
    remarks.extend(report.adapters.iter().flat_map(copies));
    remarks.extend(few(report));
    if !report.skipped.is_empty() {
        let num = count(report.skipped.len(), "case was", "cases were");
        remarks.push(caution(format!("{num} skipped; the reasons are listed below.")));
    }
    remarks
}

fn scores(method: &MethodReport) -> Option<Remark> {
    let name = &method.name;
    if let Some(Summary { num_cases, score: Some(score), .. }) = &method.tests {
        let cases = count(*num_cases, "test", "tests");
        return Some(Remark {
            tone: if score.combined >= 70.0 { Tone::Good } else { Tone::Plain },
            text: format!(
                "{name} keeps {:.0} % of the reference and follows {:.0} % of the prompt: {:.0} % combined, grade {}, over \
                 {cases}.",
                score.reference_preservation, score.prompt_following, score.combined, score.grade
            ),
        });
    }
    if let Some(Summary { num_cases, num_pictures, clip_i, captions: Some(captions), .. }) = &method.protocol {
        return Some(plain(format!(
            "{name} reaches CLIP-I {:.3} and CLIP-T {:.3} ({:.3} scaled by 2.5), over {} of {}.",
            clip_i.mean,
            captions.first.mean,
            captions.first_clip_score.mean,
            count(*num_pictures, "picture", "pictures"),
            count(*num_cases, "image", "images"),
        )));
    }
    let Summary { num_cases, clip_i, .. } =
        [&method.tests, &method.held_out, &method.protocol].into_iter().flatten().next()?;
    Some(plain(format!("{name} reaches CLIP-I {:.3} over {}.", clip_i.mean, count(*num_cases, "case", "cases"))))
}

/// Against text alone and against other adapters; that a picture is most like itself is no news.
fn compared(comparison: &Comparison, report: &EvaluationReport) -> Option<Remark> {
    let Comparison { set, method, against, clip_i, clip_t, .. } = comparison;
    let other = report.methods().find(|other| other.name == *against)?;
    if *set != Set::Tests || other.kind == MethodKind::ReferenceItself {
        return None;
    }
    let difference = |interval: &Interval, more: &str, less: &str| {
        let word = if interval.mean >= 0.0 { more } else { less };
        let chance = if interval.excludes_zero() { "" } else { ", which could be chance" };
        format!("{word} by {:.3}{chance}", interval.mean.abs())
    };
    let likeness = difference(clip_i, "closer to the reference", "farther from the reference");
    let following = clip_t.as_ref().map(|clip_t| difference(clip_t, "closer to the prompt", "farther from the prompt"));
    let following = following.map(|text| format!(" and {text}")).unwrap_or_default();
    let tone = match clip_i.low > 0.0 {
        true if comparison.is_beyond_chance(clip_i) => Tone::Good,
        false if other.kind == MethodKind::TextOnly => Tone::Caution,
        _ => Tone::Plain,
    };
    Some(Remark { tone, text: format!("Beside {against}, {method} is {likeness}{following}.") })
}

fn strengths(method: &MethodReport) -> Option<Remark> {
    let scales = &method.scale_sensitivity.as_ref()?.scales;
    let combined = |index: usize| scales[index].score.as_ref().map(|score| score.combined);
    let best = (0..scales.len())
        .filter(|index| combined(*index).is_some())
        .reduce(|best, next| if combined(next) > combined(best) { next } else { best })?;
    let (first, last) = (scales.first()?, scales.last()?);
    let change = |from: f64, to: f64| if to >= from { "rises" } else { "falls" };
    let (clip_t, clip_t_last) = (first.clip_t?.mean, last.clip_t?.mean);
    Some(plain(format!(
        "From λ = {} to {}, {}'s CLIP-I {} from {:.3} to {:.3} and CLIP-T {} from {:.3} to {:.3}; the combined score is \
         best at λ = {}.",
        first.scale,
        last.scale,
        method.name,
        change(first.clip_i.mean, last.clip_i.mean),
        first.clip_i.mean,
        last.clip_i.mean,
        change(clip_t, clip_t_last),
        clip_t,
        clip_t_last,
        scales[best].scale,
    )))
}

fn held_out(method: &MethodReport) -> Option<Remark> {
    let Summary { num_cases, clip_i, .. } = method.held_out.as_ref()?;
    let references = count(*num_cases, "reference", "references");
    Some(plain(format!("On {references} that it was not trained on, {} reaches CLIP-I {clip_i:.3}.", method.name)))
}

fn ignored_prompts(method: &MethodReport) -> Option<Remark> {
    let Interval { mean, .. } = method.prompt_sensitivity?;
    let text =
        format!("Another prompt hardly changes what {} draws (prompt sensitivity {mean:.3}): lower λ.", method.name);
    (mean < 0.02).then(|| caution(text))
}

fn copies(method: &MethodReport) -> Vec<Remark> {
    let name = &method.name;
    let trained = method.copying.as_ref().filter(|copying| copying.num_likely_copies > 0).map(|copying| {
        let pictures = count(copying.num_pictures, "picture", "pictures");
        format!(
            "{} of {pictures} by {name} are as near to a training picture as a copy (cosine from {}): look at the closest \
             pair below.",
            copying.num_likely_copies, copying.threshold
        )
    });
    let alike = method.tests.as_ref().filter(|tests| tests.clip_i.mean >= SUSPICIOUS_LIKENESS).map(|tests| {
        let mean = tests.clip_i.mean;
        format!(
            "{name}'s CLIP-I of {mean:.3} is more than a new picture of the same thing has: look whether it copies."
        )
    });
    trained.into_iter().chain(alike).map(caution).collect()
}

fn few(report: &EvaluationReport) -> Option<Remark> {
    let num = report.adapters.iter().filter_map(|method| method.tests.as_ref()).map(|tests| tests.num_cases).max()?;
    let text = format!(
        "{} are an impression, not a measurement: too few to tell small differences from chance.",
        count(num, "test", "tests")
    );
    let text = if num == 1 { text.replacen("are", "is", 1) } else { text };
    (num < FEW_CASES).then(|| caution(text))
}

fn count(num: usize, one: &str, many: &str) -> String {
    format!("{num} {}", if num == 1 { one } else { many })
}

fn plain(text: String) -> Remark {
    Remark { tone: Tone::Plain, text }
}

fn caution(text: String) -> Remark {
    Remark { tone: Tone::Caution, text }
}
