//! The findings in words.

use super::report::{BestScale, Comparison, EvaluationReport, MethodReport, MissingPart, Remark, Summary, Tone};
use super::{MethodKind, Set};
use crate::{CaseScore, Interval};

/// Fewer cases than this are an impression.
const FEW_CASES: usize = 10;
/// A mean likeness from here on looks more like copying than like drawing.
const SUSPICIOUS_LIKENESS: f64 = 0.97;
/// Per cent of prompts that leave no room above them.
const NEARLY_ALL: f64 = 95.0;

/// Scores first, each with what it is over text alone, then other comparisons, strengths, and what to be careful with.
pub(super) fn verdict(report: &EvaluationReport) -> Vec<Remark> {
    let mut remarks: Vec<Remark> = Vec::new();
    for method in &report.adapters {
        remarks.extend(scores(method, report));
        remarks.extend(report.over_text_only(&method.name).and_then(|found| compared(found, report)));
    }
    if remarks.is_empty() && !report.adapters.is_empty() {
        remarks.push(caution("No picture of an adapter was measured yet.".to_owned()));
    }
    remarks.extend(report.missing_part.map(part));
    remarks.extend(not_comparable(report));
    let is_told = |found: &&Comparison| report.over_text_only(&found.method) != Some(*found);
    remarks.extend(report.comparisons.iter().filter(is_told).filter_map(|found| compared(found, report)));
    remarks.extend(report.adapters.iter().filter_map(strengths));
    remarks.extend(report.adapters.iter().filter_map(held_out));
    remarks.extend(report.adapters.iter().filter_map(|method| empty_grade(method, report)));
    remarks.extend(no_text_only(report));
    remarks.extend(report.adapters.iter().filter_map(ignored_prompts));
    remarks.extend(report.adapters.iter().flat_map(copies));
    remarks.extend(few(report, "test", |method| &method.tests));
    remarks.extend(few(report, "held-out reference", |method| &method.held_out));
    remarks.extend(few(report, "image", |method| &method.protocol));
    if !report.skipped.is_empty() {
        let num = count(report.skipped.len(), "case was", "cases were");
        remarks.push(caution(format!("{num} skipped; the reasons are listed below.")));
    }
    remarks
}

