//! Convolutions of pictures so small that weights are most of what there is: each weight is read once, where it lies, both
//! ways, on a processor with AVX-512.

use std::arch::x86_64::{
    __m512, __m512i, __mmask16, _MM_HINT_T0, _mm_prefetch, _mm512_loadu_epi32, _mm512_mask_i32gather_ps,
    _mm512_setzero_ps,
};

use tch::{Device, Kind, Tensor};

use crate::kernel::{Instructions, LANES, Left, PANEL, ROWS, add_product};
use crate::parallel::{Shared, floats, for_each, is_shared};
use crate::winograd::Way;

/// A number of each position of a panel.
pub(super) type Line = crate::kernel::Line<__m512>;

/// Numbers of a 3×3 kernel.
pub(super) const TAPS: usize = 9;
/// Channels whose windows lie in memory at a time.
const CHANNELS: usize = 32;

/// Whether a 3×3 convolution, stride 1, padded by 1, can be computed so.
pub(super) fn suits(weight: &Tensor) -> bool {
    let (outputs, inputs, height, width) = weight.size4().unwrap_or_default();
    (height, width) == (3, 3)
        && outputs % ROWS as i64 == 0
        && inputs % ROWS as i64 == 0
        && is_shared()
        && Instructions::found() == Some(Instructions::Avx512)
}

/// `hidden` `[batch, inputs, height, width]` by `weight` `[outputs, inputs, 3, 3]`, padded by 1; back, `[batch, outputs, height,
/// width]` by the same.
pub(super) fn convolved(hidden: &Tensor, weight: &Tensor, bias: Option<&Tensor>, way: Way) -> Tensor {
    let (hidden, weight) = (hidden.contiguous(), weight.contiguous());
    let (batch, read, height, width) = hidden.size4().expect("pictures have four sizes");
    let written = if way == Way::Forward { weight.size()[0] } else { weight.size()[1] };
    let result = Tensor::empty([batch, written, height, width], (Kind::Float, Device::Cpu));
    let windows = Windows::new([batch, read, height, width].map(|size| size as usize), way);
    let weights = Weights { numbers: floats(&weight), inputs: weight.size()[1] as usize, way };
    let bias = bias.map(|bias| floats(&bias.contiguous()).to_vec());
    let (rows, positions) = (written as usize, (height * width) as usize);
    let at_once = rows.div_ceil(tch::get_num_threads().max(1) as usize).next_multiple_of(ROWS);
    let (from, to) = (floats(&hidden), Shared::new(&result));
    for_each(rows.div_ceil(at_once), |unit| {
        let first = unit * at_once;
        let count = at_once.min(rows - first);
        let mut sums = vec![Line::ZERO; windows.panels * count];
        // SAFETY: `suits` asked for the feature.
        unsafe { add_all(&windows, from, weights, first, &mut sums) };
        for (row, lines) in (first..first + count).zip(sums.chunks_exact(windows.panels)) {
            let bias = bias.as_ref().map_or(0.0, |bias| bias[row]);
            let numbers = Line::all_numbers(lines).iter();
            let mut numbers = numbers.map(|number| number + bias);
            for picture in 0..batch as usize {
                // SAFETY: every unit writes the planes of its own rows.
                let plane = unsafe { to.part((picture * rows + row) * positions, positions) };
                plane.iter_mut().zip(&mut numbers).for_each(|(value, number)| *value = number);
            }
        }
    });
    result
}

/// Adds all products of the rows from `first` on to `[rows, panels]`.
#[target_feature(enable = "avx512f")]
fn add_all(windows: &Windows, from: &[f32], weights: Weights<'_>, first: usize, sums: &mut [Line]) {
    let panels = windows.panels;
    let mut lines = vec![Line::ZERO; panels * CHANNELS * TAPS];
    for channel in (0..windows.channels).step_by(CHANNELS) {
        let channels = channel..windows.channels.min(channel + CHANNELS);
        let len = channels.len() * TAPS;
        for (panel, lines) in lines.chunks_exact_mut(CHANNELS * TAPS).enumerate() {
            windows.read(from, channels.clone(), panel, &mut lines[..len]);
        }
        for (row, sums) in (first..).step_by(ROWS).zip(sums.chunks_exact_mut(ROWS * panels)) {
            weights.call(row + ROWS, channels.clone());
            for panel in 0..panels {
                let lines = &lines[panel * CHANNELS * TAPS..][..len];
                let mut found = [Line::ZERO; ROWS];
                match weights.way {
                    Way::Forward => add_product(&mut found, weights.left(row, channel), lines),
                    Way::Back => {
                        for (channel, lines) in channels.clone().zip(lines.chunks_exact(TAPS)) {
                            add_product(&mut found, weights.left(row, channel), lines);
                        }
                    }
                }
                for (row, found) in found.into_iter().enumerate() {
                    let sum = &mut sums[row * panels + panel];
                    *sum = sum.plus(found);
                }
            }
        }
    }
}

