//! The autoencoder against diffusers' `AutoencoderKL`.
//! Reference values: tests/fixtures/models.py
#![allow(clippy::unwrap_used)]

mod support;

use ipa_core::save_tensors;
use ipa_vae::{DiagonalGaussian, Vae};
use support::{F32, Fixture, TOLERANCE, assert_close, tiny_sd};

fn fixture() -> Fixture {
    Fixture::open("models/vae")
}

fn vae() -> Vae {
    Vae::load(&tiny_sd("vae"), F32).unwrap()
}

fn encoded(fixture: &Fixture) -> DiagonalGaussian {
    vae().encode(&fixture["pixels"])
}

#[test]
fn the_mean_of_encoded_pixels_matches() {
    let fixture = fixture();
    assert_close(&encoded(&fixture).mean, &fixture["mean"], TOLERANCE);
}

#[test]
fn the_log_variance_of_encoded_pixels_matches() {
    let fixture = fixture();
    assert_close(&encoded(&fixture).logvar, &fixture["logvar"], TOLERANCE);
}

#[test]
fn decoded_latents_match() {
    let fixture = fixture();
    assert_close(&vae().decode(&fixture["latents"]), &fixture["decoded"], TOLERANCE);
}

#[test]
fn a_sample_is_the_mean_moved_by_noise_times_the_deviation() {
    let fixture = fixture();
    let posterior = DiagonalGaussian { mean: fixture["mean"].copy(), logvar: fixture["logvar"].copy() };
    let noise = fixture["mean"].ones_like();
    let variance = (posterior.sample(&noise) - &posterior.mean).square();
    assert_close(&variance, &fixture["logvar"].exp(), TOLERANCE);
}

/// Published files from before 2023 name the attention's layers so.
fn older_name(name: String) -> String {
    [(".to_q.", ".query."), (".to_k.", ".key."), (".to_v.", ".value."), (".to_out.0.", ".proj_attn.")]
        .iter()
        .fold(name, |name, (new, old)| name.replace(new, old))
}

#[test]
fn files_with_the_older_attention_names_decode_the_same() {
    let file = "diffusion_pytorch_model.safetensors";
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(tiny_sd("vae/config.json"), folder.path().join("config.json")).unwrap();
    let weights = Fixture::read(&tiny_sd("vae").join(file));
    let num_attention = weights.names().filter(|name| name.contains(".to_")).count();
    assert_eq!(num_attention, 16);
    let renamed = weights.into_iter().map(|(name, tensor)| (older_name(name), tensor));
    save_tensors(&folder.path().join(file), renamed, None).unwrap();

    let latents = &fixture()["latents"];
    assert!(Vae::load(folder.path(), F32).unwrap().decode(latents).equal(&vae().decode(latents)));
}
