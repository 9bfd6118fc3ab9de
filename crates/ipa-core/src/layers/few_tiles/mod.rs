//! Winograd's convolution of small pictures with weights that are transformed where they are read: both ways, on a processor
//! with AVX-512.
//!
//! 3×3 convolutions by tiles of 2×2 (arXiv:1509.09308) take 16 products for 36. Of small pictures transformed weights take
//! longer to write and read again than they save; here they are made of a few rows at a time, and stay in the cache.

mod weights;

use std::arch::x86_64::{__m512, _mm512_add_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_sub_ps};
use std::ops::Range;

use tch::{Device, Kind, Tensor};

use weights::{Block, Weights};

use super::few_positions::{Line, gathered, wanted};
use crate::kernel::{LANES, PANEL, ROWS, add_product};
use crate::parallel::{Shared, floats, for_each};
use crate::winograd::{self, Way};

/// Numbers of a transformed tile or kernel.
const NUMBERS: usize = 16;
/// Channels that are read at a time.
const CHANNELS: usize = 32;
/// Rows whose sums lie in memory at a time.
const AT_ONCE: usize = 128;

/// Whether tiles fill the panels well enough, and channels come in whole vectors.
pub(super) fn suits(hidden: &Tensor, weight: &Tensor) -> bool {
    let (batch, _, height, width) = hidden.size4().unwrap_or_default();
    let (outputs, inputs, ..) = weight.size4().unwrap_or_default();
    let tiles = batch * height * width / 4;
    let is_whole = [height, width].iter().all(|side| side % 2 == 0)
        && [outputs, inputs].iter().all(|channels| channels % LANES as i64 == 0);
    winograd::is_enabled() && is_whole && tiles >= PANEL as i64 && tiles % PANEL as i64 == 0
}

/// As [`super::few_positions::convolved`].
pub(super) fn convolved(hidden: &Tensor, weight: &Tensor, bias: Option<&Tensor>, way: Way) -> Tensor {
    let (hidden, weight) = (hidden.contiguous(), weight.contiguous());
    let (batch, read, height, width) = hidden.size4().expect("pictures have four sizes");
    let written = if way == Way::Forward { weight.size()[0] } else { weight.size()[1] };
    let result = Tensor::empty([batch, written, height, width], (Kind::Float, Device::Cpu));
    let [batch, read, written, height, width] = [batch, read, written, height, width].map(|size| size as usize);
    let tiles = Tiles::new(floats(&hidden), [batch, read, height, width]);
    let weights = Weights { numbers: floats(&weight), inputs: weight.size()[1] as usize, way };
    let bias = bias.map(|bias| floats(&bias.contiguous()).to_vec());
    let share = written.div_ceil(tch::get_num_threads().max(1) as usize).next_multiple_of(LANES);
    let units: Vec<Range<usize>> = (0..written)
        .step_by(share)
        .flat_map(|first| {
            let end = written.min(first + share);
            (first..end).step_by(AT_ONCE).map(move |row| row..end.min(row + AT_ONCE))
        })
        .collect();
    let to = Shared::new(&result);
    for_each(units.len(), |unit| {
        let rows = units[unit].clone();
        let mut sums = vec![Line::ZERO; NUMBERS * tiles.panels * rows.len()];
        // SAFETY: `few_positions::suits` asked for the feature.
        unsafe { add_all(&tiles, weights, rows.clone(), &mut sums) };
        for (index, row) in rows.clone().enumerate() {
            let bias = bias.as_ref().map_or(0.0, |bias| bias[row]);
            for panel in 0..tiles.panels {
                let line = |number: usize| sums[(number * rows.len() + index) * tiles.panels + panel];
                // SAFETY: as above.
                let outputs = unsafe { untransformed(std::array::from_fn(line), bias) };
                let size = (height, width);
                // SAFETY: every unit writes the planes of its own rows.
                unsafe {
                    put(&outputs, panel * PANEL, size, |picture| {
                        to.part((picture * written + row) * height * width, height * width)
                    })
                };
            }
        }
    });
    result
}

/// Writes the tiles from `first` on, which `outputs` has the four numbers of, into the planes that they lie in.
fn put<'a>(outputs: &[Line; 4], first: usize, (height, width): (usize, usize), plane: impl Fn(usize) -> &'a mut [f32]) {
    let (across, each) = (width / 2, height * width / 4);
    let mut tile = first;
    while tile < first + PANEL {
        let plane = plane(tile / each);
        let last = (tile / each + 1) * each;
        for tile in tile..last.min(first + PANEL) {
            let (y, x) = (tile % each / across * 2, tile % across * 2);
            let lane = tile - first;
            plane[y * width + x..][..2].copy_from_slice(&[outputs[0].numbers()[lane], outputs[1].numbers()[lane]]);
            plane[(y + 1) * width + x..][..2]
                .copy_from_slice(&[outputs[2].numbers()[lane], outputs[3].numbers()[lane]]);
        }
        tile = last;
    }
}

/// Pictures as transformed tiles of 4×4, two apart.
struct Tiles {
    panels: usize,
    channels: usize,
    /// `[blocks of channels, numbers, panels, channels]`, as they are read.
    lines: Vec<Line>,
}

