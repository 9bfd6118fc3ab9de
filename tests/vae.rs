//! The autoencoder against diffusers' `AutoencoderKL`.
//! Reference values: tests/fixtures/models.py
#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;

use ipa_core::save_tensors;
use ipa_core::tch::{Kind, Tensor};
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

/// The tiny VAE as one that was trained at 64 pixels, whose tiles are as large.
fn trained_at_64() -> (tempfile::TempDir, Vae) {
    let folder = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(tiny_sd("vae")).unwrap().map(|entry| entry.unwrap().path()) {
        std::fs::copy(&file, folder.path().join(file.file_name().unwrap())).unwrap();
    }
    let path = folder.path().join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config["sample_size"] = 64.into();
    std::fs::write(path, config.to_string()).unwrap();
    let vae = Vae::load(folder.path(), F32).unwrap();
    (folder, vae)
}

#[test]
fn what_fits_one_tile_is_not_cut() {
    let (fixture, (_folder, vae)) = (fixture(), trained_at_64());
    assert!(vae.decode_tiled(&fixture["latents"]).equal(&vae.decode(&fixture["latents"])));
    assert!(vae.encode_tiled(&fixture["pixels"]).mean.equal(&encoded(&fixture).mean));
}

/// How much rows, or columns, differ from the ones before them, `[n − 1]`.
fn steps(pixels: &Tensor, axis: i64) -> Tensor {
    let others = if axis == 2 { [0, 1, 3] } else { [0, 1, 2] };
    pixels.diff::<Tensor>(1, axis, None, None).abs().mean_dim(others.as_slice(), false, None::<Kind>)
}

/// Every tile of `side` latents decoded by itself, side by side.
fn cut_hard(vae: &Vae, latents: &Tensor, side: i64) -> Tensor {
    let (height, width) = (latents.size()[2], latents.size()[3]);
    let row = |top: i64| {
        let strip = latents.narrow(2, top, side);
        let starts = (0..width).step_by(side as usize);
        Tensor::cat(&starts.map(|left| vae.decode(&strip.narrow(3, left, side))).collect::<Vec<_>>(), 3)
    };
    Tensor::cat(&(0..height).step_by(side as usize).map(row).collect::<Vec<_>>(), 2)
}

/// The trained autoencoder of the pocket model, on pictures of 4 by 3 of its tiles with shades and edges.
#[test]
fn tiles_leave_no_seam() {
    let pocket = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/pocket/vae");
    let vae = Vae::load(&pocket, F32).unwrap();
    let picture = image::RgbImage::from_fn(256, 192, |x, y| {
        let inside = (x as f64 - 120.0).hypot(y as f64 - 90.0) < 60.0;
        if inside { image::Rgb([220, 60, 50]) } else { image::Rgb([90 + (x / 4) as u8, 120, 200 - (y / 2) as u8]) }
    });
    let pixels = ipa_core::picture::to_pixels(&[picture]);
    let latents = vae.encode(&pixels).mean;
    let (whole, cut) = (vae.decode(&latents), cut_hard(&vae, &latents, 16));
    let tiled = vae.decode_tiled(&vae.encode_tiled(&pixels).mean);
    let error = (&tiled - &whole).square().mean(Kind::Float).sqrt().double_value(&[]);
    assert!(error < 0.1, "root mean square {error} of a range of 2");
    for axis in [2, 3] {
        let worst = |of: &Tensor| (steps(of, axis) - steps(&whole, axis)).max().double_value(&[]);
        let share = worst(&tiled) / worst(&cut);
        assert!(share < 0.2, "axis {axis}: steps of {share} of those of tiles put side by side");
    }
}

#[test]
fn long_thin_pictures_are_cut_into_tiles_too() {
    let (_folder, vae) = trained_at_64();
    for (height, width) in [(8, 512), (512, 8), (72, 8)] {
        let pixels = Tensor::zeros([1, 3, height, width], (Kind::Float, F32.0));
        let latents = vae.encode_tiled(&pixels).mean;
        assert_eq!(latents.size(), [1, 4, height / 8, width / 8]);
        assert_eq!(vae.decode_tiled(&latents).size(), pixels.size());
    }
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
