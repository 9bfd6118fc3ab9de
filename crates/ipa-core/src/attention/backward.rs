//! The gradient of self-attention, a head at a time: shares are computed again from their sums (arXiv:2205.14135).

use std::arch::x86_64::{__m512, _mm512_add_ps, _mm512_loadu_ps, _mm512_mul_ps, _mm512_storeu_ps, _mm512_sub_ps};

use super::forward::Head;
use crate::kernel::{LANES, Left, Line, PANEL, ROWS, Rows, add_product, add_wide, exp2, turned, zeros};

/// Keys whose shares, of two panels, lie in memory at a time.
const BLOCK: usize = 256;
/// Panels that a block's sums are read and written for at once.
const AT_ONCE: usize = 2;

/// What the way forward left of a head, and the gradient of its result, `[tokens, dim]`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen<'a> {
    pub(super) result: Rows<'a>,
    pub(super) gradient: Rows<'a>,
    /// Of every query, as [`super::forward::panel`] found them.
    pub(super) logs: &'a [f32],
}

/// Gradients of queries, keys and values, `[tokens, dim]` each.
#[derive(Debug)]
pub(super) struct Gradients {
    pub(super) query: Vec<f32>,
    pub(super) key: Vec<f32>,
    pub(super) value: Vec<f32>,
}

/// Queries of a panel, a line for each number of theirs.
struct Panel<'a> {
    query: &'a [Line],
    gradient: &'a [Line],
    log: &'a Line,
    /// `Σ gradient · result`, by query.
    along: &'a Line,
}

#[target_feature(enable = "avx512f")]
pub(super) fn gradients(head: Head<'_>, seen: Seen<'_>) -> Gradients {
    let (tokens, dim) = (head.tokens, head.dim());
    let num = tokens.div_ceil(PANEL);
    let mut lines = [(); 3].map(|()| vec![Line::ZERO; num * dim]);
    let mut sums = [(); 2].map(|()| vec![Line::ZERO; num]);
    let ([query, gradient, of_query], [logs, along]) = (&mut lines, &mut sums);
    for index in 0..num {
        let (queries, place) = (index * PANEL..tokens.min((index + 1) * PANEL), index * dim..(index + 1) * dim);
        turned(head.query.iter(queries.clone()), head.scale(), &mut query[place.clone()]);
        turned(seen.gradient.iter(queries.clone()), 1.0, &mut gradient[place]);
        for (lane, query) in queries.enumerate() {
            logs[index].0[lane] = seen.logs[query];
            let products = seen.gradient.row(query).iter().zip(seen.result.row(query)).map(|(a, b)| a * b);
            along[index].0[lane] = products.sum();
        }
    }
    let mut found = Gradients { query: Vec::new(), key: vec![0.0; tokens * dim], value: vec![0.0; tokens * dim] };
    let mut block = Block::new(BLOCK.min(tokens), dim);
    for begin in (0..tokens).step_by(BLOCK) {
        block.clear();
        let count = BLOCK.min(tokens - begin);
        for first in (0..num).step_by(AT_ONCE) {
            for (slot, index) in (first..num.min(first + AT_ONCE)).enumerate() {
                let place = index * dim..(index + 1) * dim;
                let panel = Panel {
                    query: &query[place.clone()],
                    gradient: &gradient[place.clone()],
                    log: &logs[index],
                    along: &along[index],
                };
                block.see(head, &panel, begin..begin + count, slot);
                block.add_queries(head.key, begin..begin + count, slot, &mut of_query[place]);
            }
            let queries = first * PANEL..tokens.min((first + AT_ONCE) * PANEL);
            block.add_keys(seen.gradient, head.query, queries, count);
        }
        block.take(begin..begin + count, dim, &mut found);
    }
    let scale = 1.0 / (dim as f32).sqrt();
    found.key.iter_mut().for_each(|value| *value *= scale);
    found.query = vec![0.0; tokens * dim];
    for (query, row) in found.query.chunks_exact_mut(dim).enumerate() {
        let lines = &of_query[query / PANEL * dim..];
        row.iter_mut().zip(lines).for_each(|(value, line)| *value = line.0[query % PANEL] * scale);
    }
    found
}

/// What is known of a block of keys.
struct Block {
    /// By panel and key, the share of a key in a query, and the gradient of its score.
    shares: [Vec<Line>; AT_ONCE],
    slopes: [Vec<Line>; AT_ONCE],
    /// By key, the gradients so far, in rows of whole vectors.
    keys: Vec<f32>,
    values: Vec<f32>,
    width: usize,
}

impl Block {
    fn new(keys: usize, dim: usize) -> Self {
        let width = dim.next_multiple_of(LANES);
        // Rows of a product that lie beyond the last key are computed and not used.
        let keys = keys.next_multiple_of(ROWS);
        let lines = || [(); AT_ONCE].map(|()| vec![Line::ZERO; keys]);
        let zeros = || vec![0.0; keys * width];
        Self { shares: lines(), slopes: lines(), keys: zeros(), values: zeros(), width }
    }

    fn clear(&mut self) {
        self.keys.fill(0.0);
        self.values.fill(0.0);
    }

