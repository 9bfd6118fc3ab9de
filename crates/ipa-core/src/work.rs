//! How much arithmetic a call of a model is.

use std::iter::Sum;
use std::ops::{Add, Mul};

/// Floating-point operations by what they are part of, two for each multiplication and addition.
///
/// What is done element by element does not count, as PyTorch's `FlopCounterMode` does not count it either.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub struct Work {
    /// Convolutions.
    pub convolutions: f64,
    /// Matrices over features.
    pub linear: f64,
    /// Both products of attention.
    pub attention: f64,
}

impl Work {
    /// A square kernel at every one of so many positions of the result.
    pub fn convolution(positions: i64, inputs: i64, outputs: i64, kernel: i64) -> Self {
        Self { convolutions: flop(&[positions, inputs, outputs, kernel * kernel]), ..Self::default() }
    }

    /// A matrix over so many rows.
    pub fn linear(rows: i64, inputs: i64, outputs: i64) -> Self {
        Self { linear: flop(&[rows, inputs, outputs]), ..Self::default() }
    }

    /// Every query with every key; `width` is that of all heads together.
    pub fn attention(queries: i64, keys: i64, width: i64) -> Self {
        Self { attention: flop(&[2, queries, keys, width]), ..Self::default() }
    }

    /// All of it.
    pub fn total(&self) -> f64 {
        self.convolutions + self.linear + self.attention
    }
}

/// Of so many multiplications and additions; as numbers that do not overflow.
fn flop(factors: &[i64]) -> f64 {
    2.0 * factors.iter().map(|&factor| factor as f64).product::<f64>()
}

impl Add for Work {
    type Output = Self;

    fn add(self, more: Self) -> Self {
        Self {
            convolutions: self.convolutions + more.convolutions,
            linear: self.linear + more.linear,
            attention: self.attention + more.attention,
        }
    }
}

/// So many times the same.
impl Mul<f64> for Work {
    type Output = Self;

    fn mul(self, times: f64) -> Self {
        Self { convolutions: self.convolutions * times, linear: self.linear * times, attention: self.attention * times }
    }
}

impl Sum for Work {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), Self::add)
    }
}