/// `[outputs, inputs, 3, 3]`.
#[derive(Clone, Copy)]
struct Weights<'a> {
    numbers: &'a [f32],
    inputs: usize,
    way: Way,
}

impl<'a> Weights<'a> {
    /// Has the weights of eight rows fetched while others are computed with.
    fn call(self, row: usize, channels: std::ops::Range<usize>) {
        let (num, len) = match self.way {
            Way::Forward => (ROWS, channels.len() * TAPS),
            Way::Back => (channels.len(), ROWS * TAPS),
        };
        for index in 0..num {
            let (row, channel) = match self.way {
                Way::Forward => (row + index, channels.start),
                Way::Back => (row, channels.start + index),
            };
            let numbers = self.left(row, channel).numbers;
            for line in (0..len.min(numbers.len())).step_by(LANES) {
                // SAFETY: within the numbers, and nothing is read.
                unsafe { _mm_prefetch::<_MM_HINT_T0>(numbers.as_ptr().add(line).cast()) };
            }
        }
    }

    /// Those between a channel that is read and the rows from `row` on.
    fn left(self, row: usize, channel: usize) -> Left<'a> {
        let (output, input, row_step) = match self.way {
            Way::Forward => (row, channel, self.inputs * TAPS),
            Way::Back => (channel, row, TAPS),
        };
        let numbers = self.numbers.get((output * self.inputs + input) * TAPS..).unwrap_or_default();
        Left { numbers, row_step, k_step: 1 }
    }
}

/// What every position reads of a channel.
struct Windows {
    channels: usize,
    /// Numbers of a picture's channel.
    plane: usize,
    panels: usize,
    /// By tap and position, counted through all pictures: where it reads in the first channel; below 0 outside.
    places: Vec<i32>,
}

impl Windows {
    fn new([batch, channels, height, width]: [usize; 4], way: Way) -> Self {
        let panels = (batch * height * width).div_ceil(PANEL);
        let mut places = vec![-1; TAPS * panels * PANEL];
        for (tap, places) in places.chunks_exact_mut(panels * PANEL).enumerate() {
            let shift = |tap: usize| if way == Way::Forward { tap as i32 - 1 } else { 1 - tap as i32 };
            let (down, right) = (shift(tap / 3), shift(tap % 3));
            for (position, place) in places[..batch * height * width].iter_mut().enumerate() {
                let (picture, y, x) = (position / (height * width), position / width % height, position % width);
                let (y, x) = (y as i32 + down, x as i32 + right);
                if (0..height as i32).contains(&y) && (0..width as i32).contains(&x) {
                    *place = (picture * channels * height * width) as i32 + y * width as i32 + x;
                }
            }
        }
        Self { channels, plane: height * width, panels, places }
    }

    /// The lines `[channels, 9]` of a panel.
    #[target_feature(enable = "avx512f")]
    fn read(&self, from: &[f32], channels: std::ops::Range<usize>, panel: usize, to: &mut [Line]) {
        for tap in 0..TAPS {
            let places = &self.places[(tap * self.panels + panel) * PANEL..][..PANEL];
            let (low, high) = (wanted(&places[..LANES]), wanted(&places[LANES..]));
            for (channel, lines) in channels.clone().zip(to.chunks_exact_mut(TAPS)) {
                let from = &from[channel * self.plane..];
                lines[tap] = crate::kernel::Line([gathered(from, low), gathered(from, high)]);
            }
        }
    }
}

pub(super) type Wanted<'a> = (&'a [i32], __mmask16);

pub(super) fn wanted(places: &[i32]) -> Wanted<'_> {
    let bit = |(lane, place): (usize, &i32)| __mmask16::from(*place >= 0) << lane;
    (places, places.iter().enumerate().map(bit).sum())
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn gathered(from: &[f32], (places, mask): Wanted<'_>) -> __m512 {
    assert!(places.len() == LANES);
    debug_assert!(places.iter().all(|place| *place < from.len() as i32));
    // SAFETY: 16 places lie there; those that the mask wants lie within the picture, as `Windows::new` made them.
    unsafe {
        let places: __m512i = _mm512_loadu_epi32(places.as_ptr());
        _mm512_mask_i32gather_ps::<4>(_mm512_setzero_ps(), mask, places, from.as_ptr())
    }
}
