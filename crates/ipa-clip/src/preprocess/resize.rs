//! Pillow's antialiased resize of 8-bit images, bit for bit.
//!
//! Follows `Resample.c` of Pillow 13: weights in fixed point, two passes with 8 bits between them. Older versions
//! always begin with the horizontal pass; where version 13 does not, they differ by a level or two.

use std::f64::consts::PI;
use std::ops::Range;

use image::RgbImage;
use rayon::prelude::*;

const CHANNELS: usize = 3;
const PRECISION_BITS: u32 = 32 - 8 - 2; // the sum of 8-bit values times weights, which may exceed 1, fits an i32

/// How pixels are weighted; when shrinking, the filter is widened so that every source pixel counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// Two neighbours; what the reference trains on.
    Bilinear,
    /// Four neighbours, Catmull-Rom (a = -0.5); what CLIP sees.
    Bicubic,
    /// Six neighbours; what diffusers' pipelines use for pictures, masks and hints.
    Lanczos,
}

impl Filter {
    /// How far the filter reaches, in pixels of the smaller image.
    fn support(self) -> f64 {
        match self {
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
            Self::Lanczos => 3.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        const A: f64 = -0.5;
        match self {
            Self::Bilinear => (1.0 - x.abs()).max(0.0),
            Self::Bicubic => match x.abs() {
                x if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
                x if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
                _ => 0.0,
            },
            Self::Lanczos if (-3.0..3.0).contains(&x) => sinc(x) * sinc(x / 3.0),
            Self::Lanczos => 0.0,
        }
    }
}

/// `image` at another size, equal to Pillow's `Image.resize` byte for byte.
///
/// # Panics
/// If a side of the image or of the result is 0.
pub fn resize(image: &RgbImage, width: u32, height: u32, filter: Filter) -> RgbImage {
    let size = Size { width: width.into(), height: height.into() };
    resize_part(image, size, 0..size.width, 0..size.height, filter)
}

/// Sides of an image that need not exist as a whole: in 64 bits, since a narrow strip scaled up is very long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) width: u64,
    pub(super) height: u64,
}

/// The given columns and rows of what [`resize`] to `size` would give, without computing the rest.
pub(super) fn resize_part(
    image: &RgbImage,
    size: Size,
    columns: Range<u64>,
    rows: Range<u64>,
    filter: Filter,
) -> RgbImage {
    let (width, height) = image.dimensions();
    assert!(width > 0 && height > 0 && size.width > 0 && size.height > 0, "an image without pixels");
    let horizontal = taps(width, size.width, columns, filter);
    let vertical = taps(height, size.height, rows, filter);
    let source_stride = width as usize * CHANNELS;
    let stride = horizontal.len() * CHANNELS;
    let bytes = if is_vertical_first(image, size) {
        let low = resize_columns(image.as_raw(), source_stride, 0, &vertical);
        resize_rows(&low, source_stride, &horizontal)
    } else {
        let first_row = vertical.first().map_or(0, |taps| taps.start);
        let end_row = vertical.last().map_or(0, |taps| taps.start + taps.weights.len());
        let source = &image.as_raw()[first_row * source_stride..end_row * source_stride];
        let narrow = resize_rows(source, source_stride, &horizontal);
        resize_columns(&narrow, stride, first_row, &vertical)
    };
    RgbImage::from_raw(horizontal.len() as u32, vertical.len() as u32, bytes).expect("one pixel for each pair of taps")
}

/// Parity: Pillow 13 starts with the vertical pass if it takes away more than twice what the horizontal one does.
fn is_vertical_first(image: &RgbImage, size: Size) -> bool {
    let fewer_columns = i64::from(image.width()) - size.width as i64;
    let fewer_rows = i64::from(image.height()) - size.height as i64;
    fewer_rows > 0 && fewer_rows > 2 * fewer_columns
}

/// The source pixels that one output pixel is made of, with their weights in fixed point.
struct Taps {
    start: usize,
    weights: Vec<i32>,
}

