//! What was found of one method.

use std::collections::BTreeSet;

use super::super::report::{CaptionScores, MethodReport, SeedsByPrompts, Summary, TestCase};
use super::super::{EvaluationError, Measurements, Method, MethodKind, Row, Set, Settings};
use super::judges::judged;
use super::strengths::scale_sensitivity;
use super::{case_means, cases, first_caption, interval, mean_of, variety};
use crate::{CLIPSCORE_WEIGHT, CaseScore, Interval};

pub(super) fn report(measurements: &Measurements, method: &Method) -> Result<MethodReport, EvaluationError> {
    let settings = measurements.settings();
    let rows: Vec<&Row> = measurements.rows_of(method).collect();
    let at_strength: Vec<&Row> = rows.iter().copied().filter(|row| settings.counts(row)).collect();
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
        copying: variety::copying(&rows, &method.name)?,
        seeds_by_prompts: cases(&with_prompts).filter_map(seeds_by_prompts).collect(),
    })
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
    let following = case_means(rows, |row| row.text_cosine);
    Ok(Some(Summary {
        num_cases: likeness.len(),
        num_clip_t_cases: following.len(),
        num_pictures: rows.len(),
        clip_i,
        clip_t: interval(&following, name)?,
        captions: caption_scores(rows, name)?,
        score: CaseScore::mean(&case_scores(rows)),
        calibrated,
        judged: judged(rows, name)?,
    }))
}

/// Of every case that has a prompt, by the means of its pictures.
pub(super) fn case_scores(rows: &[&Row]) -> Vec<CaseScore> {
    let of_case = |pictures: &[&Row]| {
        let clip_t = mean_of(pictures, |row| row.text_cosine)?;
        Some(CaseScore::new(mean_of(pictures, |row| Some(row.image_cosine))?, clip_t))
    };
    cases(rows).filter_map(of_case).collect()
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
