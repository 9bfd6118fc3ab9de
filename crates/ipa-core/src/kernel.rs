//! What kernels of our own are made of: products of a few rows that stay in registers, and powers of two; for processors
//! with AVX-512.

use std::arch::x86_64::{
    __m512, __mmask16, _mm512_add_ps, _mm512_fmadd_ps, _mm512_load_ps, _mm512_maskz_loadu_ps, _mm512_roundscale_ps,
    _mm512_scalef_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_store_ps, _mm512_sub_ps,
};
use std::f32::consts::LN_2;

/// Numbers in a vector.
pub(crate) const LANES: usize = 16;
/// Queries or positions that are computed together, in two vectors: each number of a key or weight serves them all.
pub(crate) const PANEL: usize = 32;
/// Rows of a product that are computed together: their sums and what they need fill the registers.
pub(crate) const ROWS: usize = 8;

/// A number for each query or position of a panel.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
pub(crate) struct Line(pub(crate) [f32; PANEL]);

impl Line {
    pub(crate) const ZERO: Self = Self([0.0; PANEL]);

    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(crate) fn vectors(&self) -> [__m512; 2] {
        let begin = self.0.as_ptr();
        // SAFETY: 32 numbers lie there, aligned as vectors are.
        unsafe { [_mm512_load_ps(begin), _mm512_load_ps(begin.add(LANES))] }
    }

    /// Adds a sum that began at zero: one long sum would lose more of its last digits than a sum of sums.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(crate) fn add(&mut self, sum: [__m512; 2]) {
        let before = self.vectors();
        self.set([_mm512_add_ps(before[0], sum[0]), _mm512_add_ps(before[1], sum[1])]);
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(crate) fn set(&mut self, [low, high]: [__m512; 2]) {
        let begin = self.0.as_mut_ptr();
        // SAFETY: room for 32 numbers is there, aligned as vectors are.
        unsafe {
            _mm512_store_ps(begin, low);
            _mm512_store_ps(begin.add(LANES), high);
        }
    }
}

/// The lines `[queries, dim]` → `[dim]` of up to 32 rows, each number times `factor`; what is missing is 0.
pub(crate) fn turned<'a>(rows: impl Iterator<Item = &'a [f32]>, factor: f32, to: &mut [Line]) {
    to.fill(Line::ZERO);
    for (query, row) in rows.take(PANEL).enumerate() {
        to.iter_mut().zip(row).for_each(|(line, value)| line.0[query] = value * factor);
    }
}

/// Where the left factor of a product lies: `numbers[row · row_step + k · k_step]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Left<'a> {
    pub(crate) numbers: &'a [f32],
    pub(crate) row_step: usize,
    pub(crate) k_step: usize,
}

impl Left<'_> {
    /// Whether all of its numbers are there.
    fn holds(&self, rows: usize, count: usize) -> bool {
        rows == 0 || count == 0 || (rows - 1) * self.row_step + (count - 1) * self.k_step < self.numbers.len()
    }
}

/// Whether this processor can do what is here.
pub(crate) fn is_possible() -> bool {
    std::arch::is_x86_feature_detected!("avx512f")
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn zeros<const R: usize, const V: usize>() -> [[__m512; V]; R] {
    [[_mm512_setzero_ps(); V]; R]
}

/// `sums[row] += Σₖ left[row, k] · right[k]`, for each place of a panel.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn add_product<const R: usize>(sums: &mut [[__m512; 2]; R], left: Left<'_>, right: &[Line]) {
    assert!(left.holds(R, right.len()));
    let begin = left.numbers.as_ptr();
    for (k, line) in right.iter().enumerate() {
        let [low, high] = line.vectors();
        for (row, sum) in sums.iter_mut().enumerate() {
            // SAFETY: it was just asked whether the last of these lies within.
            let factor = _mm512_set1_ps(unsafe { *begin.add(row * left.row_step + k * left.k_step) });
            *sum = [_mm512_fmadd_ps(factor, low, sum[0]), _mm512_fmadd_ps(factor, high, sum[1])];
        }
    }
}

/// Rows of numbers, `step` apart, that products are with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rows<'a> {
    pub(crate) numbers: &'a [f32],
    pub(crate) step: usize,
    pub(crate) width: usize,
}

impl<'a> Rows<'a> {
    pub(crate) fn row(self, index: usize) -> &'a [f32] {
        &self.numbers[index * self.step..][..self.width]
    }

    /// Rows from `first` on as the left factor of a product over their numbers.
    pub(crate) fn left(self, first: usize) -> Left<'a> {
        Left { numbers: &self.numbers[first * self.step..], row_step: self.step, k_step: 1 }
    }

    pub(crate) fn iter(self, range: std::ops::Range<usize>) -> impl Iterator<Item = &'a [f32]> {
        range.map(move |index| self.row(index))
    }
}

/// `sums[row] += Σₖ left[row, k] · right[first + k]`, for `V` vectors of numbers from `column` on.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn add_wide<const V: usize>(
    sums: &mut [[__m512; V]; ROWS],
    left: Left<'_>,
    right: Rows<'_>,
    (first, count): (usize, usize),
    column: usize,
) {
    assert!(left.holds(ROWS, count) && column < right.width);
    assert!(count == 0 || (first + count - 1) * right.step + right.width <= right.numbers.len());
    let begin = left.numbers.as_ptr();
    let masks: [__mmask16; V] = std::array::from_fn(|vector| mask(right.width - (column + vector * LANES)));
    for k in 0..count {
        let mut factors = [_mm512_setzero_ps(); V];
        for (vector, factor) in factors.iter_mut().enumerate() {
            let place = (first + k) * right.step + column + vector * LANES;
            // SAFETY: the mask leaves out what lies beyond the row, which lies within.
            *factor = unsafe { _mm512_maskz_loadu_ps(masks[vector], right.numbers.as_ptr().add(place)) };
        }
        for (row, sum) in sums.iter_mut().enumerate() {
            // SAFETY: it was just asked whether the last of these lies within.
            let number = _mm512_set1_ps(unsafe { *begin.add(row * left.row_step + k * left.k_step) });
            for (sum, factor) in sum.iter_mut().zip(factors) {
                *sum = _mm512_fmadd_ps(number, factor, *sum);
            }
        }
    }
}

/// The lanes of a vector that lie before `left` numbers end.
#[inline]
fn mask(left: usize) -> __mmask16 {
    if left >= LANES { __mmask16::MAX } else { (1 << left) - 1 }
}

/// `2^x`, to 1 in the last place; 0 where that is too small.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn exp2(x: __m512) -> __m512 {
    // Taylor's series; the next term is 5e-9 at the ends of ±1/2.
    const SERIES: [f32; 8] =
        [1.525_273_4e-5, 1.540_353e-4, 1.333_355_8e-3, 9.618_129e-3, 5.550_411e-2, 0.240_226_5, LN_2, 1.0];
    let whole = _mm512_roundscale_ps::<0>(x);
    let rest = _mm512_sub_ps(x, whole);
    let mut sum = _mm512_set1_ps(SERIES[0]);
    for term in &SERIES[1..] {
        sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(*term));
    }
    _mm512_scalef_ps(sum, whole)
}