impl Tiles {
    fn new(from: &[f32], [batch, channels, height, width]: [usize; 4]) -> Self {
        let plane = height * width;
        let panels = batch * plane / 4 / PANEL;
        let places = places([batch, channels, height, width]);
        let mut lines = vec![Line::ZERO; NUMBERS * panels * channels.next_multiple_of(CHANNELS)];
        let to = Shared::of(&mut lines);
        for_each(channels.div_ceil(LANES), |block| {
            for channel in block * LANES..channels.min((block + 1) * LANES) {
                for panel in 0..panels {
                    for half in 0..2 {
                        let first = panel * PANEL + half * LANES;
                        let place = |number: usize| &places[number * panels * PANEL + first..][..LANES];
                        // SAFETY: the feature is there; places lie within the picture, or are none; every block has its
                        // own channels.
                        unsafe {
                            let numbers = transformed_tile(&from[channel * plane..], place);
                            for (number, vector) in numbers.into_iter().enumerate() {
                                let line = to.part(place_of(number, panel, channel, panels), 1);
                                line[0].0[half] = vector;
                            }
                        }
                    }
                }
            }
        });
        Self { panels, channels, lines }
    }

    fn lines(&self, number: usize, panel: usize, channels: Range<usize>) -> &[Line] {
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

/// `Bᵀ d B` of 16 tiles.
#[target_feature(enable = "avx512f")]
fn transformed_tile<'a>(from: &[f32], place: impl Fn(usize) -> &'a [i32]) -> [__m512; NUMBERS] {
    let along = |[a, b, c, d]: [__m512; 4]| {
        [_mm512_sub_ps(a, c), _mm512_add_ps(b, c), _mm512_sub_ps(c, b), _mm512_sub_ps(b, d)]
    };
    let mut tile = [_mm512_setzero_ps(); NUMBERS];
    for (number, vector) in tile.iter_mut().enumerate() {
        *vector = gathered(from, wanted(place(number)));
    }
    both_ways(tile, along)
}

/// A one-dimensional transform along the columns, then along the rows.
#[inline]
#[target_feature(enable = "avx512f")]
fn both_ways(tile: [__m512; NUMBERS], along: impl Fn([__m512; 4]) -> [__m512; 4]) -> [__m512; NUMBERS] {
    let mut columns = tile;
    for x in 0..4 {
        let column = along(std::array::from_fn(|y| tile[4 * y + x]));
        (0..4).for_each(|y| columns[4 * y + x] = column[y]);
    }
    let mut rows = columns;
    for y in 0..4 {
        let row = along(std::array::from_fn(|x| columns[4 * y + x]));
        rows[4 * y..4 * y + 4].copy_from_slice(&row);
    }
    rows
}

/// `Aᵀ m A` of a panel, and the bias: the four numbers of every tile.
#[target_feature(enable = "avx512f")]
fn untransformed(sums: [Line; NUMBERS], bias: f32) -> [Line; 4] {
    let along =
        |[a, b, c, d]: [__m512; 4]| [_mm512_add_ps(_mm512_add_ps(a, b), c), _mm512_sub_ps(_mm512_sub_ps(b, c), d)];
    let bias = _mm512_set1_ps(bias);
    let mut outputs = [Line::ZERO; 4];
    for half in 0..2 {
        let sum = |number: usize| sums[number].0[half];
        let columns: [[__m512; 2]; 4] = std::array::from_fn(|x| along(std::array::from_fn(|y| sum(4 * y + x))));
        for y in 0..2 {
            let row = along(std::array::from_fn(|x| columns[x][y]));
            for (x, number) in row.into_iter().enumerate() {
                outputs[2 * y + x].0[half] = _mm512_add_ps(number, bias);
            }
        }
    }
    outputs
}

/// All products of some rows, added to `[numbers, rows, panels]`.
#[target_feature(enable = "avx512f")]
fn add_all(tiles: &Tiles, weights: Weights<'_>, rows: Range<usize>, sums: &mut [Line]) {
    let (panels, num_rows) = (tiles.panels, rows.len());
    let mut block = Block::new();
    for channel in (0..tiles.channels).step_by(CHANNELS) {
        let channels = channel..tiles.channels.min(channel + CHANNELS);
        for index in (0..num_rows).step_by(LANES) {
            weights.transform(rows.start + index, channels.clone(), &mut block);
            for number in 0..NUMBERS {
                weights.call(rows.start + index + LANES, channels.clone(), number);
                for part in 0..LANES / ROWS {
                    let first = number * num_rows + index + part * ROWS;
                    for panel in 0..panels {
                        let mut found = [Line::ZERO; ROWS];
                        let lines = tiles.lines(number, panel, channels.clone());
                        add_product(&mut found, weights.left(&block, number, part), lines);
                        for (row, found) in found.into_iter().enumerate() {
                            let sum = &mut sums[(first + row) * panels + panel];
                            *sum = sum.plus(found);
                        }
                    }
                }
            }
        }
    }
}
