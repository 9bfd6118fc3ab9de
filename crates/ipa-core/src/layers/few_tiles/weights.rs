//! Weights transformed a few rows at a time, where they are read.

use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
use std::ops::Range;

use super::super::few_positions::{CACHE_LINE, TAPS};
use super::{CHANNELS, GROUP, NUMBERS};
use crate::kernel::{Left, Vector};
use crate::winograd::Way;

/// `[outputs, inputs, 3, 3]`.
#[derive(Clone, Copy)]
pub(super) struct Weights<'a> {
    pub(super) numbers: &'a [f32],
    pub(super) inputs: usize,
    pub(super) way: Way,
}

/// Transformed weights of a group of rows, `[numbers, rows, channels]`, or back `[numbers, channels, rows]`.
#[repr(align(64))]
pub(super) struct Block([f32; NUMBERS * GROUP * CHANNELS]);

impl Block {
    pub(super) fn new() -> Box<Self> {
        Box::new(Self([0.0; NUMBERS * GROUP * CHANNELS]))
    }
}

impl Weights<'_> {
    /// `G g Gᵀ` between the rows from `row` on and some channels.
    #[inline(always)]
    pub(super) fn transform<V: Vector>(self, row: usize, channels: Range<usize>, to: &mut Block) {
        match self.way {
            Way::Forward => {
                for index in 0..GROUP {
                    for channel in channels.clone().step_by(V::LANES) {
                        self.put::<V>(row + index, channel, index * CHANNELS + channel - channels.start, to);
                    }
                }
            }
            Way::Back => {
                for (index, channel) in channels.enumerate() {
                    for first in (0..GROUP).step_by(V::LANES) {
                        self.put::<V>(channel, row + first, index * GROUP + first, to);
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn put<V: Vector>(self, output: usize, input: usize, place: usize, to: &mut Block) {
        for (number, vector) in transformed_kernel::<V>(self.kernels(output, input)).into_iter().enumerate() {
            let to = &mut to.0[number * GROUP * CHANNELS + place..][..V::LANES];
            // SAFETY: there is room for it.
            unsafe { vector.store(to.as_mut_ptr()) };
        }
    }

    /// Has a 16th of what [`Weights::transform`] reads fetched while others are computed with.
    pub(super) fn call(self, row: usize, channels: Range<usize>, part: usize) {
        let (kernels, num, each) = match self.way {
            Way::Forward => (row + part..row + part + 1, channels.start, channels.len()),
            Way::Back => {
                let share = channels.len().div_ceil(NUMBERS);
                let first = channels.start + part * share;
                (first..channels.end.min(first + share), row, GROUP)
            }
        };
        for output in kernels {
            let begin = (output * self.inputs + num) * TAPS;
            for place in (begin..begin + each * TAPS).step_by(CACHE_LINE) {
                if let Some(number) = self.numbers.get(place) {
                    // SAFETY: nothing is read.
                    unsafe { _mm_prefetch::<_MM_HINT_T1>(std::ptr::from_ref(number).cast()) };
                }
            }
        }
    }

    /// The nine numbers of the kernels between an output and as many inputs as in a vector, from the last to the first on the
    /// way back.
    #[inline(always)]
    fn kernels<V: Vector>(self, output: usize, input: usize) -> [V; TAPS] {
        const STEPS: [i32; GROUP] = {
            let mut steps = [0; GROUP];
            let mut lane = 0;
            while lane < GROUP {
                steps[lane] = (lane * TAPS) as i32;
                lane += 1;
            }
            steps
        };
        let numbers = &self.numbers[(output * self.inputs + input) * TAPS..][..V::LANES * TAPS];
        // SAFETY: so many kernels lie there, one after another.
        let mut kernel = unsafe { [V::gather(numbers.as_ptr(), STEPS.as_ptr()); TAPS] };
        for (tap, vector) in kernel.iter_mut().enumerate() {
            let tap = if self.way == Way::Forward { tap } else { TAPS - 1 - tap };
            // SAFETY: as above.
            *vector = unsafe { V::gather(numbers.as_ptr().add(tap), STEPS.as_ptr()) };
        }
        kernel
    }

    /// `R` rows of a block.
    pub(super) fn left<const R: usize>(self, block: &Block, number: usize, part: usize) -> Left<'_> {
        let numbers = &block.0[number * GROUP * CHANNELS..][..GROUP * CHANNELS];
        match self.way {
            Way::Forward => Left { numbers: &numbers[part * R * CHANNELS..], row_step: CHANNELS, k_step: 1 },
            Way::Back => Left { numbers: &numbers[part * R..], row_step: 1, k_step: GROUP },
        }
    }
}

#[inline(always)]
fn transformed_kernel<V: Vector>(kernel: [V; TAPS]) -> [V; NUMBERS] {
    // SAFETY: as `Vector` says.
    let half = unsafe { V::splat(0.5) };
    let mut columns = [half; 12];
    for x in 0..3 {
        let column = along([kernel[x], kernel[3 + x], kernel[6 + x]], half);
        for (y, number) in column.into_iter().enumerate() {
            columns[3 * y + x] = number;
        }
    }
    let mut numbers = [half; NUMBERS];
    for y in 0..4 {
        let row = along([columns[3 * y], columns[3 * y + 1], columns[3 * y + 2]], half);
        numbers[4 * y..4 * y + 4].copy_from_slice(&row);
    }
    numbers
}

#[inline(always)]
fn along<V: Vector>([a, b, c]: [V; 3], half: V) -> [V; 4] {
    let ends = a.plus(c);
    [a, ends.plus(b).times(half), ends.minus(b).times(half), c]
}
