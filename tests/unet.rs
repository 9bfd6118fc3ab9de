//! The UNet without any hook against diffusers' `UNet2DConditionModel`.
//! Reference values: tests/fixtures/models.py
#![allow(clippy::unwrap_used)]

mod support;

use ipa_core::tch::Tensor;
use ipa_unet::{NoHook, Unet};
use support::{F32, Fixture, TOLERANCE, assert_close, tiny_sd};

#[track_caller]
fn assert_noise_pred(sample: &str, timesteps: impl Fn(&Fixture) -> Tensor, output: &str) {
    let fixture = Fixture::open("models/unet");
    let unet = Unet::load(&tiny_sd("unet"), F32).unwrap();
    let context = &fixture["encoder_hidden_states"];
    let noise_pred = unet.forward(&fixture[sample], &timesteps(&fixture), context, &NoHook);
    assert_close(&noise_pred, &fixture[output], TOLERANCE);
}

#[test]
fn the_prediction_at_a_late_timestep_matches() {
    assert_noise_pred("sample", |_| Tensor::from(999_i64), "timestep_999.output");
}

#[test]
fn the_prediction_at_an_early_timestep_matches() {
    assert_noise_pred("sample", |_| Tensor::from(17_i64), "timestep_17.output");
}

#[test]
fn every_sample_of_a_batch_may_have_its_own_timestep() {
    assert_noise_pred("sample", |fixture| fixture["timesteps"].copy(), "timesteps.output");
}

#[test]
fn latents_that_no_level_halves_evenly_match() {
    assert_noise_pred("odd.sample", |_| Tensor::from(17_i64), "odd.timestep_17.output");
}
