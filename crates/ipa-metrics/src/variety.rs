//! How much pictures differ from each other, from those trained on, and with what they were asked for.

use ndarray::{ArrayView2, Axis};
use rayon::prelude::*;

use crate::{MetricsError, cosines};

/// Diversity: the mean of `1 − cos` over all pairs of rows, such as pictures of one request under several seeds.
///
/// # Errors
/// Those of [`cosines`], and [`MetricsError::Empty`] with fewer than two rows.
pub fn mean_pairwise_distance(embeds: ArrayView2<f32>) -> Result<f64, MetricsError> {
    let num = embeds.nrows();
    let sums: Vec<f64> = (1..num)
        .into_par_iter()
        .map(|distance| {
            let (first, second) = (
                embeds.slice_axis(Axis(0), (..num - distance).into()),
                embeds.slice_axis(Axis(0), (distance..).into()),
            );
            Ok(cosines(first, second)?.into_iter().map(|cosine| 1.0 - cosine).sum())
        })
        .collect::<Result<_, MetricsError>>()?;
    match num * num.saturating_sub(1) / 2 {
        0 => Err(MetricsError::Empty),
        pairs => Ok(sums.into_iter().sum::<f64>() / pairs as f64),
    }
}

/// Prompt sensitivity: for every row, `1 − cos` between pictures that differ in their prompt alone.
///
/// # Errors
/// Those of [`cosines`].
pub fn prompt_sensitivity(first: ArrayView2<f32>, second: ArrayView2<f32>) -> Result<Vec<f64>, MetricsError> {
    Ok(cosines(first, second)?.into_iter().map(|cosine| 1.0 - cosine).collect())
}

/// How steadily a score rises with λ: Kendall's τ-a of the scores against their order, 1 if every larger λ scores
/// higher, −1 if every larger one scores lower.
///
/// # Errors
/// [`MetricsError::Empty`] with fewer than two values, [`MetricsError::NotFinite`].
pub fn monotonicity(by_scale: &[f64]) -> Result<f64, MetricsError> {
    if let Some(index) = by_scale.iter().position(|value| !value.is_finite()) {
        return Err(MetricsError::NotFinite { index });
    }
    let pairs = by_scale.len() * by_scale.len().saturating_sub(1) / 2;
    if pairs == 0 {
        return Err(MetricsError::Empty);
    }
    let sign = |low: f64, high: f64| f64::from(i8::from(high > low) - i8::from(high < low));
    let later = |index: usize| by_scale[index + 1..].iter().map(move |&high| sign(by_scale[index], high)).sum::<f64>();
    Ok((0..by_scale.len()).map(later).sum::<f64>() / pairs as f64)
}

/// The picture of a training set that a picture is most like.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Nearest {
    /// Its row.
    pub row: usize,
    /// The cosine with it; near 1, the picture was copied.
    pub cosine: f64,
}

/// The nearest row of `training` for every row of `generated`.
///
/// # Errors
/// Those of [`cosines`], and [`MetricsError::Empty`] without a training set.
pub fn nearest(generated: ArrayView2<f32>, training: ArrayView2<f32>) -> Result<Vec<Nearest>, MetricsError> {
    let nearest_of = |row: usize| {
        let row = generated.row(row);
        let repeated = row.broadcast((training.nrows(), row.len())).ok_or(MetricsError::Empty)?;
        let cosines = cosines(repeated, training)?;
        let best = cosines.iter().copied().enumerate().max_by(|(_, a), (_, b)| a.total_cmp(b));
        best.map(|(row, cosine)| Nearest { row, cosine }).ok_or(MetricsError::Empty)
    };
    (0..generated.nrows()).into_par_iter().map(nearest_of).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn equal_pictures_have_no_diversity_and_opposite_ones_all_of_it() {
        let same = array![[1.0_f32, 0.0], [2.0, 0.0], [3.0, 0.0]];
        assert!(mean_pairwise_distance(same.view()).unwrap().abs() < 1e-12);
        let corners = array![[1.0_f32, 0.0], [0.0, 1.0], [-1.0, 0.0]];
        assert!((mean_pairwise_distance(corners.view()).unwrap() - 4.0 / 3.0).abs() < 1e-12);
        assert_eq!(mean_pairwise_distance(array![[1.0_f32, 0.0]].view()), Err(MetricsError::Empty));
    }

    #[test]
    fn a_prompt_that_changes_nothing_is_not_followed() {
        let (first, second) = (array![[1.0_f32, 0.0], [0.0, 2.0]], array![[3.0_f32, 0.0], [4.0, 3.0]]);
        let found = prompt_sensitivity(first.view(), second.view()).unwrap();
        assert!(found[0].abs() < 1e-12 && (found[1] - 0.4).abs() < 1e-7, "{found:?}");
    }

    #[test]
    fn monotonicity_counts_pairs_in_order() {
        assert_eq!(monotonicity(&[0.1, 0.2, 0.3]), Ok(1.0));
        assert_eq!(monotonicity(&[0.3, 0.2, 0.1]), Ok(-1.0));
        assert_eq!(monotonicity(&[0.1, 0.1]), Ok(0.0));
        assert_eq!(monotonicity(&[0.1, 0.3, 0.2]), Ok(1.0 / 3.0));
        assert_eq!(monotonicity(&[0.1]), Err(MetricsError::Empty));
        assert_eq!(monotonicity(&[0.1, f64::NAN]), Err(MetricsError::NotFinite { index: 1 }));
    }

    #[test]
    fn a_copy_is_found() {
        let training = array![[1.0_f32, 0.0], [0.6, 0.8], [0.0, 1.0]];
        let found = nearest(array![[1.2_f32, 1.6], [1.0, 0.1]].view(), training.view()).unwrap();
        assert_eq!((found[0].row, found[1].row), (1, 0));
        assert!((found[0].cosine - 1.0).abs() < 1e-7 && found[1].cosine < 1.0);
    }
}
