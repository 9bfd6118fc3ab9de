//! Self-attention of one head, a panel of queries at a time, keys in blocks (arXiv:2205.14135).

use crate::kernel::{Left, Line, Rows, Vector, add_product, turned};

/// Below every score; not −∞, whose differences are no numbers.
const LOWEST: f32 = -1e30;

/// Queries, keys and values of one head, `[tokens, dim]` each.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head<'a> {
    pub(super) query: Rows<'a>,
    pub(super) key: Rows<'a>,
    pub(super) value: Rows<'a>,
    pub(super) tokens: usize,
}

impl Head<'_> {
    pub(super) fn dim(self) -> usize {
        self.query.width
    }

    /// What queries are multiplied by, so that scores are exponents of two.
    pub(super) fn scale(self) -> f32 {
        std::f32::consts::LOG2_E / (self.dim() as f32).sqrt()
    }
}

/// What a panel's queries see, `[queries, dim]`, and the logarithms to base two of the sums of their exponentials.
///
/// `K` keys, and `C` numbers of values, are computed with at a time.
///
/// # Safety
/// As [`Vector`].
#[inline(always)]
pub(super) unsafe fn panel<V: Vector, const K: usize, const C: usize>(
    head: Head<'_>,
    first: usize,
) -> (Vec<f32>, Vec<f32>) {
    let dim = head.dim();
    // SAFETY: the caller sees to it.
    let lowest = unsafe { Line::<V>::splat(LOWEST) };
    let mut query = vec![Line::ZERO; dim];
    let queries = first..head.tokens.min(first + Line::<V>::PANEL);
    turned(head.query.iter(queries.clone()), head.scale(), &mut query);
    // Keys whose scores lie in memory at a time: with their values, what the nearest cache holds.
    let block = 16 * V::LANES / K * K;
    let mut scores = vec![Line::ZERO; block.min(head.tokens)];
    let mut result = vec![Line::ZERO; dim];
    let (mut highest, mut total) = (lowest, Line::ZERO);
    for begin in (0..head.tokens).step_by(block) {
        let scores = &mut scores[..block.min(head.tokens - begin)];
        let before = highest;
        highest = scored::<V, K>(head.key, begin, &query, scores, highest);
        let shrunk = before.minus(highest).exp2();
        total = total.times(shrunk);
        for line in scores.iter_mut() {
            *line = line.minus(highest).exp2();
            total = total.plus(*line);
        }
        for (column, lines) in (0..dim).step_by(C).zip(result.chunks_exact_mut(C)) {
            let numbers = &head.value.numbers[begin * head.value.step + column..];
            let left = Left { numbers, row_step: 1, k_step: head.value.step };
            let mut sums = [Line::ZERO; C];
            add_product(&mut sums, left, scores);
            for (line, sum) in lines.iter_mut().zip(sums) {
                // A sum that began at zero: one long sum would lose more of its last digits than a sum of sums.
                *line = line.times(shrunk).plus(sum);
            }
        }
    }
    for line in &mut result {
        *line = line.over(total);
    }
    let mut rows = Vec::with_capacity(queries.len() * dim);
    for lane in 0..queries.len() {
        rows.extend(result.iter().map(|line| line.numbers()[lane]));
    }
    let sums = total.numbers().iter().map(|total| total.log2());
    (rows, highest.numbers().iter().zip(sums).map(|(highest, sum)| highest + sum).take(queries.len()).collect())
}

/// Scores of the keys from `begin` on, and the highest so far of every query.
#[inline(always)]
fn scored<V: Vector, const K: usize>(
    key: Rows<'_>,
    begin: usize,
    query: &[Line<V>],
    scores: &mut [Line<V>],
    highest: Line<V>,
) -> Line<V> {
    let (by_rows, rest) = scores.as_chunks_mut::<K>();
    let num = by_rows.len() * K;
    let mut top = highest;
    for (index, lines) in by_rows.iter_mut().enumerate() {
        top = score(key.left(begin + index * K), query, lines, top);
    }
    for (index, line) in rest.iter_mut().enumerate() {
        top = score(key.left(begin + num + index), query, std::array::from_mut(line), top);
    }
    top
}

#[inline(always)]
fn score<V: Vector, const K: usize>(
    key: Left<'_>,
    query: &[Line<V>],
    to: &mut [Line<V>; K],
    highest: Line<V>,
) -> Line<V> {
    let mut sums = [Line::ZERO; K];
    add_product(&mut sums, key, query);
    let mut top = highest;
    for sum in sums {
        top = top.max(sum);
    }
    *to = sums;
    top
}
