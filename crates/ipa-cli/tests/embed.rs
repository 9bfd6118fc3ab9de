//! `ipa embed`: names, shapes and numbers of what it writes.
//! Reference values: tests/fixtures/pictures.py and tests/fixtures/models.py
#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;

use serde_json::json;
use support::Ipa;
use support::files::{Values, entries_below, fixture, read_values, relative_error, shapes, tiny_sd};

/// Orders of summation differ.
const TOLERANCE: f64 = 1e-5;
/// Added to the variance under the root of a layer normalisation.
const NORM_EPS: f64 = 1e-5;
/// Tokens an image becomes, and their width in the tiny model.
const TOKENS: [usize; 2] = [4, 32];

/// Embeds pictures of tests/fixtures/pictures, in this order.
fn embed(images: &[&str], output: &Path) -> Ipa {
    let path = |name: &str| fixture("pictures").join(name);
    let command = Ipa::embed(&tiny_sd("ip_adapter.safetensors"), &path(images[0]), output);
    images[1..].iter().fold(command, |command, name| command.and("--image").and(path(name)))
}

#[track_caller]
fn assert_close(found: &[f32], expected: &[f32]) {
    let error = relative_error(found, expected);
    assert!(error <= TOLERANCE, "relative error {error:.2e}");
}

/// `LN(W e + b)`, normalised over each token (arXiv:2308.06721 §3.2.1), from the adapter's file alone.
fn project(image_embed: &[f32]) -> Vec<f32> {
    let adapter = read_values(&tiny_sd("ip_adapter.safetensors"));
    let part = |name: &str| adapter[&format!("image_proj.{name}")].values.iter().map(|&value| f64::from(value));
    let [weight, bias, scale, shift] =
        ["proj.weight", "proj.bias", "norm.weight", "norm.bias"].map(|name| part(name).collect::<Vec<f64>>());
    let row = |(weights, bias): (&[f64], &f64)| {
        weights.iter().zip(image_embed).map(|(weight, &value)| weight * f64::from(value)).sum::<f64>() + bias
    };
    let projected: Vec<f64> = weight.chunks(image_embed.len()).zip(&bias).map(row).collect();
    let norm = |token: &[f64]| {
        let mean = token.iter().sum::<f64>() / token.len() as f64;
        let variance = token.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / token.len() as f64;
        let deviation = (variance + NORM_EPS).sqrt();
        let affine =
            |((value, scale), shift): ((&f64, &f64), &f64)| ((value - mean) / deviation * scale + shift) as f32;
        token.iter().zip(&scale).zip(&shift).map(affine).collect::<Vec<f32>>()
    };
    projected.chunks(TOKENS[1]).flat_map(norm).collect()
}

#[test]
fn image_embeds_are_those_of_the_reference() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("embeds.safetensors");
    embed(&["wide.png", "tall.jpg", "rotated.jpg"], &output).run().done();
    let found = &read_values(&output)["image_embeds"];
    let width = found.shape[1];
    for (index, case) in ["scale_0.55", "jpeg", "jpeg_rotated_by_exif"].into_iter().enumerate() {
        let expected = &read_values(&fixture(&format!("pictures/{case}.safetensors")))["image_embeds"];
        assert_close(&found.values[index * width..][..width], &expected.values);
    }
}

#[test]
fn tokens_are_the_projection_of_the_embeddings() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("embeds.safetensors");
    embed(&["wide.png"], &output).run().done();
    let found = read_values(&output);
    assert_close(&found["ip_tokens"].values, &project(&found["image_embeds"].values));
    let expected = &read_values(&fixture("models/adapter.safetensors"))["uncond_ip_tokens"];
    let Values { shape, values } = &found["uncond_ip_tokens"];
    assert_eq!(shape, &[1, TOKENS[0], TOKENS[1]]);
    assert_close(values, &expected.values[..values.len()]); // the reference has the same row twice
}

#[test]
fn every_image_is_a_row_and_the_file_holds_three_tensors() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("new/embeds.safetensors");
    let lines = embed(&["wide.png", "tall.jpg"], &output).and("--json").run().done().json_lines();
    let found: Vec<_> = shapes(&output).into_iter().collect();
    let expected = [("image_embeds", vec![2, 24]), ("ip_tokens", vec![2, 4, 32]), ("uncond_ip_tokens", vec![1, 4, 32])];
    assert_eq!(found, expected.clone().map(|(name, shape)| (name.to_owned(), shape)));
    assert_eq!(entries_below(folder.path()), ["new", "new/embeds.safetensors"]);

    let [line] = lines.as_slice() else { panic!("{lines:#?}") };
    assert_eq!(line["file"], json!(output));
    for (name, shape) in expected {
        assert_eq!(line[name], json!(shape), "{name}");
    }
}

/// Reference values: tests/fixtures/variants.py
#[test]
fn adapters_that_look_at_details_embed_the_features_before_the_last_layer() {
    for kind in ["plus", "full_face"] {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("embeds.safetensors");
        let adapter = fixture("variants").join(format!("{kind}.safetensors"));
        Ipa::embed(&adapter, &fixture("pictures").join("wide.png"), &output).run().done();
        let (found, expected) =
            (read_values(&output), read_values(&fixture("variants").join(format!("{kind}.expected.safetensors"))));
        let pairs =
            [("image_embeds", "features"), ("ip_tokens", "ip_tokens"), ("uncond_ip_tokens", "uncond_ip_tokens")];
        for (ours, theirs) in pairs {
            assert_eq!(found[ours].shape, expected[theirs].shape, "{kind}: {ours}");
            assert_close(&found[ours].values, &expected[theirs].values);
        }
    }
}
