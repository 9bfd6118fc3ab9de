//! What kernels of our own are made of: products of a few rows that stay in registers, and powers of two; written once for
//! vectors of each size.
//!
//! Everything generic here is inlined into functions that are compiled for a processor's instructions, and nothing of it is
//! called elsewhere.

mod avx2;
mod avx512;

use std::arch::x86_64::{__m256, __m512};

/// The instructions that kernels are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Instructions {
    /// 16 numbers in a vector, 32 vectors.
    Avx512,
    /// 8 numbers in a vector, 16 vectors.
    Avx2,
}

impl Instructions {
    /// The best that this processor has.
    pub(crate) fn found() -> Option<Self> {
        if std::arch::is_x86_feature_detected!("avx512f") {
            return Some(Self::Avx512);
        }
        let has_avx2 = std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma");
        has_avx2.then_some(Self::Avx2)
    }

    /// Queries or positions that are computed together.
    pub(crate) fn panel(self) -> usize {
        match self {
            Self::Avx512 => Line::<__m512>::PANEL,
            Self::Avx2 => Line::<__m256>::PANEL,
        }
    }

    /// All that this processor has, the best first.
    #[cfg(test)]
    pub(crate) fn all_found() -> Vec<Self> {
        let has_avx2 = std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma");
        let best = Self::found().filter(|found| *found != Self::Avx2);
        best.into_iter().chain(has_avx2.then_some(Self::Avx2)).collect()
    }
}

/// A vector of numbers, which are all that it consists of.
///
/// # Safety
/// Whoever makes one, by [`Vector::splat`] or [`Vector::load`], is compiled for the vector's instructions and runs on a
/// processor that has them; the rest follows.
pub(crate) unsafe trait Vector: Copy + Send + Sync + std::fmt::Debug {
    const LANES: usize;
    /// How many may be beside each other in [`add_wide`], so that the sums of all rows stay in registers.
    const BESIDE: usize;

    /// Does the work in a function that is compiled for these instructions: it has to be `#[inline(always)]` with all it calls.
    ///
    /// # Safety
    /// The processor has them.
    unsafe fn compiled<T>(work: impl FnOnce() -> T) -> T;

    unsafe fn splat(number: f32) -> Self;
    /// # Safety
    /// So many numbers lie there.
    unsafe fn load(place: *const f32) -> Self;
    /// As many as there are, zeros after them.
    ///
    /// # Safety
    /// `count` numbers lie there, or as many as in a vector.
    unsafe fn load_part(place: *const f32, count: usize) -> Self;
    /// The numbers at so many places from there on, zeros where a place is below 0.
    ///
    /// # Safety
    /// They lie there, and there are as many places as in a vector.
    unsafe fn gather(from: *const f32, places: *const i32) -> Self;
    /// # Safety
    /// There is room for so many numbers.
    unsafe fn store(self, place: *mut f32);
    fn plus(self, other: Self) -> Self;
    fn minus(self, other: Self) -> Self;
    fn times(self, other: Self) -> Self;
    fn over(self, other: Self) -> Self;
    fn max(self, other: Self) -> Self;
    /// `self · factor + term`, rounded once.
    fn mul_add(self, factor: Self, term: Self) -> Self;
    /// To the nearest whole number.
    fn rounded(self) -> Self;
    /// `self · 2^whole`, 0 where that is too small; `whole` not above 127.
    fn times_power(self, whole: Self) -> Self;

    /// `2^self`, to 1 in the last place; 0 where that is too small.
    #[inline(always)]
    fn exp2(self) -> Self {
        let whole = self.rounded();
        let rest = self.minus(whole);
        // SAFETY: there is a vector already.
        let mut sum = unsafe { Self::splat(SERIES[0]) };
        for term in &SERIES[1..] {
            // SAFETY: as above.
            sum = sum.mul_add(rest, unsafe { Self::splat(*term) });
        }
        sum.times_power(whole)
    }
}

/// Taylor's series of `2^x`; the next term is 5e-9 at the ends of ±1/2.
pub(crate) const SERIES: [f32; 8] = [
    1.525_273_4e-5,
    1.540_353e-4,
    1.333_355_8e-3,
    9.618_129e-3,
    5.550_411e-2,
    0.240_226_5,
    std::f32::consts::LN_2,
    1.0,
];

/// A number for each query or position of a panel, in two vectors: each number of a key or weight serves them all.
#[derive(Debug, Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Line<V>(pub(crate) [V; 2]);

impl<V: Vector> Line<V> {
    /// Queries or positions that are computed together.
    pub(crate) const PANEL: usize = 2 * V::LANES;

    // SAFETY: zeros are numbers, of which a line consists.
    pub(crate) const ZERO: Self = unsafe { std::mem::zeroed() };

    /// # Safety
    /// As [`Vector::splat`].
    #[inline(always)]
    pub(crate) unsafe fn splat(number: f32) -> Self {
        // SAFETY: the caller sees to it.
        Self([unsafe { V::splat(number) }; 2])
    }

