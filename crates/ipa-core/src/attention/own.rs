//! Self-attention by kernels of our own, both ways; [`super::attention`] takes them where they are faster.

use std::arch::x86_64::{__m256, __m512};

use tch::{Device, Kind, Tensor};

use super::backward::{self, Seen};
use super::forward::{self, Head};
use crate::autograd::{is_wanted, with_backward};
use crate::kernel::{Instructions, Line, Rows, Vector};
use crate::parallel::{Shared, floats, for_each, is_shared};

/// Whether queries, keys and values are of one size, on a processor that has what the kernels need, and libtorch's are slower:
/// those take a third longer for heads of 40 numbers, a tenth for 64, and are as fast from 80 on, by AVX-512 and nearly so by AVX2.
pub(super) fn suits([query, key, value]: [&Tensor; 3]) -> bool {
    let size = query.size();
    let &[batch, heads, tokens, dim] = size.as_slice() else { return false };
    let is_plain = |tensor: &Tensor| (tensor.device(), tensor.kind()) == (Device::Cpu, Kind::Float);
    batch * heads > 0
        && tokens >= 512
        && dim % 8 == 0
        && (8..=64).contains(&dim)
        && [query, key, value].into_iter().all(is_plain)
        && key.size() == size
        && value.size() == size
        && is_shared()
        && Instructions::found().is_some()
}

/// [`super::attention`] of tensors that [`suits`], if this processor has the instructions.
///
/// # Panics
/// If it has not.
pub(super) fn attention(parts: [&Tensor; 3]) -> Tensor {
    attention_by(parts, Instructions::found().expect("`suits` asked for it"))
}

fn attention_by(parts: [&Tensor; 3], instructions: Instructions) -> Tensor {
    let packed = Tensor::stack(&parts, 0); // every head's rows together
    if !is_wanted(&packed) {
        return Sizes::of(&packed).forward(&packed, instructions).0;
    }
    with_backward(&packed, |packed| {
        let (sizes, packed) = (Sizes::of(packed), packed.contiguous());
        let (result, logs) = sizes.forward(&packed, instructions);
        let left = (result.shallow_clone(), logs);
        (result, move |gradient: &Tensor| sizes.backward(&packed, &left, gradient, instructions))
    })
}

#[derive(Debug, Clone, Copy)]
struct Sizes {
    batch: usize,
    heads: usize,
    tokens: usize,
    dim: usize,
}

impl Sizes {
    /// Of queries, keys and values together, `[3, batch, heads, tokens, dim]`.
    fn of(packed: &Tensor) -> Self {
        let (_, batch, heads, tokens, dim) = packed.size5().expect("it was stacked of tensors of four sizes");
        Self { batch: batch as usize, heads: heads as usize, tokens: tokens as usize, dim: dim as usize }
    }

    /// Heads of all pictures.
    fn num(self) -> usize {
        self.batch * self.heads
    }

