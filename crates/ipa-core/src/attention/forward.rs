//! Self-attention of one head, a panel of queries at a time, keys in blocks (arXiv:2205.14135).

use std::arch::x86_64::{
    __m512, _mm512_add_ps, _mm512_div_ps, _mm512_max_ps, _mm512_mul_ps, _mm512_set1_ps, _mm512_sub_ps,
};

use crate::kernel::{Left, Line, PANEL, ROWS, Rows, add_product, exp2, turned, zeros};

/// Keys whose scores lie in memory at a time.
const BLOCK: usize = 256;
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

/// What a panel's queries see: results `[dim]`, and the logarithms to base two of the sums of their exponentials.
#[target_feature(enable = "avx512f")]
pub(super) fn panel(head: Head<'_>, first: usize) -> (Vec<Line>, Line) {
    let dim = head.dim();
    let mut query = vec![Line::ZERO; dim];
    turned(head.query.iter(first..head.tokens.min(first + PANEL)), head.scale(), &mut query);
    let mut scores = vec![Line::ZERO; BLOCK.min(head.tokens)];
    let mut result = vec![Line::ZERO; dim];
    let (mut highest, mut total) = ([_mm512_set1_ps(LOWEST); 2], zeros::<1, 2>()[0]);
    for begin in (0..head.tokens).step_by(BLOCK) {
        let scores = &mut scores[..BLOCK.min(head.tokens - begin)];
        let before = highest;
        highest = scored(head.key, begin, &query, scores, highest);
        let shrunk = both(before, highest, |before, highest| exp2(_mm512_sub_ps(before, highest)));
        total = both(total, shrunk, |total, shrunk| _mm512_mul_ps(total, shrunk));
        for line in scores.iter_mut() {
            let shares = both(line.vectors(), highest, |score, highest| exp2(_mm512_sub_ps(score, highest)));
            total = both(total, shares, |total, share| _mm512_add_ps(total, share));
            line.set(shares);
        }
        for (column, lines) in (0..dim).step_by(ROWS).zip(result.chunks_exact_mut(ROWS)) {
            let numbers = &head.value.numbers[begin * head.value.step + column..];
            let left = Left { numbers, row_step: 1, k_step: head.value.step };
            let mut sums = zeros::<ROWS, 2>();
            add_product(&mut sums, left, scores);
            for (line, sum) in lines.iter_mut().zip(sums) {
                line.set(both(line.vectors(), shrunk, |result, shrunk| _mm512_mul_ps(result, shrunk)));
                line.add(sum);
            }
        }
    }
    for line in &mut result {
        line.set(both(line.vectors(), total, |result, total| _mm512_div_ps(result, total)));
    }
    let (mut sums, mut logs) = (Line::ZERO, Line::ZERO);
    sums.set(total);
    logs.set(highest);
    logs.0.iter_mut().zip(sums.0).for_each(|(log, sum)| *log += sum.log2());
    (result, logs)
}

/// Scores of the keys from `begin` on, and the highest so far of every query.
#[target_feature(enable = "avx512f")]
fn scored(key: Rows<'_>, begin: usize, query: &[Line], scores: &mut [Line], highest: [__m512; 2]) -> [__m512; 2] {
    let (by_rows, rest) = scores.as_chunks_mut::<ROWS>();
    let num = by_rows.len() * ROWS;
    let mut top = highest;
    for (index, lines) in by_rows.iter_mut().enumerate() {
        top = score(key.left(begin + index * ROWS), query, lines, top);
    }
    for (index, line) in rest.iter_mut().enumerate() {
        top = score(key.left(begin + num + index), query, std::array::from_mut(line), top);
    }
    top
}

#[inline]
#[target_feature(enable = "avx512f")]
fn score<const R: usize>(key: Left<'_>, query: &[Line], to: &mut [Line; R], highest: [__m512; 2]) -> [__m512; 2] {
    let mut sums = zeros::<R, 2>();
    add_product(&mut sums, key, query);
    let mut top = highest;
    for (line, sum) in to.iter_mut().zip(sums) {
        top = both(top, sum, |top, sum| _mm512_max_ps(top, sum));
        line.set(sum);
    }
    top
}

#[inline]
#[target_feature(enable = "avx512f")]
fn both(a: [__m512; 2], b: [__m512; 2], of: impl Fn(__m512, __m512) -> __m512) -> [__m512; 2] {
    [of(a[0], b[0]), of(a[1], b[1])]
}
