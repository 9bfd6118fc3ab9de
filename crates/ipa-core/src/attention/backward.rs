//! The gradient of self-attention, a head at a time: shares are computed again from their sums (arXiv:2205.14135).

use super::forward::Head;
use crate::kernel::{Left, Line, Rows, Vector, add_product, add_wide, turned};

/// Keys whose shares, of two panels, lie in memory at a time, or a few less.
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
struct Panel<'a, V> {
    query: &'a [Line<V>],
    gradient: &'a [Line<V>],
    log: Line<V>,
    /// `Σ gradient · result`, by query.
    along: Line<V>,
}

/// `K` keys, and `C` numbers of queries, are computed with at a time.
///
/// # Safety
/// As [`Vector`].
#[inline(always)]
pub(super) unsafe fn gradients<V: Vector, const K: usize, const C: usize>(head: Head<'_>, seen: Seen<'_>) -> Gradients {
    let (tokens, dim, panel_len) = (head.tokens, head.dim(), Line::<V>::PANEL);
    let num = tokens.div_ceil(panel_len);
    let mut lines = [(); 3].map(|()| vec![Line::<V>::ZERO; num * dim]);
    let mut sums = [(); 2].map(|()| vec![Line::<V>::ZERO; num]);
    let ([query, gradient, of_query], [logs, along]) = (&mut lines, &mut sums);
    for index in 0..num {
        let (queries, place) = (index * panel_len..tokens.min((index + 1) * panel_len), index * dim..(index + 1) * dim);
        turned(head.query.iter(queries.clone()), head.scale(), &mut query[place.clone()]);
        turned(seen.gradient.iter(queries.clone()), 1.0, &mut gradient[place]);
        for (lane, query) in queries.enumerate() {
            logs[index].numbers_mut()[lane] = seen.logs[query];
            let products = seen.gradient.row(query).iter().zip(seen.result.row(query)).map(|(a, b)| a * b);
            along[index].numbers_mut()[lane] = products.sum();
        }
    }
    let mut found = Gradients { query: Vec::new(), key: vec![0.0; tokens * dim], value: vec![0.0; tokens * dim] };
    let block_len = BLOCK / K * K;
    let mut block = Block::<V, K>::new(block_len.min(tokens), dim);
    for begin in (0..tokens).step_by(block_len) {
        block.clear();
        let count = block_len.min(tokens - begin);
        for first in (0..num).step_by(AT_ONCE) {
            for (slot, index) in (first..num.min(first + AT_ONCE)).enumerate() {
                let place = index * dim..(index + 1) * dim;
                let panel = Panel {
                    query: &query[place.clone()],
                    gradient: &gradient[place.clone()],
                    log: logs[index],
                    along: along[index],
                };
                block.see(head, &panel, begin..begin + count, slot);
                block.add_queries::<C>(head.key, begin..begin + count, slot, &mut of_query[place]);
            }
            let queries = first * panel_len..tokens.min((first + AT_ONCE) * panel_len);
            block.add_keys(seen.gradient, head.query, queries, count);
        }
        block.take(begin..begin + count, dim, &mut found);
    }
    let scale = 1.0 / (dim as f32).sqrt();
    found.key.iter_mut().for_each(|value| *value *= scale);
    found.query = vec![0.0; tokens * dim];
    for (query, row) in found.query.chunks_exact_mut(dim).enumerate() {
        let lines = &of_query[query / panel_len * dim..];
        row.iter_mut().zip(lines).for_each(|(value, line)| *value = line.numbers()[query % panel_len] * scale);
    }
    found
}

/// What is known of a block of keys.
struct Block<V, const K: usize> {
    /// By panel and key, the share of a key in a query, and the gradient of its score.
    shares: [Vec<Line<V>>; AT_ONCE],
    slopes: [Vec<Line<V>>; AT_ONCE],
    /// By key, the gradients so far, in rows of whole vectors.
    keys: Vec<f32>,
    values: Vec<f32>,
    width: usize,
}

impl<V: Vector, const K: usize> Block<V, K> {
    #[inline(always)]
    fn new(keys: usize, dim: usize) -> Self {
        let width = dim.next_multiple_of(V::LANES);
        // Rows of a product that lie beyond the last key are computed and not used.
        let keys = keys.next_multiple_of(K);
        let lines = || [(); AT_ONCE].map(|()| vec![Line::ZERO; keys]);
        let zeros = || vec![0.0; keys * width];
        Self { shares: lines(), slopes: lines(), keys: zeros(), values: zeros(), width }
    }

    fn clear(&mut self) {
        self.keys.fill(0.0);
        self.values.fill(0.0);
    }