/// Taps of the output pixels `range` along one axis.
fn taps(source: u32, target: u64, range: Range<u64>, filter: Filter) -> Vec<Taps> {
    let scale = f64::from(source) / target as f64;
    let filter_scale = scale.max(1.0);
    let support = filter.support() * filter_scale;
    let inverse = 1.0 / filter_scale;
    range
        .map(|index| {
            let center = (index as f64 + 0.5) * scale;
            let start = (center - support + 0.5).max(0.0) as u32; // truncates, as Pillow does
            let end = ((center + support + 0.5) as u32).min(source);
            let weights: Vec<f64> =
                (start..end).map(|at| filter.weight((f64::from(at) - center + 0.5) * inverse)).collect();
            let sum: f64 = weights.iter().sum();
            let fixed = |weight: f64| {
                let scaled = weight / sum * f64::from(1 << PRECISION_BITS);
                (if scaled < 0.0 { scaled - 0.5 } else { scaled + 0.5 }) as i32
            };
            Taps { start: start as usize, weights: weights.into_iter().map(fixed).collect() }
        })
        .collect()
}

/// The horizontal pass over every row of `source`.
fn resize_rows(source: &[u8], source_stride: usize, taps: &[Taps]) -> Vec<u8> {
    let stride = taps.len() * CHANNELS;
    let mut output = vec![0; source.len() / source_stride * stride];
    output.par_chunks_exact_mut(stride).zip(source.par_chunks_exact(source_stride)).for_each(|(output, row)| {
        for (pixel, taps) in output.chunks_exact_mut(CHANNELS).zip(taps) {
            let mut sums = [1 << (PRECISION_BITS - 1); CHANNELS];
            for (source, weight) in row[taps.start * CHANNELS..].chunks_exact(CHANNELS).zip(&taps.weights) {
                for (sum, &value) in sums.iter_mut().zip(source) {
                    *sum += i32::from(value) * weight;
                }
            }
            for (value, sum) in pixel.iter_mut().zip(sums) {
                *value = to_byte(sum);
            }
        }
    });
    output
}

/// The vertical pass; `source` starts with row `first_row` of what the taps count.
fn resize_columns(source: &[u8], stride: usize, first_row: usize, taps: &[Taps]) -> Vec<u8> {
    let mut output = vec![0; taps.len() * stride];
    output.par_chunks_exact_mut(stride).zip(taps).for_each_init(
        || vec![0; stride],
        |sums, (output, taps)| {
            sums.fill(1 << (PRECISION_BITS - 1));
            for (row, weight) in source.chunks_exact(stride).skip(taps.start - first_row).zip(&taps.weights) {
                for (sum, &value) in sums.iter_mut().zip(row) {
                    *sum += i32::from(value) * weight;
                }
            }
            for (value, &sum) in output.iter_mut().zip(sums.iter()) {
                *value = to_byte(sum);
            }
        },
    );
    output
}

fn to_byte(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

fn sinc(x: f64) -> f64 {
    if x == 0.0 { 1.0 } else { (x * PI).sin() / (x * PI) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The 8 x 10 anchor of a rebuilt `Resample.c`: p(row, column) = (37 row + 11 column²) mod 256.
    #[test]
    fn anchor_of_the_integer_algorithm() {
        let image = RgbImage::from_fn(10, 8, |x, y| image::Rgb([((37 * y + 11 * x * x) % 256) as u8; 3]));
        let small = resize(&image, 4, 3, Filter::Bicubic);
        let values: Vec<u8> = small.pixels().map(|pixel| pixel.0[0]).collect();
        assert_eq!(values, [46, 138, 120, 140, 154, 152, 142, 108, 131, 104, 142, 134]);
    }

    #[test]
    fn same_size_is_a_copy() {
        let image = RgbImage::from_fn(7, 5, |x, y| image::Rgb([(40 * x) as u8, (50 * y) as u8, (x * y) as u8]));
        for filter in [Filter::Bilinear, Filter::Bicubic, Filter::Lanczos] {
            assert_eq!(resize(&image, 7, 5, filter), image);
        }
    }

    #[test]
    fn a_part_equals_the_whole_cut() {
        let image = RgbImage::from_fn(23, 31, |x, y| image::Rgb([(11 * x) as u8, (7 * y) as u8, (x * y) as u8]));
        let whole = resize(&image, 50, 12, Filter::Lanczos);
        let part = resize_part(&image, Size { width: 50, height: 12 }, 13..40, 5..11, Filter::Lanczos);
        assert_eq!(part, image::imageops::crop_imm(&whole, 13, 5, 27, 6).to_image());
    }
}
