//! Winograd's convolution of small pictures with weights that are transformed where they are read: both ways, by kernels of
//! our own.
//!
//! 3×3 convolutions by tiles of 2×2 (arXiv:1509.09308) take 16 products for 36. Of small pictures transformed weights take
//! longer to write and read again than they save; here they are made of a few rows at a time, and stay in the cache.

mod weights;

use std::arch::x86_64::{__m256, __m512};
use std::ops::Range;

use tch::Tensor;

use weights::{Block, Weights};

use super::few_positions::{Begun, gathered};
use crate::kernel::{Instructions, Line, Vector, add_product};
use crate::parallel::{Shared, floats, for_each};
use crate::winograd::{self, Way};

/// Numbers of a transformed tile or kernel.
const NUMBERS: usize = 16;
/// Channels that are read at a time.
const CHANNELS: usize = 32;
/// Rows whose weights are transformed at a time, and what rows and channels come in multiples of.
const GROUP: usize = 16;
/// Rows whose sums lie in memory at a time.
const AT_ONCE: usize = 128;
/// Tiles that transformed weights pay for.
const FEWEST: i64 = 32;

/// Whether there are enough tiles, which fill the panels, and channels come in whole groups.
pub(super) fn suits(hidden: &Tensor, weight: &Tensor) -> bool {
    let (batch, _, height, width) = hidden.size4().unwrap_or_default();
    let (outputs, inputs, ..) = weight.size4().unwrap_or_default();
    let tiles = batch * height * width / 4;
    let fills_panels = |instructions: Instructions| tiles % instructions.panel() as i64 == 0;
    let is_whole = [height, width].iter().all(|side| side % 2 == 0)
        && [outputs, inputs].iter().all(|channels| channels % GROUP as i64 == 0);
    winograd::is_enabled() && is_whole && tiles >= FEWEST && Instructions::found().is_some_and(fills_panels)
}

/// As [`super::few_positions::convolved`].
pub(super) fn convolved(hidden: &Tensor, weight: &Tensor, bias: Option<&Tensor>, way: Way) -> Tensor {
    match Instructions::found().expect("`suits` asked for it") {
        Instructions::Avx512 => convolved_by::<__m512, 8>(hidden, weight, bias, way),
        Instructions::Avx2 => convolved_by::<__m256, 4>(hidden, weight, bias, way),
    }
}

/// With `R` rows at a time.
fn convolved_by<V: Vector, const R: usize>(
    hidden: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    way: Way,
) -> Tensor {
    let Begun { hidden, weight, bias, sizes, rows: written, result } = Begun::new(hidden, weight, bias, way);
    let [_, _, height, width] = sizes;
    let tiles = Tiles::<V>::new(floats(&hidden), sizes);
    let weights = Weights { numbers: floats(&weight), inputs: weight.size()[1] as usize, way };
    let share = written.div_ceil(tch::get_num_threads().max(1) as usize).next_multiple_of(GROUP);
    let units: Vec<Range<usize>> = (0..written)
        .step_by(share)
        .flat_map(|first| {
            let end = written.min(first + share);
            (first..end).step_by(AT_ONCE).map(move |row| row..end.min(row + AT_ONCE))
        })
        .collect();
    let to = Shared::new(&result);
    for_each(units.len(), |unit| {
        let (rows, bias) = (units[unit].clone(), bias.as_deref());
        // SAFETY: the processor has the instructions.
        let outputs = unsafe {
            V::compiled(
                #[inline(always)]
                || all::<V, R>(&tiles, weights, rows.clone(), bias),
            )
        };
        for (row, outputs) in rows.zip(outputs.chunks_exact(tiles.panels)) {
            for (panel, outputs) in outputs.iter().enumerate() {
                // SAFETY: every unit writes the planes of its own rows.
                let plane = |picture| unsafe { to.part((picture * written + row) * height * width, height * width) };
                put(outputs, panel * Line::<V>::PANEL, (height, width), plane);
            }
        }
    });
    result
}

