//! How alike two pictures are pixel by pixel.

use image::RgbImage;

use crate::MetricsError;

/// Radius and deviation of the window of [`ssim`].
const RADIUS: usize = 5;
const SIGMA: f64 = 1.5;

/// Peak signal-to-noise ratio in dB, of 255 levels; infinite for equal pictures.
///
/// # Errors
/// [`MetricsError::Sizes`] if the pictures differ in size.
pub fn psnr(a: &RgbImage, b: &RgbImage) -> Result<f64, MetricsError> {
    check_sizes(a, b)?;
    let squares = a.as_raw().iter().zip(b.as_raw()).map(|(a, b)| f64::from(a.abs_diff(*b)).powi(2));
    let mean = squares.sum::<f64>() / a.as_raw().len().max(1) as f64;
    Ok(10.0 * (255.0_f64.powi(2) / mean).log10())
}

/// Mean structural similarity over positions and channels (Wang et al. 2004, Eq. 13), in a Gaussian window of 11 × 11
/// with σ = 1.5 that lies within the picture.
///
/// # Errors
/// [`MetricsError::Sizes`] if the pictures differ in size, [`MetricsError::Empty`] if they are smaller than the window.
pub fn ssim(a: &RgbImage, b: &RgbImage) -> Result<f64, MetricsError> {
    check_sizes(a, b)?;
    let window = window();
    let (width, height) = (a.width() as usize, a.height() as usize);
    if width < window.len() || height < window.len() {
        return Err(MetricsError::Empty);
    }
    let channel = |picture: &RgbImage, channel: usize| {
        picture.pixels().map(|pixel| f64::from(pixel.0[channel])).collect::<Vec<f64>>()
    };
    let means = (0..3).map(|index| mean_similarity(&channel(a, index), &channel(b, index), width, &window));
    Ok(means.sum::<f64>() / 3.0)
}

fn mean_similarity(a: &[f64], b: &[f64], width: usize, window: &[f64]) -> f64 {
    const C1: f64 = (0.01 * 255.0) * (0.01 * 255.0);
    const C2: f64 = (0.03 * 255.0) * (0.03 * 255.0);
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).collect::<Vec<f64>>();
    let blurred = |values: &[f64]| blurred(values, width, window);
    let (mean_a, mean_b) = (blurred(a), blurred(b));
    let (aa, bb, ab) = (blurred(&product(a, a)), blurred(&product(b, b)), blurred(&product(a, b)));
    let similarity = |index: usize| {
        let (mean_a, mean_b) = (mean_a[index], mean_b[index]);
        let (var_a, var_b) = (aa[index] - mean_a * mean_a, bb[index] - mean_b * mean_b);
        let covariance = ab[index] - mean_a * mean_b;
        let luminance = (2.0 * mean_a * mean_b + C1) / (mean_a * mean_a + mean_b * mean_b + C1);
        luminance * (2.0 * covariance + C2) / (var_a + var_b + C2)
    };
    (0..mean_a.len()).map(similarity).sum::<f64>() / mean_a.len() as f64
}

/// The weighted mean around every position whose window lies within.
fn blurred(values: &[f64], width: usize, window: &[f64]) -> Vec<f64> {
    let weigh = |parts: &mut dyn Iterator<Item = f64>| parts.zip(window).map(|(value, weight)| value * weight).sum();
    let rows = values.chunks_exact(width);
    let across: Vec<Vec<f64>> =
        rows.map(|row| row.windows(window.len()).map(|part| weigh(&mut part.iter().copied())).collect()).collect();
    let down = |rows: &[Vec<f64>]| -> Vec<f64> {
        (0..rows[0].len()).map(|column| weigh(&mut rows.iter().map(|row| row[column]))).collect()
    };
    across.windows(window.len()).flat_map(down).collect()
}

fn window() -> Vec<f64> {
    let weight = |index: usize| (-((index as f64 - RADIUS as f64) / SIGMA).powi(2) / 2.0).exp();
    let weights: Vec<f64> = (0..=2 * RADIUS).map(weight).collect();
    let sum: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / sum).collect()
}

fn check_sizes(a: &RgbImage, b: &RgbImage) -> Result<(), MetricsError> {
    match a.dimensions() == b.dimensions() {
        true => Ok(()),
        false => Err(MetricsError::Sizes { left: a.dimensions(), right: b.dimensions() }),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn equal_pictures_are_as_alike_as_can_be() {
        let picture = RgbImage::from_fn(20, 16, |x, y| image::Rgb([(x * 12) as u8, (y * 15) as u8, 77]));
        assert_eq!(psnr(&picture, &picture), Ok(f64::INFINITY));
        assert!((ssim(&picture, &picture).unwrap() - 1.0).abs() < 1e-12);
    }

    #[test]
    fn one_level_everywhere_is_48_db() {
        let (dark, light) =
            (RgbImage::from_pixel(4, 4, image::Rgb([9; 3])), RgbImage::from_pixel(4, 4, image::Rgb([10; 3])));
        assert!((psnr(&dark, &light).unwrap() - 48.130_803_6).abs() < 1e-6);
        assert_eq!(ssim(&dark, &light), Err(MetricsError::Empty));
        let other = RgbImage::new(5, 4);
        assert_eq!(psnr(&dark, &other), Err(MetricsError::Sizes { left: (4, 4), right: (5, 4) }));
    }
}