    /// Shares and slopes of the keys for a panel.
    #[target_feature(enable = "avx512f")]
    fn see(&mut self, head: Head<'_>, panel: &Panel<'_>, keys: std::ops::Range<usize>, slot: usize) {
        let count = keys.len();
        let (shares, slopes) = (&mut self.shares[slot][..count], &mut self.slopes[slot][..count]);
        let ((shares, last_shares), (slopes, last_slopes)) =
            (shares.as_chunks_mut::<ROWS>(), slopes.as_chunks_mut::<ROWS>());
        let mut key = keys.start;
        for (shares, slopes) in shares.iter_mut().zip(slopes) {
            seen(head, panel, key, shares, slopes);
            key += ROWS;
        }
        for (share, slope) in last_shares.iter_mut().zip(last_slopes) {
            seen(head, panel, key, std::array::from_mut(share), std::array::from_mut(slope));
            key += 1;
        }
    }

    /// Adds to the gradients of a panel's queries, `[dim]`.
    #[target_feature(enable = "avx512f")]
    fn add_queries(&self, key: Rows<'_>, keys: std::ops::Range<usize>, slot: usize, to: &mut [Line]) {
        let slopes = &self.slopes[slot][..keys.len()];
        for (index, lines) in to.chunks_exact_mut(ROWS).enumerate() {
            let numbers = &key.numbers[keys.start * key.step + index * ROWS..];
            let mut sums = zeros::<ROWS, 2>();
            add_product(&mut sums, Left { numbers, row_step: 1, k_step: key.step }, slopes);
            lines.iter_mut().zip(sums).for_each(|(line, sum)| line.add(sum));
        }
    }

    /// Adds what these queries give to the gradients of keys and values.
    #[target_feature(enable = "avx512f")]
    fn add_keys(&mut self, gradient: Rows<'_>, query: Rows<'_>, queries: std::ops::Range<usize>, count: usize) {
        let width = self.width;
        for (lines, right, to) in [(&self.shares, gradient, &mut self.values), (&self.slopes, query, &mut self.keys)] {
            for key in (0..count).step_by(ROWS) {
                let lines = lines.each_ref().map(|lines| &lines[key..key + ROWS]);
                let rows = &mut to[key * width..][..ROWS * width];
                let mut column = 0;
                while column < width {
                    // No more vectors at once than registers hold, and none alone that could be with others.
                    column += LANES
                        * match (width - column) / LANES {
                            1 => add_columns::<1>(lines, right, queries.clone(), rows, column),
                            2 | 4 => add_columns::<2>(lines, right, queries.clone(), rows, column),
                            _ => add_columns::<3>(lines, right, queries.clone(), rows, column),
                        };
                }
            }
        }
    }

    fn take(&self, keys: std::ops::Range<usize>, dim: usize, to: &mut Gradients) {
        for (from, to) in [(&self.keys, &mut to.key), (&self.values, &mut to.value)] {
            let rows = to[keys.start * dim..keys.end * dim].chunks_exact_mut(dim);
            rows.zip(from.chunks_exact(self.width)).for_each(|(to, from)| to.copy_from_slice(&from[..dim]));
        }
    }
}

/// Shares and slopes of `R` keys.
#[inline]
#[target_feature(enable = "avx512f")]
fn seen<const R: usize>(head: Head<'_>, panel: &Panel<'_>, key: usize, shares: &mut [Line; R], slopes: &mut [Line; R]) {
    let mut sums = zeros::<R, 2>();
    add_product(&mut sums, head.key.left(key), panel.query);
    let log = panel.log.vectors();
    for (share, sum) in shares.iter_mut().zip(sums) {
        share.set([exp2(_mm512_sub_ps(sum[0], log[0])), exp2(_mm512_sub_ps(sum[1], log[1]))]);
    }
    let mut sums = zeros::<R, 2>();
    add_product(&mut sums, head.value.left(key), panel.gradient);
    let along = panel.along.vectors();
    for ((slope, share), sum) in slopes.iter_mut().zip(shares).zip(sums) {
        let share = share.vectors();
        let times = |half: usize| _mm512_mul_ps(share[half], _mm512_sub_ps(sum[half], along[half]));
        slope.set([times(0), times(1)]);
    }
}

/// Adds `lines · right` to `V` vectors of eight rows, from `column` on; how many.
#[inline]
#[target_feature(enable = "avx512f")]
fn add_columns<const V: usize>(
    lines: [&[Line]; AT_ONCE],
    right: Rows<'_>,
    queries: std::ops::Range<usize>,
    rows: &mut [f32],
    column: usize,
) -> usize {
    let width = rows.len() / ROWS;
    let mut sums = zeros::<ROWS, V>();
    for (lines, first) in lines.into_iter().zip(queries.clone().step_by(PANEL)) {
        let left = Left { numbers: numbers(lines), row_step: PANEL, k_step: 1 };
        add_wide(&mut sums, left, right, (first, PANEL.min(queries.end - first)), column);
    }
    for (row, sum) in sums.into_iter().enumerate() {
        let to = &mut rows[row * width + column..][..V * LANES];
        sum.into_iter().enumerate().for_each(|(vector, sum)| add(&mut to[vector * LANES..], sum));
    }
    V
}

/// The numbers of lines, which lie without gaps.
fn numbers(lines: &[Line]) -> &[f32] {
    const { assert!(size_of::<Line>() == PANEL * size_of::<f32>()) };
    // SAFETY: a line is so many numbers and nothing else.
    unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), lines.len() * PANEL) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn add(to: &mut [f32], vector: __m512) {
    assert!(to.len() >= LANES);
    let place = to.as_mut_ptr();
    // SAFETY: so many numbers lie there.
    unsafe { _mm512_storeu_ps(place, _mm512_add_ps(_mm512_loadu_ps(place), vector)) }
}
