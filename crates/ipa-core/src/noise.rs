//! The one owner of randomness.
//!
//! libtorch's CPU generator is process-wide. [`Draws`] holds it, seeded, for as long as a sequence of draws
//! must stay together, so two threads can never mix their numbers. Sampling seeds it once per request and draws
//! in the reference's order; training seeds every draw from (run seed, purpose, step), so that a resumed run
//! needs to know its step and nothing else.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tch::{Device, Kind, Tensor};

static GENERATOR: Mutex<()> = Mutex::new(());

/// Exclusive use of libtorch's CPU generator from a known seed.
///
/// All draws are made on the CPU, in f32 unless [`Draws::in_kind`] says otherwise: `Draws::seeded(s).normal(..)` equals
/// `torch.randn(.., generator=torch.Generator("cpu").manual_seed(s))`.
#[derive(Debug)]
pub struct Draws {
    _generator: MutexGuard<'static, ()>,
    kind: Kind,
}

impl Draws {
    /// Waits for other holders, then seeds the generator.
    pub fn seeded(seed: u64) -> Self {
        let guard = GENERATOR.lock().unwrap_or_else(PoisonError::into_inner);
        tch::manual_seed(seed as i64);
        Self { _generator: guard, kind: Kind::Float }
    }

    /// Draws normal numbers in a kind of their own: f16 and bf16 take fewer bits of every random number, so that they
    /// are unrelated to those in f32, not rounded from them.
    pub fn in_kind(self, kind: Kind) -> Self {
        Self { kind, ..self }
    }

    /// The draws of one `step` for one `purpose` of a run: independent of everything drawn before.
    pub fn counted(run_seed: u64, purpose: &str, step: u64) -> Self {
        Self::seeded(counter_seed(run_seed, purpose, step))
    }

    /// Standard normal numbers on the CPU.
    pub fn normal(&mut self, shape: &[i64]) -> Tensor {
        Tensor::randn(shape, (self.kind, Device::Cpu))
    }

    /// As [`Draws::normal`], in f32 whatever the others are drawn in.
    pub fn normal_f32(&mut self, shape: &[i64]) -> Tensor {
        Tensor::randn(shape, (Kind::Float, Device::Cpu))
    }

    /// Uniform numbers in `[0, 1)`, f32 on the CPU.
    pub fn uniform(&mut self, shape: &[i64]) -> Tensor {
        Tensor::rand(shape, (Kind::Float, Device::Cpu))
    }

    /// Uniform integers in `0..bound`, i64 on the CPU.
    pub fn integers(&mut self, bound: i64, shape: &[i64]) -> Tensor {
        Tensor::randint(bound, shape, (Kind::Int64, Device::Cpu))
    }

    /// The numbers `0..n` in random order.
    pub fn permutation(&mut self, n: usize) -> Vec<usize> {
        let order = Tensor::randperm(n as i64, (Kind::Int64, Device::Cpu));
        Vec::<i64>::try_from(order).expect("a vector of integers").into_iter().map(|i| i as usize).collect()
    }
}

/// A seed for (run seed, purpose, step): FNV-1a over the purpose, then the SplitMix64 finaliser over all three.
pub fn counter_seed(run_seed: u64, purpose: &str, step: u64) -> u64 {
    let name = purpose
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    [run_seed, name, step].into_iter().fold(0, |state, word| splitmix64(state ^ word))
}

fn splitmix64(state: u64) -> u64 {
    let z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `torch.manual_seed(42); torch.randn(4)` of PyTorch 2.11.
    #[test]
    fn normal_draws_are_those_of_pytorch() {
        let drawn = Vec::<f32>::try_from(Draws::seeded(42).normal(&[4])).expect("four numbers");
        let expected = [0.336_690_4_f32, 0.128_809_42, 0.234_462_41, 0.230_333_44];
        assert!(drawn.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{drawn:?}");
    }

    #[test]
    fn counted_draws_depend_on_each_of_seed_purpose_and_step() {
        let first = counter_seed(1, "noise", 1);
        assert_eq!(first, counter_seed(1, "noise", 1));
        for other in [counter_seed(2, "noise", 1), counter_seed(1, "steps", 1), counter_seed(1, "noise", 2)] {
            assert_ne!(first, other);
        }
    }

    #[test]
    fn permutations_hold_every_number_once() {
        let mut order = Draws::counted(7, "order", 3).permutation(50);
        order.sort_unstable();
        assert!(order.into_iter().eq(0..50));
    }
}
