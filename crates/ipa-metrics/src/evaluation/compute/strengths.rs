//! How scores change with the strength of the reference.

use super::super::report::{AtScale, BestScale, ScaleSensitivity, is_enough};
use super::super::{EvaluationError, Row, Set, Settings};
use super::method::case_scores;
use super::{RESAMPLING_SEED, case_means, cases, failed, interval};
use crate::{CaseScore, monotonicity, paired_difference};

/// Over the cases that have a picture at every strength that any has, so that all means are over the same.
pub(super) fn scale_sensitivity(
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
        let clip_i = clip_i.expect("whole cases have every strength");
        let following = case_means(&rows, |row| row.text_cosine);
        let (num_cases, num_clip_t_cases) = (cases(&rows).count(), following.len());
        let (clip_t, score) = (interval(&following, name)?, CaseScore::mean(&case_scores(&rows)));
        Ok(AtScale { scale: *scale, num_cases, num_clip_t_cases, clip_i, clip_t, score })
    };
    let scales: Vec<AtScale> = settings.scales.iter().map(at).collect::<Result<_, EvaluationError>>()?;
    let trend = |values: Vec<f64>| monotonicity(&values).map_err(|source| failed(name, source));
    let following: Option<Vec<f64>> = scales.iter().map(|at| at.clip_t.map(|clip_t| clip_t.mean)).collect();
    let clip_i_trend = trend(scales.iter().map(|at| at.clip_i.mean).collect())?;
    let clip_t_trend = following.map(trend).transpose()?;
    let best = best(&whole, &scales, name)?;
    Ok(Some(ScaleSensitivity { scales, clip_i_trend, clip_t_trend, best }))
}

/// The strength with the highest combined score, and those that are not worse beyond chance.
fn best(whole: &[&Row], scales: &[AtScale], name: &str) -> Result<Option<BestScale>, EvaluationError> {
    let combined = |at: &AtScale| at.score.map(|score| score.combined);
    let scored = scales.iter().filter_map(|at| Some((at, combined(at)?)));
    let Some((best, score)) = scored.reduce(|best, next| if next.1 > best.1 { next } else { best }) else {
        return Ok(None);
    };
    let of_cases = |scale: f64| -> Vec<f64> {
        let rows: Vec<&Row> = whole.iter().copied().filter(|row| row.scale == scale).collect();
        case_scores(&rows).iter().map(|score| score.combined).collect()
    };
    let at_best = of_cases(best.scale);
    let mut as_good = Vec::new();
    for at in scales.iter().filter(|at| at.scale != best.scale) {
        let worse = paired_difference(&at_best, &of_cases(at.scale), RESAMPLING_SEED);
        let worse = worse.map_err(|source| failed(name, source))?;
        if !(is_enough(at_best.len()) && worse.high < 0.0) {
            as_good.push(at.scale);
        }
    }
    Ok(Some(BestScale { scale: best.scale, combined: score, as_good }))
}