    /// Shares and slopes of the keys for a panel.
    #[inline(always)]
    fn see(&mut self, head: Head<'_>, panel: &Panel<'_, V>, keys: std::ops::Range<usize>, slot: usize) {
        let count = keys.len();
        let (shares, slopes) = (&mut self.shares[slot][..count], &mut self.slopes[slot][..count]);
        let ((shares, last_shares), (slopes, last_slopes)) = (shares.as_chunks_mut::<K>(), slopes.as_chunks_mut::<K>());
        let mut key = keys.start;
        for (shares, slopes) in shares.iter_mut().zip(slopes) {
            seen(head, panel, key, shares, slopes);
            key += K;
        }
        for (share, slope) in last_shares.iter_mut().zip(last_slopes) {
            seen(head, panel, key, std::array::from_mut(share), std::array::from_mut(slope));
            key += 1;
        }
    }

    /// Adds to the gradients of a panel's queries, `[dim]`.
    #[inline(always)]
    fn add_queries<const C: usize>(
        &self,
        key: Rows<'_>,
        keys: std::ops::Range<usize>,
        slot: usize,
        to: &mut [Line<V>],
    ) {
        let slopes = &self.slopes[slot][..keys.len()];
        for (index, lines) in to.chunks_exact_mut(C).enumerate() {
            let numbers = &key.numbers[keys.start * key.step + index * C..];
            let mut sums = [Line::ZERO; C];
            add_product(&mut sums, Left { numbers, row_step: 1, k_step: key.step }, slopes);
            for (line, sum) in lines.iter_mut().zip(sums) {
                *line = line.plus(sum);
            }
        }
    }

    /// Adds what these queries give to the gradients of keys and values.
    #[inline(always)]
    fn add_keys(&mut self, gradient: Rows<'_>, query: Rows<'_>, queries: std::ops::Range<usize>, count: usize) {
        let width = self.width;
        for (lines, right, to) in [(&self.shares, gradient, &mut self.values), (&self.slopes, query, &mut self.keys)] {
            for key in (0..count).step_by(K) {
                let lines = [&lines[0][key..key + K], &lines[1][key..key + K]];
                let rows = &mut to[key * width..][..K * width];
                let mut column = 0;
                while column < width {
                    // No more vectors at once than registers hold, and none alone that could be with others.
                    column += V::LANES
                        * match ((width - column) / V::LANES, V::BESIDE) {
                            (1, _) => add_columns::<V, K, 1>(lines, right, queries.clone(), rows, column),
                            (2 | 4, _) | (_, 2) => add_columns::<V, K, 2>(lines, right, queries.clone(), rows, column),
                            _ => add_columns::<V, K, 3>(lines, right, queries.clone(), rows, column),
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

/// Shares and slopes of `K` keys.
#[inline(always)]
fn seen<V: Vector, const K: usize>(
    head: Head<'_>,
    panel: &Panel<'_, V>,
    key: usize,
    shares: &mut [Line<V>; K],
    slopes: &mut [Line<V>; K],
) {
    let mut sums = [Line::ZERO; K];
    add_product(&mut sums, head.key.left(key), panel.query);
    for (share, sum) in shares.iter_mut().zip(sums) {
        *share = sum.minus(panel.log).exp2();
    }
    let mut sums = [Line::ZERO; K];
    add_product(&mut sums, head.value.left(key), panel.gradient);
    for ((slope, share), sum) in slopes.iter_mut().zip(shares).zip(sums) {
        *slope = share.times(sum.minus(panel.along));
    }
}

/// Adds `lines · right` to `N` vectors of `K` rows, from `column` on; how many.
#[inline(always)]
fn add_columns<V: Vector, const K: usize, const N: usize>(
    lines: [&[Line<V>]; AT_ONCE],
    right: Rows<'_>,
    queries: std::ops::Range<usize>,
    rows: &mut [f32],
    column: usize,
) -> usize {
    let (width, panel_len) = (rows.len() / K, Line::<V>::PANEL);
    // SAFETY: as `Vector` says.
    let mut sums = [[unsafe { V::splat(0.0) }; N]; K];
    for (lines, first) in lines.into_iter().zip(queries.clone().step_by(panel_len)) {
        let left = Left { numbers: Line::all_numbers(lines), row_step: panel_len, k_step: 1 };
        add_wide(&mut sums, left, right, (first, panel_len.min(queries.end - first)), column);
    }
    for (row, sum) in sums.into_iter().enumerate() {
        let to = &mut rows[row * width + column..][..N * V::LANES];
        for (vector, sum) in sum.into_iter().enumerate() {
            let place = to[vector * V::LANES..][..V::LANES].as_mut_ptr();
            // SAFETY: so many numbers lie there.
            unsafe { V::load(place).plus(sum).store(place) };
        }
    }
    N
}