/// Writes the tiles from `first` on, which `outputs` has the four numbers of, into the planes that they lie in.
fn put<'a, V: Vector>(
    outputs: &[Line<V>; 4],
    first: usize,
    (height, width): (usize, usize),
    plane: impl Fn(usize) -> &'a mut [f32],
) {
    let (across, each) = (width / 2, height * width / 4);
    let [a, b, c, d] = outputs.each_ref().map(Line::numbers);
    let mut tile = first;
    while tile < first + a.len() {
        let plane = plane(tile / each);
        let last = (tile / each + 1) * each;
        for tile in tile..last.min(first + a.len()) {
            let (y, x) = (tile % each / across * 2, tile % across * 2);
            let lane = tile - first;
            plane[y * width + x..][..2].copy_from_slice(&[a[lane], b[lane]]);
            plane[(y + 1) * width + x..][..2].copy_from_slice(&[c[lane], d[lane]]);
        }
        tile = last;
    }
}

/// Pictures as transformed tiles of 4×4, two apart.
struct Tiles<V> {
    panels: usize,
    channels: usize,
    /// `[blocks of channels, numbers, panels, channels]`, as they are read.
    lines: Vec<Line<V>>,
}

impl<V: Vector> Tiles<V> {
    fn new(from: &[f32], [batch, channels, height, width]: [usize; 4]) -> Self {
        let plane = height * width;
        let panels = batch * plane / 4 / Line::<V>::PANEL;
        let places = places([batch, channels, height, width]);
        let mut lines = vec![Line::ZERO; NUMBERS * panels * channels.next_multiple_of(CHANNELS)];
        let to = Shared::of(&mut lines);
        for_each(channels.div_ceil(GROUP) * panels, |unit| {
            let (block, panel) = (unit / panels, unit % panels);
            for channel in block * GROUP..channels.min((block + 1) * GROUP) {
                let place = |number| &places[(number * panels + panel) * Line::<V>::PANEL..][..Line::<V>::PANEL];
                let from = &from[channel * plane..];
                // SAFETY: the processor has the instructions.
                let tile = unsafe {
                    V::compiled(
                        #[inline(always)]
                        || transformed_tile::<V>(from, place),
                    )
                };
                for (number, line) in tile.into_iter().enumerate() {
                    // SAFETY: every unit has its own channels and panel.
                    let to = unsafe { to.part(place_of(number, panel, channel, panels), 1) };
                    to[0] = line;
                }
            }
        });
        Self { panels, channels, lines }
    }

    fn lines(&self, number: usize, panel: usize, channels: Range<usize>) -> &[Line<V>] {
        &self.lines[place_of(number, panel, channels.start, self.panels)..][..channels.len()]
    }
}

fn place_of(number: usize, panel: usize, channel: usize, panels: usize) -> usize {
    ((channel / CHANNELS * NUMBERS + number) * panels + panel) * CHANNELS + channel % CHANNELS
}

/// By number of a tile's 16 and tile: where it lies in the first channel; below 0 outside.
fn places([batch, channels, height, width]: [usize; 4]) -> Vec<i32> {
    let (across, each) = (width / 2, height * width / 4);
    let place = |number: usize, tile: usize| {
        let (picture, y, x) = (tile / each, tile % each / across * 2, tile % across * 2);
        let (y, x) = ((y + number / 4) as i32 - 1, (x + number % 4) as i32 - 1);
        match (0..height as i32).contains(&y) && (0..width as i32).contains(&x) {
            true => (picture * channels * height * width) as i32 + y * width as i32 + x,
            false => -1,
        }
    };
    (0..NUMBERS).flat_map(|number| (0..batch * each).map(move |tile| place(number, tile))).collect()
}