    #[inline(always)]
    pub(crate) fn numbers(&self) -> &[f32] {
        Self::all_numbers(std::slice::from_ref(self))
    }

    #[inline(always)]
    pub(crate) fn numbers_mut(&mut self) -> &mut [f32] {
        // SAFETY: as `all_numbers`.
        unsafe { std::slice::from_raw_parts_mut(std::ptr::from_mut(self).cast(), Self::PANEL) }
    }

    /// The numbers of lines, which lie without gaps.
    #[inline(always)]
    pub(crate) fn all_numbers(lines: &[Self]) -> &[f32] {
        const { assert!(size_of::<Self>() == Self::PANEL * size_of::<f32>()) };
        // SAFETY: a line is so many numbers and nothing else.
        unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), lines.len() * Self::PANEL) }
    }

    #[inline(always)]
    pub(crate) fn plus(self, other: Self) -> Self {
        let mut result = self;
        for (value, other) in result.0.iter_mut().zip(other.0) {
            *value = value.plus(other);
        }
        result
    }

    #[inline(always)]
    pub(crate) fn minus(self, other: Self) -> Self {
        let mut result = self;
        for (value, other) in result.0.iter_mut().zip(other.0) {
            *value = value.minus(other);
        }
        result
    }

    #[inline(always)]
    pub(crate) fn times(self, other: Self) -> Self {
        let mut result = self;
        for (value, other) in result.0.iter_mut().zip(other.0) {
            *value = value.times(other);
        }
        result
    }

    #[inline(always)]
    pub(crate) fn over(self, other: Self) -> Self {
        let mut result = self;
        for (value, other) in result.0.iter_mut().zip(other.0) {
            *value = value.over(other);
        }
        result
    }

    #[inline(always)]
    pub(crate) fn max(self, other: Self) -> Self {
        let mut result = self;
        for (value, other) in result.0.iter_mut().zip(other.0) {
            *value = value.max(other);
        }
        result
    }

    #[inline(always)]
    pub(crate) fn exp2(self) -> Self {
        let mut result = self;
        for value in &mut result.0 {
            *value = value.exp2();
        }
        result
    }
}

/// The lines `[queries, dim]` → `[dim]` of up to a panel of rows, each number times `factor`; what is missing is 0.
#[inline(always)]
pub(crate) fn turned<'a, V: Vector>(rows: impl Iterator<Item = &'a [f32]>, factor: f32, to: &mut [Line<V>]) {
    for line in to.iter_mut() {
        line.numbers_mut().fill(0.0);
    }
    for (query, row) in rows.take(Line::<V>::PANEL).enumerate() {
        for (line, value) in to.iter_mut().zip(row) {
            line.numbers_mut()[query] = value * factor;
        }
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

/// `sums[row] += Σₖ left[row, k] · right[k]`, for each place of a panel.
#[inline(always)]
pub(crate) fn add_product<V: Vector, const R: usize>(sums: &mut [Line<V>; R], left: Left<'_>, right: &[Line<V>]) {
    assert!(left.holds(R, right.len()));
    let begin = left.numbers.as_ptr();
    for (k, line) in right.iter().enumerate() {
        let line = *line;
        for (row, sum) in sums.iter_mut().enumerate() {
            // SAFETY: it was just asked whether the last of these lies within; there are vectors already.
            let factor = unsafe { V::splat(*begin.add(row * left.row_step + k * left.k_step)) };
            for (sum, number) in sum.0.iter_mut().zip(line.0) {
                *sum = factor.mul_add(number, *sum);
            }
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

/// `sums[row] += Σₖ left[row, k] · right[first + k]`, for `N` vectors of numbers from `column` on.
#[inline(always)]
pub(crate) fn add_wide<V: Vector, const R: usize, const N: usize>(
    sums: &mut [[V; N]; R],
    left: Left<'_>,
    right: Rows<'_>,
    (first, count): (usize, usize),
    column: usize,
) {
    assert!(left.holds(R, count) && column + (N - 1) * V::LANES < right.width);
    assert!(count == 0 || (first + count - 1) * right.step + right.width <= right.numbers.len());
    let begin = left.numbers.as_ptr();
    for k in 0..count {
        let place = (first + k) * right.step + column;
        let mut factors = sums[0];
        for (vector, factor) in factors.iter_mut().enumerate() {
            let done = vector * V::LANES;
            // SAFETY: the row lies within, and what is beyond it is left out; there are vectors already.
            *factor = unsafe { V::load_part(right.numbers.as_ptr().add(place + done), right.width - column - done) };
        }
        for (row, sum) in sums.iter_mut().enumerate() {
            // SAFETY: it was just asked whether the last of these lies within.
            let number = unsafe { V::splat(*begin.add(row * left.row_step + k * left.k_step)) };
            for (sum, factor) in sum.iter_mut().zip(factors) {
                *sum = number.mul_add(factor, *sum);
            }
        }
    }
}
