//! Convolutions of pictures so small that weights are most of what there is: each weight is read once, where it lies, both
//! ways, by kernels of our own.

use std::arch::x86_64::{__m256, __m512, _MM_HINT_T0, _mm_prefetch};
use std::marker::PhantomData;
use std::ops::Range;

use tch::{Device, Kind, Tensor};

use crate::kernel::{Instructions, Left, Line, Vector, add_product};
use crate::parallel::{Shared, floats, for_each, is_shared};
use crate::winograd::Way;

/// Numbers of a 3×3 kernel.
pub(super) const TAPS: usize = 9;
/// Numbers of a line of the cache.
pub(super) const CACHE_LINE: usize = 16;
/// Channels whose windows lie in memory at a time.
const CHANNELS: usize = 32;
/// What rows and channels come in multiples of.
const ROWS: usize = 8;

/// Whether a 3×3 convolution, stride 1, padded by 1, can be computed so.
pub(super) fn suits(weight: &Tensor) -> bool {
    let (outputs, inputs, height, width) = weight.size4().unwrap_or_default();
    let is_whole = [outputs, inputs].iter().all(|channels| channels % ROWS as i64 == 0);
    (height, width) == (3, 3) && is_whole && is_shared() && Instructions::found().is_some()
}

/// `hidden` `[batch, inputs, height, width]` by `weight` `[outputs, inputs, 3, 3]`, padded by 1; back, `[batch, outputs, height,
/// width]` by the same.
pub(super) fn convolved(hidden: &Tensor, weight: &Tensor, bias: Option<&Tensor>, way: Way) -> Tensor {
    match Instructions::found().expect("`suits` asked for it") {
        Instructions::Avx512 => convolved_by::<__m512, 8>(hidden, weight, bias, way),
        Instructions::Avx2 => convolved_by::<__m256, 4>(hidden, weight, bias, way),
    }
}

/// What a convolution that is padded by 1 begins with, either way.
pub(super) struct Begun {
    pub(super) hidden: Tensor,
    pub(super) weight: Tensor,
    pub(super) bias: Option<Vec<f32>>,
    /// Of `hidden`.
    pub(super) sizes: [usize; 4],
    /// Channels of the result.
    pub(super) rows: usize,
    pub(super) result: Tensor,
}

impl Begun {
    pub(super) fn new(hidden: &Tensor, weight: &Tensor, bias: Option<&Tensor>, way: Way) -> Self {
        let (batch, read, height, width) = hidden.size4().expect("pictures have four sizes");
        let rows = if way == Way::Forward { weight.size()[0] } else { weight.size()[1] };
        Self {
            hidden: hidden.contiguous(),
            weight: weight.contiguous(),
            bias: bias.map(|bias| floats(&bias.contiguous()).to_vec()),
            sizes: [batch, read, height, width].map(|size| size as usize),
            rows: rows as usize,
            result: Tensor::empty([batch, rows, height, width], (Kind::Float, Device::Cpu)),
        }
    }
}

/// With `R` rows at a time.
fn convolved_by<V: Vector, const R: usize>(
    hidden: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    way: Way,
) -> Tensor {
    let Begun { hidden, weight, bias, sizes, rows, result } = Begun::new(hidden, weight, bias, way);
    let [batch, _, height, width] = sizes;
    let windows = Windows::<V>::new(sizes, way);
    let weights = Weights { numbers: floats(&weight), inputs: weight.size()[1] as usize, way };
    let positions = height * width;
    let at_once = rows.div_ceil(tch::get_num_threads().max(1) as usize).next_multiple_of(ROWS);
    let (from, to) = (floats(&hidden), Shared::new(&result));
    for_each(rows.div_ceil(at_once), |unit| {
        let mine = unit * at_once..rows.min((unit + 1) * at_once);
        // SAFETY: the processor has the instructions.
        let sums = unsafe {
            V::compiled(
                #[inline(always)]
                || all::<V, R>(&windows, from, weights, mine.clone()),
            )
        };
        for (row, lines) in mine.zip(sums.chunks_exact(windows.panels)) {
            let bias = bias.as_ref().map_or(0.0, |bias| bias[row]);
            let mut numbers = Line::all_numbers(lines).iter().map(|number| number + bias);
            for picture in 0..batch {
                // SAFETY: every unit writes the planes of its own rows.
                let plane = unsafe { to.part((picture * rows + row) * positions, positions) };
                plane.iter_mut().zip(&mut numbers).for_each(|(value, number)| *value = number);
            }
        }
    });
    result
}

