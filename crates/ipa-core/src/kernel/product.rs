//! Products of a few rows whose sums stay in registers.

use super::{Line, Vector};

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
            // SAFETY: it was just asked whether the last of these lies within.
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
        // SAFETY: as `Vector` says.
        let mut factors = [unsafe { V::splat(0.0) }; N];
        for (vector, factor) in factors.iter_mut().enumerate() {
            let done = vector * V::LANES;
            // SAFETY: the row lies within, and what is beyond it is left out.
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
