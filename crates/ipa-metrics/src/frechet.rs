//! Fréchet distance of two sets of features.

use nalgebra::{DMatrix, DVector};
use ndarray::ArrayView2;

use crate::MetricsError;

/// Squared Fréchet distance of the normal distributions that fit two sets (arXiv:1706.08500 Eq. 6), unnormalised
/// covariances divided by `n − 1`.
///
/// Two sets of few rows look far apart: compare only distances of sets of the same sizes.
///
/// # Shapes
/// - `a`: `[n, width]`, `b`: `[m, width]`
///
/// # Errors
/// [`MetricsError::Width`], [`MetricsError::Empty`] with fewer than two rows, [`MetricsError::NotFinite`] with the row.
pub fn frechet_distance(a: ArrayView2<f32>, b: ArrayView2<f32>) -> Result<f64, MetricsError> {
    if a.ncols() != b.ncols() {
        return Err(MetricsError::Width { left: a.ncols(), right: b.ncols() });
    }
    let ((mean_a, cov_a), (mean_b, cov_b)) = (moments(a)?, moments(b)?);
    // tr √(AB) = tr √(√A B √A), which is symmetric.
    let root_a = root(cov_a.clone());
    let product = &root_a * &cov_b * &root_a;
    let symmetric = (&product + product.transpose()) * 0.5;
    let trace_of_root: f64 = symmetric.symmetric_eigenvalues().iter().map(|value| value.max(0.0).sqrt()).sum();
    Ok((mean_a - mean_b).norm_squared() + cov_a.trace() + cov_b.trace() - 2.0 * trace_of_root)
}

fn moments(rows: ArrayView2<f32>) -> Result<(DVector<f64>, DMatrix<f64>), MetricsError> {
    if rows.nrows() < 2 {
        return Err(MetricsError::Empty);
    }
    let is_broken = |row: &ndarray::ArrayView1<f32>| row.iter().any(|value| !value.is_finite());
    if let Some(index) = rows.rows().into_iter().position(|row| is_broken(&row)) {
        return Err(MetricsError::NotFinite { index });
    }
    let values = DMatrix::from_fn(rows.nrows(), rows.ncols(), |row, column| f64::from(rows[[row, column]]));
    let mean = values.row_mean();
    let centred = DMatrix::from_fn(values.nrows(), values.ncols(), |row, column| values[(row, column)] - mean[column]);
    let covariance = centred.transpose() * &centred / (values.nrows() - 1) as f64;
    Ok((mean.transpose(), covariance))
}

/// The symmetric square root of a positive semidefinite matrix.
fn root(matrix: DMatrix<f64>) -> DMatrix<f64> {
    let eigen = matrix.symmetric_eigen();
    let roots = DMatrix::from_diagonal(&eigen.eigenvalues.map(|value| value.max(0.0).sqrt()));
    &eigen.eigenvectors * roots * eigen.eigenvectors.transpose()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use ndarray::{Array2, array};

    #[test]
    fn a_set_has_no_distance_from_itself_and_a_shift_squared_from_its_shifted_self() {
        let set = array![[1.0_f32, 2.0], [3.0, -1.0], [0.0, 0.5], [2.0, 2.0]];
        assert!(frechet_distance(set.view(), set.view()).unwrap().abs() < 1e-9);
        let shifted: Array2<f32> = &set + &array![3.0_f32, 4.0];
        assert!((frechet_distance(set.view(), shifted.view()).unwrap() - 25.0).abs() < 1e-6);
    }

    #[test]
    fn what_is_no_set_is_refused() {
        let one = array![[1.0_f32, 2.0]];
        assert_eq!(frechet_distance(one.view(), one.view()), Err(MetricsError::Empty));
        let broken = array![[1.0_f32], [f32::NAN]];
        assert_eq!(frechet_distance(broken.view(), broken.view()), Err(MetricsError::NotFinite { index: 1 }));
    }
}
