//! What was found of one method.

use std::collections::BTreeSet;

use super::super::report::{AtScale, CaptionScores, MethodReport, ScaleSensitivity, SeedsByPrompts, Summary, TestCase};
use super::super::{EvaluationError, Measurements, Method, MethodKind, Row, Set, Settings};
use super::{case_means, cases, failed, first_caption, interval, mean_of, variety};
use crate::{CLIPSCORE_WEIGHT, CaseScore, Interval, monotonicity, proportion};

pub(super) fn report(measurements: &Measurements, method: &Method) -> Result<MethodReport, EvaluationError> {
    let settings = measurements.settings();
    let rows: Vec<&Row> = measurements.rows_of(method).collect();
    let at_strength: Vec<&Row> = rows.iter().copied().filter(|row| is_scored(row, method, settings)).collect();
    let own_prompt = |set: Set| -> Vec<&Row> {
        at_strength.iter().copied().filter(|row| row.set == set && row.prompt_index == 0).collect()
    };
    let tests = own_prompt(Set::Tests);
    let with_prompts: Vec<&Row> = at_strength.iter().copied().filter(|row| row.set == Set::Tests).collect();
    Ok(MethodReport {
        name: method.name.clone(),
        kind: method.kind,
        test_cases: cases(&tests).map(|pictures| test_case(pictures, settings)).collect(),
        tests: summary(&tests, settings, &method.name)?,
        held_out: summary(&own_prompt(Set::HeldOut), settings, &method.name)?,
        protocol: summary(&own_prompt(Set::Protocol), settings, &method.name)?,
        scale_sensitivity: match method.kind {
            MethodKind::Adapter => scale_sensitivity(&rows, settings, &method.name)?,
            _ => None,
        },
        diversity: variety::diversity(&tests, &method.name)?,
        prompt_sensitivity: variety::prompt_sensitivity(&with_prompts, &method.name)?,
        copying: variety::copying(&at_strength, &method.name)?,
        seeds_by_prompts: cases(&with_prompts).filter_map(seeds_by_prompts).collect(),
    })
}

/// Whether a picture counts where no strength is named; baselines have none.
pub(super) fn is_scored(row: &Row, method: &Method, settings: &Settings) -> bool {
    method.kind != MethodKind::Adapter || row.scale == settings.scale
}

fn test_case(pictures: &[&Row], settings: &Settings) -> TestCase {
    let first = pictures[0];
    let clip_i = mean_of(pictures, |row| Some(row.image_cosine)).expect("a case has a picture");
    let clip_t = mean_of(pictures, |row| row.text_cosine);
    TestCase {
        case: first.case.clone(),
        reference: first.reference.clone(),
        prompt: first.prompt.clone(),
        files: pictures.iter().map(|row| row.file.clone()).collect(),
        clip_i,
        clip_t,
        score: clip_t.map(|clip_t| CaseScore::new(clip_i, clip_t)),
        calibrated: settings.calibration.map(|calibration| calibration.score(clip_i)),
    }
}

fn summary(rows: &[&Row], settings: &Settings, name: &str) -> Result<Option<Summary>, EvaluationError> {
    let likeness = case_means(rows, |row| Some(row.image_cosine));
    let Some(clip_i) = interval(&likeness, name)? else { return Ok(None) };
    let calibrated = settings.calibration.map(|calibration| {
        let [mean, low, high] = [clip_i.mean, clip_i.low, clip_i.high].map(|cosine| calibration.score(cosine));
        Interval { mean, low, high }
    });
    let clip_t = interval(&case_means(rows, |row| row.text_cosine), name)?;
    Ok(Some(Summary {
        num_cases: likeness.len(),
        num_pictures: rows.len(),
        clip_i,
        clip_t,
        captions: caption_scores(rows, name)?,
        score: score(rows),
        calibrated,
        judged: judged(rows, name)?,
    }))
}

/// Of the means over all cases that have a prompt.
fn score(rows: &[&Row]) -> Option<CaseScore> {
    let of = |value: fn(&Row) -> Option<f64>| {
        let means = case_means(rows, value);
        (!means.is_empty()).then(|| means.iter().map(|(_, mean)| mean).sum::<f64>() / means.len() as f64)
    };
    let clip_i = of(|row| row.text_cosine.map(|_| row.image_cosine))?;
    Some(CaseScore::new(clip_i, of(|row| row.text_cosine)?))
}

