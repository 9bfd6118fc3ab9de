//! Classifier-free guidance, arXiv:2207.12598.

use ipa_core::tch::Tensor;

/// `u + g (c − u)` of a batch `[unconditional; conditional]`.
///
/// `guidance_scale` is 1 + w of the paper: 1 is no guidance.
pub fn guided(noise_pred: &Tensor, guidance_scale: f64) -> Tensor {
    let halves = noise_pred.chunk(2, 0);
    &halves[0] + (&halves[1] - &halves[0]) * guidance_scale
}