    fn head(self, packed: &[f32], index: usize) -> Head<'_> {
        let len = self.tokens * self.dim;
        let [query, key, value] = [0, 1, 2].map(|part| {
            let numbers = &packed[(part * self.num() + index) * len..][..len];
            Rows { numbers, step: self.dim, width: self.dim }
        });
        Head { query, key, value, tokens: self.tokens }
    }

    /// Where a row of a head lies in `[batch, tokens, heads, dim]`.
    fn place(self, index: usize, token: usize) -> usize {
        let (picture, head) = (index / self.heads, index % self.heads);
        ((picture * self.tokens + token) * self.heads + head) * self.dim
    }

    /// A head's rows in `[batch, tokens, heads, dim]`.
    fn rows(self, numbers: &[f32], index: usize) -> Rows<'_> {
        Rows { numbers: &numbers[self.place(index, 0)..], step: self.heads * self.dim, width: self.dim }
    }

    fn shape(self) -> [i64; 4] {
        [self.batch, self.tokens, self.heads, self.dim].map(|size| size as i64)
    }

    /// The result, and `[batch · heads, tokens]` for the way back. Heads of a token lie together, as what comes next reads
    /// them.
    fn forward(self, packed: &Tensor, instructions: Instructions) -> (Tensor, Tensor) {
        match instructions {
            Instructions::Avx512 => self.forward_by::<__m512, 8, 8>(packed),
            Instructions::Avx2 => self.forward_by::<__m256, 6, 4>(packed),
        }
    }

    fn forward_by<V: Vector, const K: usize, const C: usize>(self, packed: &Tensor) -> (Tensor, Tensor) {
        let result = Tensor::empty(self.shape(), (Kind::Float, Device::Cpu));
        let logs = Tensor::empty([self.num() as i64, self.tokens as i64], (Kind::Float, Device::Cpu));
        let (from, to, to_logs) = (floats(packed), Shared::new(&result), Shared::new(&logs));
        let panels = self.tokens.div_ceil(Line::<V>::PANEL);
        for_each(self.num() * panels, |unit| {
            let (index, first) = (unit / panels, unit % panels * Line::<V>::PANEL);
            let head = self.head(from, index);
            // SAFETY: the processor has the instructions.
            let (rows, sums) = unsafe {
                V::compiled(
                    #[inline(always)]
                    || forward::panel::<V, K, C>(head, first),
                )
            };
            for (token, row) in (first..).zip(rows.chunks_exact(self.dim)) {
                // SAFETY: every unit writes rows and logarithms of its own.
                unsafe { to.part(self.place(index, token), self.dim) }.copy_from_slice(row);
            }
            // SAFETY: as above.
            unsafe { to_logs.part(index * self.tokens + first, sums.len()) }.copy_from_slice(&sums);
        });
        (result.transpose(1, 2), logs)
    }

    /// The gradient of `packed`, which [`Sizes::forward`] made `left` of, from that of its result.
    fn backward(
        self,
        packed: &Tensor,
        left: &(Tensor, Tensor),
        gradient: &Tensor,
        instructions: Instructions,
    ) -> Tensor {
        match instructions {
            Instructions::Avx512 => self.backward_by::<__m512, 8, 8>(packed, left, gradient),
            Instructions::Avx2 => self.backward_by::<__m256, 6, 4>(packed, left, gradient),
        }
    }

    fn backward_by<V: Vector, const K: usize, const C: usize>(
        self,
        packed: &Tensor,
        (result, logs): &(Tensor, Tensor),
        gradient: &Tensor,
    ) -> Tensor {
        let [result, gradient] = [result, gradient].map(|tensor| tensor.transpose(1, 2).contiguous());
        let shape = self.shape();
        let found = Tensor::empty([3, shape[0], shape[1], shape[2], shape[3]], (Kind::Float, Device::Cpu));
        let (from, result, gradient, logs) = (floats(packed), floats(&result), floats(&gradient), floats(logs));
        let to = Shared::new(&found);
        for_each(self.num(), |index| {
            let seen = Seen {
                result: self.rows(result, index),
                gradient: self.rows(gradient, index),
                logs: &logs[index * self.tokens..][..self.tokens],
            };
            let head = self.head(from, index);
            // SAFETY: the processor has the instructions.
            let gradients = unsafe {
                V::compiled(
                    #[inline(always)]
                    || backward::gradients::<V, K, C>(head, seen),
                )
            };
            for (part, rows) in [gradients.query, gradients.key, gradients.value].iter().enumerate() {
                for (token, row) in rows.chunks_exact(self.dim).enumerate() {
                    let place = part * self.num() * self.tokens * self.dim + self.place(index, token);
                    // SAFETY: every head writes rows of its own.
                    unsafe { to.part(place, self.dim) }.copy_from_slice(row);
                }
            }
        });
        found.transpose(2, 3)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{merge_heads, split_heads};
    use super::*;
    use crate::noise::Draws;

    /// All that this processor has; says what it has not.
    fn by_all() -> impl Iterator<Item = Instructions> {
        Instructions::ALL.into_iter().filter(|instructions| {
            if !instructions.is_there() {
                eprintln!("skipped in part: this processor has no {instructions:?}");
            }
            instructions.is_there()
        })
    }

    /// Result and three gradients, as tokens' features.
    fn both_ways(parts: &[Tensor; 3], kind: Kind, of: impl Fn([&Tensor; 3]) -> Tensor) -> [Tensor; 4] {
        let heads = parts[0].size()[2];
        let features = parts.each_ref().map(|part| part.flatten(2, 3).to_kind(kind).set_requires_grad(true));
        let [query, key, value] = features.each_ref().map(|part| split_heads(part, heads));
        let result = merge_heads(&of([&query, &key, &value]));
        (&result * Draws::seeded(9).normal(&result.size()).to_kind(kind)).sum(kind).backward();
        let [query, key, value] = features.map(|part| part.grad());
        [result.detach(), query, key, value]
    }

    fn exact([query, key, value]: [&Tensor; 3]) -> Tensor {
        let scores = query.matmul(&key.transpose(2, 3)) / (query.size()[3] as f64).sqrt();
        scores.softmax(-1, None).matmul(value)
    }

    fn error(found: &Tensor, exact: &Tensor) -> f64 {
        ((found.to_kind(Kind::Double) - exact).abs().max() / exact.abs().max()).double_value(&[])
    }

    #[test]
    fn it_is_the_formula_both_ways() {
        // Whole panels and blocks, and what is left of each; every number of vectors.
        for [batch, tokens, heads, dim] in
            [[1, 64, 2, 40], [2, 96, 1, 64], [1, 283, 3, 80], [1, 600, 2, 40], [1, 65, 1, 8], [1, 70, 2, 160]]
        {
            let parts = [1, 2, 3].map(|seed| Draws::seeded(seed).normal(&[batch, tokens, heads, dim]) * 2.0);
            let expected = both_ways(&parts, Kind::Double, exact);
            for by in by_all() {
                let found = both_ways(&parts, Kind::Float, |parts| attention_by(parts, by));
                for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
                    let error = error(found, expected);
                    assert!(error < 1e-5, "{error} for part {index} of {tokens} tokens of {dim}, {by:?}");
                }
                let [query, key, value] = parts.each_ref().map(|part| part.transpose(1, 2));
                let alone = merge_heads(&tch::no_grad(|| attention_by([&query, &key, &value], by)));
                assert_eq!(alone, found[0], "with and without gradients");
            }
        }
    }

    #[test]
    fn it_is_taken_where_it_is_faster_and_no_less_exact_there() {
        let of = |size: [i64; 4]| [1, 2, 3].map(|seed| Draws::seeded(seed).normal(&size));
        let parts = of([1, 2, 512, 40]);
        assert_eq!(suits(parts.each_ref()), Instructions::found().is_some() && is_shared());
        let libtorchs = |[query, key, value]: [&Tensor; 3]| {
            Tensor::scaled_dot_product_attention(query, key, value, None::<&Tensor>, 0.0, false, None, false)
        };
        let expected = exact(parts.each_ref().map(|part| part.to_kind(Kind::Double)).each_ref());
        let [own, theirs] = [super::super::attention(&parts[0], &parts[1], &parts[2]), libtorchs(parts.each_ref())];
        assert!(error(&own, &expected) < 2.0 * error(&theirs, &expected));
        let others = [
            of([1, 2, 512, 80]),
            of([1, 2, 512, 36]),
            of([1, 2, 77, 40]),
            parts.map(|part| part.to_kind(Kind::BFloat16)),
        ];
        assert!(others.iter().all(|parts| !suits(parts.each_ref())));
        let (few, many) = (of([1, 2, 77, 40]), of([1, 2, 512, 40]));
        assert!(!suits([&many[0], &few[1], &few[2]]), "as many keys as queries");
    }

    #[test]
    fn far_scores_neither_overflow_nor_vanish() {
        let key = Draws::seeded(2).normal(&[1, 2, 128, 40]) * 100.0;
        for scale in [1.0, -30.0] {
            let query = Draws::seeded(1).normal(&[1, 2, 128, 40]) * scale;
            let exact = exact([&query, &key, &key].map(|part| part.to_kind(Kind::Double)).each_ref());
            for by in by_all() {
                let error = (attention_by([&query, &key, &key], by) - &exact).abs().max().double_value(&[]);
                assert!(error < 0.05, "{error}, of keys that deviate by 100; {by:?}");
            }
        }
    }

    #[test]
    fn what_is_no_number_stays_none() {
        let query = Draws::seeded(1).normal(&[1, 1, 64, 40]);
        let key = query.copy();
        let _ = key.narrow(2, 5, 1).fill_(f64::NAN);
        for by in by_all() {
            let found = attention_by([&query, &key, &query], by);
            assert!(bool::try_from(found.isnan().all()).expect("a flag"), "{by:?}");
        }
    }
}