fn caption_scores(rows: &[&Row], name: &str) -> Result<Option<CaptionScores>, EvaluationError> {
    let mean_caption = |row: &Row, weigh: fn(f64) -> f64| {
        let cosines = &row.caption_cosines;
        (!cosines.is_empty()).then(|| cosines.iter().map(|cosine| weigh(*cosine)).sum::<f64>() / cosines.len() as f64)
    };
    fn clip_score(cosine: f64) -> f64 {
        CLIPSCORE_WEIGHT * cosine.max(0.0)
    }
    let of = |value: &dyn Fn(&Row) -> Option<f64>| interval(&case_means(rows, value), name);
    let (first, mean) = (of(&first_caption)?, of(&|row| mean_caption(row, |cosine| cosine))?);
    let first_clip_score = of(&|row| first_caption(row).map(clip_score))?;
    let mean_clip_score = of(&|row| mean_caption(row, clip_score))?;
    Ok(match (first, mean, first_clip_score, mean_clip_score) {
        (Some(first), Some(mean), Some(first_clip_score), Some(mean_clip_score)) => {
            Some(CaptionScores { first, mean, first_clip_score, mean_clip_score })
        }
        _ => None,
    })
}

/// One picture a case is a trial, for which Wilson's interval holds; of several, cases are resampled.
fn judged(rows: &[&Row], name: &str) -> Result<std::collections::BTreeMap<String, Interval>, EvaluationError> {
    let whats: BTreeSet<&String> = rows.iter().flat_map(|row| row.judged.keys()).collect();
    let share = |what: &String| {
        let means = case_means(rows, |row| row.judged.get(what).map(|right| f64::from(u8::from(*right))));
        let is_trial = means.iter().all(|(_, mean)| *mean == 0.0 || *mean == 1.0);
        let found = match is_trial && !means.is_empty() {
            true => {
                let successes = means.iter().filter(|(_, mean)| *mean == 1.0).count();
                Some(proportion(successes, means.len()).map_err(|source| failed(name, source))?)
            }
            false => interval(&means, name)?,
        };
        Ok(found.map(|found| (what.clone(), found)))
    };
    whats.into_iter().filter_map(|what| share(what).transpose()).collect()
}

/// Over the cases that have a picture at every strength that any has, so that all means are over the same.
fn scale_sensitivity(
    rows: &[&Row],
    settings: &Settings,
    name: &str,
) -> Result<Option<ScaleSensitivity>, EvaluationError> {
    let swept: Vec<&Row> = rows
        .iter()
        .copied()
        .filter(|row| row.set == Set::Tests && row.prompt_index == 0 && settings.scales.contains(&row.scale))
        .collect();
    let has_all =
        |pictures: &&[&Row]| settings.scales.iter().all(|scale| pictures.iter().any(|row| row.scale == *scale));
    let whole: Vec<&Row> = cases(&swept).filter(has_all).flatten().copied().collect();
    if whole.is_empty() || settings.scales.len() < 2 {
        return Ok(None);
    }
    let at = |scale: &f64| {
        let rows: Vec<&Row> = whole.iter().copied().filter(|row| row.scale == *scale).collect();
        let clip_i = interval(&case_means(&rows, |row| Some(row.image_cosine)), name)?;
        let clip_t = interval(&case_means(&rows, |row| row.text_cosine), name)?;
        let score = score(&rows);
        Ok(AtScale { scale: *scale, clip_i: clip_i.expect("whole cases have every strength"), clip_t, score })
    };
    let scales: Vec<AtScale> = settings.scales.iter().map(at).collect::<Result<_, EvaluationError>>()?;
    let trend = |values: Vec<f64>| monotonicity(&values).map_err(|source| failed(name, source));
    let following: Option<Vec<f64>> = scales.iter().map(|at| at.clip_t.map(|clip_t| clip_t.mean)).collect();
    let clip_i_trend = trend(scales.iter().map(|at| at.clip_i.mean).collect())?;
    let clip_t_trend = following.map(trend).transpose()?;
    Ok(Some(ScaleSensitivity { scales, clip_i_trend, clip_t_trend }))
}

fn seeds_by_prompts(pictures: &[&Row]) -> Option<SeedsByPrompts> {
    let prompt_indices: BTreeSet<usize> = pictures.iter().map(|row| row.prompt_index).collect();
    let seeds: Vec<u64> = pictures.iter().map(|row| row.seed).collect::<BTreeSet<_>>().into_iter().collect();
    if prompt_indices.len() * seeds.len() < 2 {
        return None;
    }
    let of_prompt = |index: &usize| pictures.iter().filter(|row| row.prompt_index == *index).collect::<Vec<_>>();
    let file = |rows: &[&&Row], seed: &u64| rows.iter().find(|row| row.seed == *seed).map(|row| row.file.clone());
    let by_prompt: Vec<Vec<&&Row>> = prompt_indices.iter().map(of_prompt).collect();
    Some(SeedsByPrompts {
        case: pictures[0].case.clone(),
        prompts: by_prompt.iter().map(|rows| rows[0].prompt.clone()).collect(),
        files: by_prompt.iter().map(|rows| seeds.iter().map(|seed| file(rows, seed)).collect()).collect(),
        seeds,
    })
}