/// `Bᵀ d B` of a panel of tiles, whose 16 numbers lie at `place`.
#[inline(always)]
fn transformed_tile<'a, V: Vector>(from: &[f32], place: impl Fn(usize) -> &'a [i32]) -> [Line<V>; NUMBERS] {
    let mut columns = [Line::ZERO; NUMBERS];
    for x in 0..4 {
        let at = [gathered(from, place(x)), gathered(from, place(4 + x))];
        let column = transformed([at[0], at[1], gathered(from, place(8 + x)), gathered(from, place(12 + x))]);
        for (y, line) in column.into_iter().enumerate() {
            columns[4 * y + x] = line;
        }
    }
    let mut tile = [Line::ZERO; NUMBERS];
    for y in 0..4 {
        let row = transformed([columns[4 * y], columns[4 * y + 1], columns[4 * y + 2], columns[4 * y + 3]]);
        tile[4 * y..4 * y + 4].copy_from_slice(&row);
    }
    tile
}

#[inline(always)]
fn transformed<V: Vector>([a, b, c, d]: [Line<V>; 4]) -> [Line<V>; 4] {
    [a.minus(c), b.plus(c), c.minus(b), b.minus(d)]
}

/// `Aᵀ m A` of a panel, and the bias: the four numbers of every tile.
#[inline(always)]
fn untransformed<V: Vector>(sums: [Line<V>; NUMBERS], bias: f32) -> [Line<V>; 4] {
    // SAFETY: as `Vector` says.
    let bias = unsafe { Line::splat(bias) };
    let mut columns = [[Line::ZERO; 2]; 4];
    for (x, column) in columns.iter_mut().enumerate() {
        *column = shortened([sums[x], sums[4 + x], sums[8 + x], sums[12 + x]]);
    }
    let mut outputs = [Line::ZERO; 4];
    for y in 0..2 {
        let [left, right] = shortened([columns[0][y], columns[1][y], columns[2][y], columns[3][y]]);
        outputs[2 * y..2 * y + 2].copy_from_slice(&[left.plus(bias), right.plus(bias)]);
    }
    outputs
}

#[inline(always)]
fn shortened<V: Vector>([a, b, c, d]: [Line<V>; 4]) -> [Line<V>; 2] {
    [a.plus(b).plus(c), b.minus(c).minus(d)]
}

/// What some rows come to, `[rows, panels]`.
#[inline(always)]
fn all<V: Vector, const R: usize>(
    tiles: &Tiles<V>,
    weights: Weights<'_>,
    rows: Range<usize>,
    bias: Option<&[f32]>,
) -> Vec<[Line<V>; 4]> {
    let (panels, num_rows) = (tiles.panels, rows.len());
    let mut sums = vec![Line::<V>::ZERO; NUMBERS * panels * num_rows]; // [numbers, rows, panels]
    let mut block = Block::new();
    for channel in (0..tiles.channels).step_by(CHANNELS) {
        let channels = channel..tiles.channels.min(channel + CHANNELS);
        for index in (0..num_rows).step_by(GROUP) {
            weights.transform::<V>(rows.start + index, channels.clone(), &mut block);
            for number in 0..NUMBERS {
                weights.call(rows.start + index + GROUP, channels.clone(), number);
                for part in 0..GROUP / R {
                    let first = number * num_rows + index + part * R;
                    for panel in 0..panels {
                        let mut found = [Line::ZERO; R];
                        let lines = tiles.lines(number, panel, channels.clone());
                        add_product(&mut found, weights.left::<R>(&block, number, part), lines);
                        for (row, found) in found.into_iter().enumerate() {
                            let sum = &mut sums[(first + row) * panels + panel];
                            *sum = sum.plus(found);
                        }
                    }
                }
            }
        }
    }
    let mut outputs = Vec::with_capacity(num_rows * panels);
    for (index, row) in rows.enumerate() {
        for panel in 0..panels {
            let mut numbers = [Line::ZERO; NUMBERS];
            for (number, line) in numbers.iter_mut().enumerate() {
                *line = sums[(number * num_rows + index) * panels + panel];
            }
            outputs.push(untransformed(numbers, bias.map_or(0.0, |bias| bias[row])));
        }
    }
    outputs
}
