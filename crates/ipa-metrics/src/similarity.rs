//! Cosine similarity of embeddings, and the two means that papers report.

use ndarray::{Array1, ArrayView1, ArrayView2};
use rayon::prelude::*;

use crate::MetricsError;

/// Cosine of the angle between row `i` of `a` and row `i` of `b`, for every `i`.
///
/// Embeddings need not be normalized. Sums are taken in f64, and rounding beyond ±1 is cut off.
///
/// # Shapes
/// - `a`, `b`: `[n, width]`; the result is `[n]`
///
/// # Errors
/// [`MetricsError::Unpaired`] and [`MetricsError::Width`] if the shapes differ;
/// [`MetricsError::ZeroLength`] and [`MetricsError::NotFinite`] name the first row at fault: an
/// embedding of zeros or NaN comes from a broken model and must not lower a mean silently.
pub fn cosines(a: ArrayView2<f32>, b: ArrayView2<f32>) -> Result<Array1<f64>, MetricsError> {
    if a.nrows() != b.nrows() {
        return Err(MetricsError::Unpaired { left: a.nrows(), right: b.nrows() });
    }
    if a.ncols() != b.ncols() {
        return Err(MetricsError::Width { left: a.ncols(), right: b.ncols() });
    }
    let rows: Vec<Result<f64, MetricsError>> =
        (0..a.nrows()).into_par_iter().map(|row| cosine(row, a.row(row), b.row(row))).collect();
    rows.into_iter().collect()
}

/// CLIP-I: mean cosine of the image embeddings of generated pictures and of their references.
///
/// Raw, as arXiv:2308.06721 Table 1 reports it. Row `i` of one belongs to row `i` of the other.
///
/// # Errors
/// Those of [`cosines`], and [`MetricsError::Empty`] without rows.
pub fn clip_i(generated: ArrayView2<f32>, references: ArrayView2<f32>) -> Result<f64, MetricsError> {
    mean_cosine(generated, references)
}

/// CLIP-T: mean cosine of the image embeddings of generated pictures and the text embeddings of their captions.
///
/// Raw. arXiv:2308.06721 Table 1 can only hold this value times [`crate::CLIPSCORE_WEIGHT`].
///
/// # Errors
/// Those of [`cosines`], and [`MetricsError::Empty`] without rows.
pub fn clip_t(generated: ArrayView2<f32>, captions: ArrayView2<f32>) -> Result<f64, MetricsError> {
    mean_cosine(generated, captions)
}

/// Image-to-caption retrieval: for every picture, whether its own caption is the most similar of all.
///
/// Recall at one of arXiv:2103.00020 §3.1.4; another caption as similar counts against it.
///
/// # Shapes
/// - `pictures`, `captions`: `[n, width]`; row `i` of one belongs to row `i` of the other
///
/// # Errors
/// Those of [`cosines`].
pub fn retrieved(pictures: ArrayView2<f32>, captions: ArrayView2<f32>) -> Result<Vec<bool>, MetricsError> {
    let own = cosines(pictures, captions)?;
    let is_nearest = |row: usize| {
        let mut others = (0..captions.nrows()).filter(|&other| other != row);
        others.try_fold(true, |nearest, other| {
            Ok(nearest && cosine(other, pictures.row(row), captions.row(other))? < own[row])
        })
    };
    (0..pictures.nrows()).into_par_iter().map(is_nearest).collect()
}

fn mean_cosine(a: ArrayView2<f32>, b: ArrayView2<f32>) -> Result<f64, MetricsError> {
    cosines(a, b)?.mean().ok_or(MetricsError::Empty)
}

