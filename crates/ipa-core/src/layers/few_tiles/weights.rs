//! Weights transformed a few rows at a time, where they are read.

use std::arch::x86_64::{
    __m512, __m512i, _MM_HINT_T1, _mm_prefetch, _mm512_add_ps, _mm512_i32gather_ps, _mm512_loadu_epi32, _mm512_mul_ps,
    _mm512_set1_ps, _mm512_setzero_ps, _mm512_store_ps, _mm512_sub_ps,
};
use std::ops::Range;

use super::super::few_positions::TAPS;
use super::{CHANNELS, NUMBERS};
use crate::kernel::{LANES, Left, ROWS};
use crate::winograd::Way;

/// `[outputs, inputs, 3, 3]`.
#[derive(Clone, Copy)]
pub(super) struct Weights<'a> {
    pub(super) numbers: &'a [f32],
    pub(super) inputs: usize,
    pub(super) way: Way,
}

/// Transformed weights of 16 rows, `[numbers, 16 rows, channels]`, or back `[numbers, channels, 16 rows]`.
#[repr(align(64))]
pub(super) struct Block([f32; NUMBERS * LANES * CHANNELS]);

impl Block {
    pub(super) fn new() -> Box<Self> {
        Box::new(Self([0.0; NUMBERS * LANES * CHANNELS]))
    }
}

impl Weights<'_> {
    /// `G g Gᵀ` between the rows from `row` on and some channels.
    #[target_feature(enable = "avx512f")]
    pub(super) fn transform(self, row: usize, channels: Range<usize>, to: &mut Block) {
        let mut put = |output, input, place| {
            for (number, vector) in transformed_kernel(self.kernels(output, input)).into_iter().enumerate() {
                let place = number * LANES * CHANNELS + place;
                // SAFETY: there is room for it, aligned as vectors are.
                unsafe { _mm512_store_ps(to.0[place..][..LANES].as_mut_ptr(), vector) };
            }
        };
        match self.way {
            Way::Forward => {
                for index in 0..LANES {
                    for channel in channels.clone().step_by(LANES) {
                        put(row + index, channel, index * CHANNELS + channel - channels.start);
                    }
                }
            }
            Way::Back => channels.enumerate().for_each(|(index, channel)| put(channel, row, index * LANES)),
        }
    }

    /// Has a 16th of what [`Weights::transform`] reads fetched while others are computed with.
    pub(super) fn call(self, row: usize, channels: Range<usize>, part: usize) {
        let (kernels, num, each) = match self.way {
            Way::Forward => (row + part..row + part + 1, channels.start, channels.len()),
            Way::Back => {
                let share = channels.len().div_ceil(NUMBERS);
                let first = channels.start + part * share;
                (first..channels.end.min(first + share), row, LANES)
            }
        };
        for output in kernels {
            let begin = (output * self.inputs + num) * TAPS;
            for place in (begin..begin + each * TAPS).step_by(LANES) {
                if let Some(number) = self.numbers.get(place) {
                    // SAFETY: nothing is read.
                    unsafe { _mm_prefetch::<_MM_HINT_T1>(std::ptr::from_ref(number).cast()) };
                }
            }
        }
    }

    /// The nine numbers of the kernels between an output and 16 inputs, from the last to the first on the way back.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn kernels(self, output: usize, input: usize) -> [__m512; TAPS] {
        const STEPS: [i32; LANES] = {
            let mut steps = [0; LANES];
            let mut lane = 0;
            while lane < LANES {
                steps[lane] = (lane * TAPS) as i32;
                lane += 1;
            }
            steps
        };
        let numbers = &self.numbers[(output * self.inputs + input) * TAPS..][..LANES * TAPS];
        let mut kernel = [_mm512_setzero_ps(); TAPS];
        for (tap, vector) in kernel.iter_mut().enumerate() {
            let tap = if self.way == Way::Forward { tap } else { TAPS - 1 - tap };
            // SAFETY: 16 kernels lie there, one after another.
            *vector = unsafe {
                let steps: __m512i = _mm512_loadu_epi32(STEPS.as_ptr());
                _mm512_i32gather_ps::<4>(steps, numbers.as_ptr().add(tap))
            };
        }
        kernel
    }

    pub(super) fn left(self, block: &Block, number: usize, part: usize) -> Left<'_> {
        let numbers = &block.0[number * LANES * CHANNELS..][..LANES * CHANNELS];
        match self.way {
            Way::Forward => Left { numbers: &numbers[part * ROWS * CHANNELS..], row_step: CHANNELS, k_step: 1 },
            Way::Back => Left { numbers: &numbers[part * ROWS..], row_step: 1, k_step: LANES },
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn transformed_kernel(kernel: [__m512; TAPS]) -> [__m512; NUMBERS] {
    let half = _mm512_set1_ps(0.5);
    let along = |[a, b, c]: [__m512; 3]| {
        let ends = _mm512_add_ps(a, c);
        [a, _mm512_mul_ps(_mm512_add_ps(ends, b), half), _mm512_mul_ps(_mm512_sub_ps(ends, b), half), c]
    };
    let columns: [[__m512; 4]; 3] = std::array::from_fn(|x| along(std::array::from_fn(|y| kernel[3 * y + x])));
    let mut numbers = [half; NUMBERS];
    for y in 0..4 {
        numbers[4 * y..4 * y + 4].copy_from_slice(&along(std::array::from_fn(|x| columns[x][y])));
    }
    numbers
}
