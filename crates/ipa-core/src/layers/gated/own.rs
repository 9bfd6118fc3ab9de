//! GEGLU and its way back in one pass each: libtorch takes a pass for each operation, and most of the time for the error
//! function.

use std::f32::consts::{FRAC_1_SQRT_2, LOG2_E};

use tch::{Device, Kind, Tensor};

use crate::kernel::{EXP2_SERIES, Instructions};
use crate::parallel::{Shared, floats, for_each, is_shared};

/// Numbers of a row or several that a thread takes at a time.
const AT_ONCE: usize = 1 << 14;

/// Whether its numbers lie in order, on a processor that has what [`vectorised`] is compiled for.
pub(super) fn suits(projected: &Tensor) -> bool {
    let width = projected.size().last().map_or(0, |both| both / 2);
    (projected.device(), projected.kind()) == (Device::Cpu, Kind::Float)
        && projected.is_contiguous()
        && width > 0
        && Instructions::Avx2.is_there()
        && is_shared()
}

/// `value · gelu(gate)` of what [`suits`].
pub(super) fn gated(projected: &Tensor) -> Tensor {
    let mut size = projected.size();
    let width = halved(&mut size);
    let result = Tensor::empty(&size, (Kind::Float, Device::Cpu));
    let (numbers, to) = (floats(projected), Shared::new(&result));
    for_each_row(result.numel() / width, width, |row| {
        let (value, gate) = numbers[2 * row * width..][..2 * width].split_at(width);
        // SAFETY: every row is written once, and `suits` asked for the feature.
        unsafe { vectorised::put_gated(value, gate, to.part(row * width, width)) };
    });
    result
}

/// The gradient of `projected` from that of the result.
pub(super) fn gradient_of_projected(projected: &Tensor, gradient: &Tensor) -> Tensor {
    let gradient = gradient.contiguous();
    let width = halved(&mut projected.size());
    let result = projected.empty_like();
    let (numbers, gradients, to) = (floats(projected), floats(&gradient), Shared::new(&result));
    for_each_row(gradient.numel() / width, width, |row| {
        let halves = numbers[2 * row * width..][..2 * width].split_at(width);
        // SAFETY: every row is written once.
        let written = unsafe { to.part(2 * row * width, 2 * width) }.split_at_mut(width);
        // SAFETY: `suits` asked for the feature.
        unsafe { vectorised::put_gradients(halves, &gradients[row * width..][..width], written) };
    });
    result
}

/// Makes the last size that of a half, and tells it.
fn halved(size: &mut [i64]) -> usize {
    let last = size.last_mut().expect("features have sizes");
    debug_assert!(*last % 2 == 0);
    *last /= 2;
    *last as usize
}

fn for_each_row(rows: usize, width: usize, body: impl Fn(usize) + Sync) {
    let rows_at_once = AT_ONCE.div_ceil(width);
    for_each(rows.div_ceil(rows_at_once), |part| {
        (part * rows_at_once..rows.min((part + 1) * rows_at_once)).for_each(&body);
    });
}

/// The loops, in vectors of eight numbers: the compiler makes them of what is inlined here.
mod vectorised {
    #[target_feature(enable = "avx2,fma")]
    pub(super) fn put_gated(value: &[f32], gate: &[f32], to: &mut [f32]) {
        super::put_gated(value, gate, to);
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn put_gradients(halves: (&[f32], &[f32]), gradient: &[f32], written: (&mut [f32], &mut [f32])) {
        super::put_gradients(halves, gradient, written);
    }
}

#[inline(always)]
fn put_gated(value: &[f32], gate: &[f32], to: &mut [f32]) {
    for ((value, gate), to) in value.iter().zip(gate).zip(to) {
        *to = value * (gate * Normal::at(*gate).below);
    }
}

/// `gelu'(x) = Φ(x) + x φ(x)`.
#[inline(always)]
fn put_gradients((value, gate): (&[f32], &[f32]), gradient: &[f32], (of_value, of_gate): (&mut [f32], &mut [f32])) {
    let read = value.iter().zip(gate).zip(gradient);
    for (((value, gate), gradient), (of_value, of_gate)) in read.zip(of_value.iter_mut().zip(of_gate)) {
        let normal = Normal::at(*gate);
        *of_value = gradient * (gate * normal.below);
        *of_gate = gradient * value * gate.mul_add(normal.density, normal.below);
    }
}

/// The standard normal distribution at a place.
struct Normal {
    /// Φ, the probability of less.
    below: f32,
    density: f32,
}

impl Normal {
    /// After Abramowitz and Stegun, 7.1.26: `erfc(z) = (a₁t + … + a₅t⁵) e^(-z²)` with `t = 1 / (1 + pz)`, to 1.5e-7, as
    /// libtorch has it; from below zero without taking from 1.
    #[inline(always)]
    fn at(x: f32) -> Self {
        const P: f32 = 0.327_591_1;
        const SERIES: [f32; 5] = [1.061_405_4, -1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6];
        const FRAC_1_SQRT_TAU: f32 = 0.398_942_3;
        let t = 1.0 / x.abs().mul_add(P * FRAC_1_SQRT_2, 1.0);
        let sum = SERIES.iter().fold(0.0, |sum: f32, term| sum.mul_add(t, *term));
        // e^(-x²/2)
        let bell = exp2(x * x * (-0.5 * LOG2_E));
        let tail = 0.5 * (sum * t) * bell;
        Self { below: if x > 0.0 { 1.0 - tail } else { tail }, density: bell * FRAC_1_SQRT_TAU }
    }
}

/// `2^x` of what is not above 0; 0 where that is too small.
#[inline(always)]
fn exp2(x: f32) -> f32 {
    /// What is added to it becomes a whole number in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    let shifted = x + ROUND;
    let rest = x - (shifted - ROUND);
    let power = EXP2_SERIES.iter().fold(0.0, |sum: f32, term| sum.mul_add(rest, *term));
    let scaled = f32::from_bits(power.to_bits().wrapping_add(shifted.to_bits() << 23));
    if x < -126.0 { 0.0 } else { scaled }
}