fn cosine(row: usize, a: ArrayView1<f32>, b: ArrayView1<f32>) -> Result<f64, MetricsError> {
    let (mut dot, mut a_squared, mut b_squared) = (0.0, 0.0, 0.0);
    for (&a, &b) in a.iter().zip(b) {
        let (a, b) = (f64::from(a), f64::from(b));
        dot += a * b;
        a_squared += a * a;
        b_squared += b * b;
    }
    if !(a_squared.is_finite() && b_squared.is_finite()) {
        return Err(MetricsError::NotFinite { index: row });
    }
    if a_squared == 0.0 || b_squared == 0.0 {
        return Err(MetricsError::ZeroLength { row });
    }
    Ok((dot / (a_squared.sqrt() * b_squared.sqrt())).clamp(-1.0, 1.0))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use ndarray::{Array2, array};

    use super::*;

    #[test]
    fn cosines_match_hand_computed_values() {
        let a = array![[3.0_f32, 4.0], [1.0, 0.0], [1.0, 1.0], [2.0, -1.0]];
        let b = array![[4.0_f32, 3.0], [0.0, 7.0], [-5.0, -5.0], [2.0, -1.0]];
        let found = cosines(a.view(), b.view()).unwrap();
        for (found, expected) in found.iter().zip([24.0 / 25.0, 0.0, -1.0, 1.0]) {
            assert!((found - expected).abs() < 1e-15, "{found} is not {expected}");
        }
    }

    #[test]
    fn cosines_do_not_depend_on_length_even_where_f32_would_overflow() {
        let a = array![[3e37_f32, 4e37], [3e-38, 4e-38]];
        let b = array![[4.0_f32, 3.0], [4.0, 3.0]];
        for found in cosines(a.view(), b.view()).unwrap() {
            assert!((found - 0.96).abs() < 1e-6, "{found}");
        }
    }

    #[test]
    fn cosines_follow_transposed_views() {
        let columns = array![[3.0_f32, 1.0], [4.0, 0.0]];
        let b = array![[4.0_f32, 3.0], [1.0, 0.0]];
        assert_eq!(cosines(columns.t(), b.view()).unwrap().to_vec(), [0.96, 1.0]);
    }

    #[test]
    fn the_means_are_means_of_raw_cosines() {
        let a = array![[3.0_f32, 4.0], [1.0, 0.0]];
        let b = array![[4.0_f32, 3.0], [-2.0, 0.0]];
        assert!((clip_i(a.view(), b.view()).unwrap() - (0.96 - 1.0) / 2.0).abs() < 1e-15);
        assert_eq!(clip_i(a.view(), b.view()), clip_t(a.view(), b.view()));
    }

    #[test]
    fn a_caption_is_retrieved_if_no_other_is_as_similar() {
        let pictures = array![[1.0_f32, 0.1], [0.1, 1.0], [1.0, 1.0]];
        let captions = array![[2.0_f32, 0.0], [0.0, 3.0], [-1.0, 1.0]];
        assert_eq!(retrieved(pictures.view(), captions.view()), Ok(vec![true, true, false]));
        let twice = array![[2.0_f32, 0.0], [2.0, 0.0], [1.0, 1.0]];
        assert_eq!(retrieved(pictures.view(), twice.view()), Ok(vec![false, false, true]));
        let zero = array![[1.0_f32, 0.0], [0.0, 1.0], [0.0, 0.0]];
        assert_eq!(retrieved(pictures.view(), zero.view()), Err(MetricsError::ZeroLength { row: 2 }));
    }

    #[test]
    fn bad_embeddings_are_refused_by_the_first_bad_row() {
        let good = array![[1.0_f32, 0.0], [1.0, 0.0], [1.0, 0.0]];
        let zero = array![[1.0_f32, 0.0], [0.0, 0.0], [f32::NAN, 0.0]];
        assert_eq!(cosines(good.view(), zero.view()), Err(MetricsError::ZeroLength { row: 1 }));
        let infinite = array![[1.0_f32, 0.0], [1.0, 0.0], [f32::INFINITY, 0.0]];
        assert_eq!(cosines(infinite.view(), good.view()), Err(MetricsError::NotFinite { index: 2 }));
    }

    #[test]
    fn shapes_that_do_not_match_are_refused() {
        let (two, three) = (Array2::<f32>::ones((2, 4)), Array2::<f32>::ones((3, 4)));
        assert_eq!(cosines(two.view(), three.view()), Err(MetricsError::Unpaired { left: 2, right: 3 }));
        let wide = Array2::<f32>::ones((2, 8));
        assert_eq!(cosines(two.view(), wide.view()), Err(MetricsError::Width { left: 4, right: 8 }));
        let none = Array2::<f32>::ones((0, 4));
        assert_eq!(clip_i(none.view(), none.view()), Err(MetricsError::Empty));
    }
}
