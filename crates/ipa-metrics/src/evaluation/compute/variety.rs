//! How much pictures differ, and how near they come to those trained on.

use std::collections::BTreeSet;

use ndarray::{Array2, ArrayView2};

use super::super::report::Copying;
use super::super::{EvaluationError, Row};
use super::{CaseMean, case_means, cases, failed, interval};
use crate::{Interval, MetricsError, mean_pairwise_distance, prompt_sensitivity as differences};

/// From this cosine on a picture is called a likely copy. A rule of thumb: near duplicates lie above it under the CLIPs
/// we know, and so do some pictures that are merely alike, which is why the pair is shown.
const COPY_COSINE: f64 = 0.95;

/// Over the seeds of every case.
pub(super) fn diversity(rows: &[&Row], name: &str) -> Result<Option<Interval>, EvaluationError> {
    let of_case = |pictures: &[&Row]| match embeddings(pictures) {
        Some(embeds) if embeds.nrows() > 1 => mean_pairwise_distance(embeds.view()).map(Some),
        _ => Ok(None),
    };
    by_case(rows, name, of_case)
}

/// Between the case's own prompt and each other one, under the same seeds.
pub(super) fn prompt_sensitivity(rows: &[&Row], name: &str) -> Result<Option<Interval>, EvaluationError> {
    let of_case = |pictures: &[&Row]| {
        let own: Vec<&Row> = pictures.iter().copied().filter(|row| row.prompt_index == 0).collect();
        let pairs: Vec<(&Row, &Row)> = pictures
            .iter()
            .filter(|row| row.prompt_index != 0)
            .filter_map(|other| Some((*own.iter().find(|row| row.seed == other.seed)?, *other)))
            .collect();
        let (first, second): (Vec<&Row>, Vec<&Row>) = pairs.into_iter().unzip();
        let (Some(first), Some(second)) = (embeddings(&first), embeddings(&second)) else { return Ok(None) };
        let found = differences(first.view(), second.view())?;
        Ok(Some(found.iter().sum::<f64>() / found.len() as f64))
    };
    by_case(rows, name, of_case)
}

/// Over all pictures whose nearest training picture is known, at any strength. One that stands for several cases counts
/// once, with the first of them.
pub(super) fn copying(rows: &[&Row], name: &str) -> Result<Option<Copying>, EvaluationError> {
    let mut seen = BTreeSet::new();
    let is_new = |row: &&Row| row.nearest_training.is_some() && seen.insert(row.file.clone());
    let compared: Vec<&Row> = rows.iter().copied().filter(is_new).collect();
    let cosine = |row: &Row| row.nearest_training.as_ref().map(|nearest| nearest.cosine);
    let Some(nearest) = interval(&case_means(&compared, cosine), name)? else { return Ok(None) };
    let pairs = compared.iter().filter_map(|row| Some((*row, row.nearest_training.as_ref()?)));
    // The first of those that are equally near.
    let closest = pairs.clone().reduce(|best, next| if next.1.cosine > best.1.cosine { next } else { best });
    Ok(closest.map(|(picture, training)| Copying {
        num_pictures: compared.len(),
        nearest,
        threshold: COPY_COSINE,
        num_likely_copies: pairs.filter(|(_, nearest)| nearest.cosine >= COPY_COSINE).count(),
        closest_picture: picture.file.clone(),
        closest_training: training.clone(),
    }))
}

/// The interval of what every case that can be measured gives.
fn by_case(
    rows: &[&Row],
    name: &str,
    measure: impl Fn(&[&Row]) -> Result<Option<f64>, MetricsError>,
) -> Result<Option<Interval>, EvaluationError> {
    let of_case = |pictures: &[&Row]| measure(pictures).map_err(|source| failed(name, source));
    let values: Vec<f64> =
        cases(rows).filter_map(|pictures| of_case(pictures).transpose()).collect::<Result<_, _>>()?;
    let means: Vec<CaseMean<'_>> = values.into_iter().map(|value| ("", value)).collect();
    interval(&means, name)
}

/// `[pictures, width]`, of at least one; nothing if one of them has none.
fn embeddings(rows: &[&Row]) -> Option<Array2<f32>> {
    let width = rows.first()?.embedding.as_ref()?.values().len();
    let values: Vec<&[f32]> =
        rows.iter().map(|row| row.embedding.as_ref().map(|found| found.values())).collect::<Option<_>>()?;
    let joined = values.concat();
    ArrayView2::from_shape((rows.len(), width), &joined).ok().map(|view| view.to_owned())
}