/// All products of some rows, `R` at a time: `[rows, panels]`.
#[inline(always)]
fn all<V: Vector, const R: usize>(
    windows: &Windows<V>,
    from: &[f32],
    weights: Weights<'_>,
    rows: Range<usize>,
) -> Vec<Line<V>> {
    let panels = windows.panels;
    let mut sums = vec![Line::<V>::ZERO; panels * rows.len()];
    let mut lines = vec![Line::<V>::ZERO; panels * CHANNELS * TAPS];
    for channel in (0..windows.channels).step_by(CHANNELS) {
        let channels = channel..windows.channels.min(channel + CHANNELS);
        let len = channels.len() * TAPS;
        for (panel, lines) in lines.chunks_exact_mut(CHANNELS * TAPS).enumerate() {
            windows.read(from, channels.clone(), panel, &mut lines[..len]);
        }
        for (row, sums) in rows.clone().step_by(R).zip(sums.chunks_exact_mut(R * panels)) {
            weights.call(row + R, R, channels.clone());
            for panel in 0..panels {
                let lines = &lines[panel * CHANNELS * TAPS..][..len];
                let mut found = [Line::ZERO; R];
                match weights.way {
                    Way::Forward => add_product(&mut found, weights.left(row, channel), lines),
                    Way::Back => {
                        for (channel, lines) in channels.clone().zip(lines.chunks_exact(TAPS)) {
                            add_product(&mut found, weights.left(row, channel), lines);
                        }
                    }
                }
                for (row, found) in found.into_iter().enumerate() {
                    // A sum that began at zero: one long sum would lose more of its last digits than a sum of sums.
                    let sum = &mut sums[row * panels + panel];
                    *sum = sum.plus(found);
                }
            }
        }
    }
    sums
}

/// `[outputs, inputs, 3, 3]`.
#[derive(Clone, Copy)]
struct Weights<'a> {
    numbers: &'a [f32],
    inputs: usize,
    way: Way,
}

impl<'a> Weights<'a> {
    /// Has the weights of some rows fetched while others are computed with.
    fn call(self, row: usize, rows: usize, channels: Range<usize>) {
        let (num, len) = match self.way {
            Way::Forward => (rows, channels.len() * TAPS),
            Way::Back => (channels.len(), rows * TAPS),
        };
        for index in 0..num {
            let (row, channel) = match self.way {
                Way::Forward => (row + index, channels.start),
                Way::Back => (row, channels.start + index),
            };
            let numbers = self.left(row, channel).numbers;
            for line in (0..len.min(numbers.len())).step_by(CACHE_LINE) {
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
struct Windows<V> {
    channels: usize,
    /// Numbers of a picture's channel.
    plane: usize,
    panels: usize,
    /// By tap and position, counted through all pictures: where it reads in the first channel; below 0 outside.
    places: Vec<i32>,
    lines: PhantomData<V>,
}

impl<V: Vector> Windows<V> {
    fn new([batch, channels, height, width]: [usize; 4], way: Way) -> Self {
        let panel = Line::<V>::PANEL;
        let panels = (batch * height * width).div_ceil(panel);
        let mut places = vec![-1; TAPS * panels * panel];
        for (tap, places) in places.chunks_exact_mut(panels * panel).enumerate() {
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
        Self { channels, plane: height * width, panels, places, lines: PhantomData }
    }

    /// The lines `[channels, 9]` of a panel.
    #[inline(always)]
    fn read(&self, from: &[f32], channels: Range<usize>, panel: usize, to: &mut [Line<V>]) {
        for tap in 0..TAPS {
            let places = &self.places[(tap * self.panels + panel) * Line::<V>::PANEL..][..Line::<V>::PANEL];
            for (channel, lines) in channels.clone().zip(to.chunks_exact_mut(TAPS)) {
                lines[tap] = gathered(&from[channel * self.plane..], places);
            }
        }
    }
}

/// The numbers at a panel's places, zeros where a place is below 0.
#[inline(always)]
pub(super) fn gathered<V: Vector>(from: &[f32], places: &[i32]) -> Line<V> {
    assert!(places.len() == Line::<V>::PANEL);
    debug_assert!(places.iter().all(|place| *place < from.len() as i32));
    let [low, high] = [&places[..V::LANES], &places[V::LANES..]];
    // SAFETY: callers made places that lie within the picture, and there are as many as in two vectors.
    unsafe { Line([V::gather(from.as_ptr(), low.as_ptr()), V::gather(from.as_ptr(), high.as_ptr())]) }
}
