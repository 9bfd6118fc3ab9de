//! One method against another, case by case.

use super::super::report::Comparison;
use super::super::{EvaluationError, Measurements, Method, MethodKind, Row, Set};
use super::{CaseMean, RESAMPLING_SEED, case_means, failed, first_caption};
use crate::{Interval, paired_difference};

/// Every adapter against every baseline, and every other adapter against the first, wherever both have cases.
pub(super) fn comparisons(measurements: &Measurements) -> Result<Vec<Comparison>, EvaluationError> {
    let methods = &measurements.settings().methods;
    let adapters: Vec<&Method> = methods.iter().filter(|method| method.kind == MethodKind::Adapter).collect();
    let baselines = methods.iter().filter(|method| method.kind != MethodKind::Adapter);
    let against: Vec<&Method> = adapters.first().copied().into_iter().chain(baselines).collect();
    let mut found = Vec::new();
    for set in [Set::Tests, Set::HeldOut, Set::Protocol] {
        for (adapter, other) in adapters.iter().flat_map(|adapter| against.iter().map(move |other| (*adapter, *other)))
        {
            if adapter.name != other.name {
                found.extend(comparison(measurements, set, adapter, other)?);
            }
        }
    }
    Ok(found)
}

fn comparison<'a>(
    measurements: &'a Measurements,
    set: Set,
    method: &'a Method,
    against: &'a Method,
) -> Result<Option<Comparison>, EvaluationError> {
    let settings = measurements.settings();
    let rows = |method: &'a Method| -> Vec<&'a Row> {
        let is_meant = |row: &&Row| row.set == set && row.prompt_index == 0;
        measurements.rows_of(method).filter(is_meant).filter(|row| settings.counts(row)).collect()
    };
    let (ours, theirs) = (rows(method), rows(against));
    let difference = |value: &dyn Fn(&Row) -> Option<f64>| {
        let (before, after) = paired(&case_means(&theirs, value), &case_means(&ours, value));
        let what = format!("`{}` and `{}`", method.name, against.name);
        if before.is_empty() {
            return Ok(None);
        }
        let found = paired_difference(&before, &after, RESAMPLING_SEED).map_err(|source| failed(&what, source))?;
        Ok::<Option<(usize, Interval)>, EvaluationError>(Some((before.len(), found)))
    };
    let Some((num_cases, clip_i)) = difference(&|row| Some(row.image_cosine))? else { return Ok(None) };
    let following = difference(&|row| row.text_cosine.or_else(|| first_caption(row)))?;
    let num_clip_t_cases = following.map_or(0, |(num, _)| num);
    let (method, against) = (method.name.clone(), against.name.clone());
    let clip_t = following.map(|(_, clip_t)| clip_t);
    Ok(Some(Comparison { set, method, against, num_cases, num_clip_t_cases, clip_i, clip_t }))
}

/// The values of cases that both have; both are in order.
fn paired(a: &[CaseMean<'_>], b: &[CaseMean<'_>]) -> (Vec<f64>, Vec<f64>) {
    let known: std::collections::BTreeMap<&str, f64> = a.iter().copied().collect();
    b.iter().filter_map(|(case, after)| Some((*known.get(case)?, *after))).unzip()
}
