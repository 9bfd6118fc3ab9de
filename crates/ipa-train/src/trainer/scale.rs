//! The factor on losses that keeps the gradients of f16 from vanishing.

use ipa_core::tch::Tensor;
use ipa_core::{Checkpoint, WeightsError};

/// Factor to begin with; this and how it moves are those of PyTorch's `GradScaler`.
const START: f64 = 65536.0;
const BACKOFF: f64 = 0.5;
const GROWTH: f64 = 2.0;
/// Steps without overflow after which it grows.
const GROWTH_INTERVAL: u64 = 2000;
/// Its name in a checkpoint.
const NAME: &str = "loss_scale";

/// Multiplied into losses and divided out of gradients; smaller after an overflow, larger after a long time without.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct LossScale {
    factor: f64,
    good_steps: u64,
}

impl LossScale {
    pub(crate) fn new() -> Self {
        Self { factor: START, good_steps: 0 }
    }

    pub(crate) fn factor(&self) -> f64 {
        self.factor
    }

    /// After a step whose gradients were numbers, or were not.
    pub(crate) fn update(&mut self, is_finite: bool) {
        self.good_steps = if is_finite { self.good_steps + 1 } else { 0 };
        match is_finite {
            false => self.factor *= BACKOFF,
            true if self.good_steps == GROWTH_INTERVAL => (self.factor, self.good_steps) = (self.factor * GROWTH, 0),
            true => {}
        }
    }

    /// Whether it has become so small that something else must be wrong.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.factor < 1.0
    }

    pub(crate) fn state(&self) -> (String, Tensor) {
        (NAME.to_owned(), Tensor::from_slice(&[self.factor, self.good_steps as f64]))
    }

    pub(crate) fn load(checkpoint: &Checkpoint) -> Result<Self, WeightsError> {
        let state = checkpoint.tensor(NAME)?;
        Ok(Self { factor: state.double_value(&[0]), good_steps: state.double_value(&[1]) as u64 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `torch.amp.GradScaler` of PyTorch 2.11: 65536, halved by an overflow, doubled after 2000 steps without.
    #[test]
    fn the_factor_moves_as_pytorchs() {
        let mut scale = LossScale::new();
        scale.update(false);
        assert!((scale.factor() - 32768.0).abs() < 1e-9);
        (0..1999).for_each(|_| scale.update(true));
        assert!((scale.factor() - 32768.0).abs() < 1e-9);
        scale.update(true);
        assert!((scale.factor() - 65536.0).abs() < 1e-9);
        (0..17).for_each(|_| scale.update(false));
        assert!(scale.is_exhausted());
    }
}