/// Good is only what is beyond that of text alone: a prompt can give both percentages away.
fn scores(method: &MethodReport, report: &EvaluationReport) -> Option<Remark> {
    let name = &method.name;
    let is_closer = |found: &Comparison| found.clip_i.low > 0.0 && found.is_likeness_beyond_chance();
    if let Some(tests @ Summary { score: Some(score), .. }) = &method.tests {
        return Some(Remark {
            tone: if score.combined >= 70.0 && report.over_text_only(name).is_some_and(is_closer) {
                Tone::Good
            } else {
                Tone::Plain
            },
            text: format!(
                "{name} keeps {:.0} % of the reference and follows {:.0} % of the prompt: {:.0} % combined, grade {}, over \
                 {}.",
                score.reference_preservation,
                score.prompt_following,
                score.combined,
                score.grade,
                tests.graded_cases()
            ),
        });
    }
    if let Some(Summary { num_cases, num_pictures, clip_i, captions: Some(captions), .. }) = &method.protocol {
        return Some(plain(format!(
            "{name} reaches CLIP-I {:.3} and CLIP-T {:.3} ({:.3} as 2.5 · max(cos, 0)), over {} of {}.",
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

fn part(MissingPart { num_images, of }: MissingPart) -> Remark {
    caution(format!("{num_images} of {of} images: this is a part of the run, and its means are those of the part."))
}

fn not_comparable(report: &EvaluationReport) -> Option<Remark> {
    let deviations = &report.published.as_ref()?.deviations;
    let text = format!("Not comparable number by number with the paper's table: {}.", deviations.join(", "));
    (!deviations.is_empty()).then(|| caution(text))
}

/// Against text alone and against other adapters; that a picture is most like itself is no news.
fn compared(comparison: &Comparison, report: &EvaluationReport) -> Option<Remark> {
    let Comparison { set, method, against, clip_i, clip_t, .. } = comparison;
    let other = report.methods().find(|other| other.name == *against)?;
    if *set != Set::Tests || other.kind == MethodKind::ReferenceItself {
        return None;
    }
    let difference = |interval: &Interval, is_beyond_chance: bool, [more, less]: [&str; 2]| {
        let word = if interval.mean >= 0.0 { more } else { less };
        let chance = if is_beyond_chance { "" } else { " (which could be chance)" };
        format!("{word} by {:.3}{chance}", interval.mean.abs())
    };
    let is_closer = comparison.is_likeness_beyond_chance();
    let likeness = difference(clip_i, is_closer, ["closer to the reference", "farther from the reference"]);
    let following = clip_t.as_ref().zip(comparison.is_following_beyond_chance()).map(|(clip_t, is_beyond_chance)| {
        difference(clip_t, is_beyond_chance, ["closer to the prompt", "farther from the prompt"])
    });
    let following = following.map(|text| format!(" and {text}")).unwrap_or_default();
    let tone = match clip_i.low > 0.0 {
        true if is_closer => Tone::Good,
        false if other.kind == MethodKind::TextOnly => Tone::Caution,
        _ => Tone::Plain,
    };
    Some(Remark { tone, text: format!("Beside {against}, {method} is {likeness}{following}.") })
}

fn strengths(method: &MethodReport) -> Option<Remark> {
    let found = method.scale_sensitivity.as_ref()?;
    let course = |what: &str, trend: f64, value: &dyn Fn(usize) -> Option<Interval>| {
        let values: Vec<(f64, Interval)> = (0..found.scales.len())
            .map(|index| Some((found.scales[index].scale, value(index)?)))
            .collect::<Option<_>>()?;
        let (first, last) = (values.first()?.1, values.last()?.1);
        let (at, highest) = values.iter().copied().reduce(|a, b| if b.1.mean > a.1.mean { b } else { a })?;
        Some(match trend {
            1.0 => format!("{what} rises at every step, from {first:.3} to {last:.3}"),
            -1.0 => format!("{what} falls at every step, from {first:.3} to {last:.3}"),
            _ => format!("{what} is highest at λ = {at}, with {highest:.3} (trend {trend:.2})"),
        })
    };
    let likeness = course("CLIP-I", found.clip_i_trend, &|index| Some(found.scales[index].clip_i))?;
    let following = found.clip_t_trend.and_then(|trend| course("CLIP-T", trend, &|index| found.scales[index].clip_t));
    let following = following.map(|text| format!("; {text}")).unwrap_or_default();
    let best = found.best.as_ref().map(|BestScale { scale, combined, as_good }| {
        let others: Vec<String> = as_good.iter().map(f64::to_string).collect();
        let others = match others.as_slice() {
            [] => String::new(),
            others => format!(", and no worse beyond chance at {}", others.join(", ")),
        };
        format!("; the combined score is best at λ = {scale} ({combined:.1} %){others}")
    });
    let (first, last) = (found.scales.first()?.scale, found.scales.last()?.scale);
    Some(plain(format!(
        "From λ = {first} to {last}, {}'s {likeness}{following}{}.",
        method.name,
        best.unwrap_or_default()
    )))
}

fn held_out(method: &MethodReport) -> Option<Remark> {
    let Summary { num_cases, clip_i, .. } = method.held_out.as_ref()?;
    let references = count(*num_cases, "reference", "references");
    Some(plain(format!("On {references} that it was not trained on, {} reaches CLIP-I {clip_i:.3}.", method.name)))
}

/// Where prompts cannot be followed better, or nothing is as good as the reference handed back, a grade tells nothing.
fn empty_grade(method: &MethodReport, report: &EvaluationReport) -> Option<Remark> {
    let own = method.tests.as_ref()?.score?;
    let of = |kind: MethodKind| -> Option<CaseScore> {
        report.baselines.iter().find(|other| other.kind == kind)?.tests.as_ref()?.score
    };
    let full = of(MethodKind::TextOnly).map(|text| text.prompt_following).filter(|following| *following >= NEARLY_ALL).map(
        |following| {
            format!(
                "text only follows {following:.0} % of the prompt, so that hardly anything can follow more under this CLIP"
            )
        },
    );
    let higher =
        of(MethodKind::ReferenceItself).filter(|reference| reference.combined > own.combined).map(|reference| {
            format!(
                "the reference handed back has {:.0} % combined, and {} {:.0} %",
                reference.combined, method.name, own.combined
            )
        });
    let reasons: Vec<String> = full.into_iter().chain(higher).collect();
    let text =
        format!("{}'s grade says little: {}. Go by the difference to text only.", method.name, reasons.join("; "));
    (!reasons.is_empty()).then(|| caution(text))
}

/// Without text alone beside it, nobody knows what the reference was good for.
fn no_text_only(report: &EvaluationReport) -> Option<Remark> {
    let is_measured = |method: &MethodReport| method.tests.is_some();
    let has_baseline = report.baselines.iter().any(|method| method.kind == MethodKind::TextOnly && is_measured(method));
    let text = "Text only was not drawn beside it, and a prompt alone can score as much: `ipa evaluate` tells what the \
                reference adds.";
    (report.adapters.iter().any(is_measured) && !has_baseline).then(|| caution(text.to_owned()))
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

fn few(report: &EvaluationReport, one: &str, of: fn(&MethodReport) -> &Option<Summary>) -> Option<Remark> {
    let num = report.adapters.iter().filter_map(|method| of(method).as_ref()).map(|found| found.num_cases).max()?;
    let text = format!(
        "{} are an impression, not a measurement: too few to tell small differences from chance.",
        count(num, one, &format!("{one}s"))
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
