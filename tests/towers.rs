//! Tokenizer, text towers, vision tower and preprocessing against transformers.
//! Reference values: tests/fixtures/models.py
#![allow(clippy::unwrap_used)]

mod support;

use image::RgbImage;
use ipa_clip::{ClipTokenizer, ImageProcessor, TextFeatures, TextTower, VisionFeatures, VisionTower, pixel_tensor};
use ipa_core::read_config;
use ipa_core::tch::Tensor;
use serde_json::Value;
use support::{F32, Fixture, TOLERANCE, assert_close, fixture_path, relative_error, tiny_sd};

/// Texts with the ids that the reference gives them.
fn tokenized() -> Vec<(String, Vec<i64>)> {
    let rows: Vec<Value> = serde_json::from_slice(&std::fs::read(fixture_path("models/tokens.json")).unwrap()).unwrap();
    let row =
        |row: Value| (row["text"].as_str().unwrap().to_owned(), serde_json::from_value(row["ids"].clone()).unwrap());
    rows.into_iter().map(row).collect()
}

fn tokenizer() -> ClipTokenizer {
    ClipTokenizer::from_folder(&tiny_sd("tokenizer")).unwrap()
}

#[test]
fn token_ids_are_those_of_the_reference() {
    let tokenizer = tokenizer();
    for (text, ids) in tokenized() {
        assert_eq!(tokenizer.encode(&text).unwrap(), ids, "{text:?}");
    }
}

#[test]
fn a_text_that_fills_every_position_is_said_to_overflow_and_no_other_is() {
    let tokenizer = tokenizer();
    let last_word = tokenizer.max_length() - 2;
    let mut num_cut = 0;
    for (text, ids) in tokenized() {
        let is_cut = ids[last_word] != tokenizer.pad_id();
        assert_eq!(tokenizer.overflow(&text).is_some(), is_cut, "{text:?}");
        num_cut += usize::from(is_cut);
    }
    assert_eq!(num_cut, 1);
}

/// The text tower without projection, whose file leaves out the prefix `text_model.`.
fn text_features() -> (TextFeatures, Fixture) {
    let fixture = Fixture::open("models/text");
    let tower = TextTower::load(&tiny_sd("text_encoder"), F32).unwrap();
    (tower.forward(&fixture["input_ids"]), fixture)
}

#[test]
fn every_hidden_state_of_the_text_tower_matches() {
    let (features, fixture) = text_features();
    assert_eq!(features.hidden_states.len(), 3);
    for (index, hidden) in features.hidden_states.iter().enumerate() {
        let error = relative_error(hidden, &fixture[&format!("hidden_states.{index}")]);
        assert!(error <= TOLERANCE, "hidden state {index}: {error:.2e}");
    }
}

#[test]
fn the_normalised_last_hidden_state_matches() {
    let (features, fixture) = text_features();
    assert_close(&features.last_hidden_state, &fixture["last_hidden_state"], TOLERANCE);
}

#[test]
fn texts_are_pooled_at_their_first_end_token() {
    let (features, fixture) = text_features();
    assert_close(&features.pooled, &fixture["pooler_output"], TOLERANCE);
}

#[test]
fn a_tower_without_projection_gives_no_text_embeds() {
    assert!(text_features().0.text_embeds.is_none());
}

/// The text tower with projection, whose file has the prefix `text_model.`.
fn projected_features() -> (TextFeatures, Fixture) {
    let fixture = Fixture::open("models/text");
    let tower = TextTower::load(&fixture_path("models/text_projection"), F32).unwrap();
    (tower.forward(&fixture["input_ids"]), fixture)
}

#[test]
fn the_last_hidden_state_of_a_tower_with_projection_matches() {
    let (features, fixture) = projected_features();
    assert_close(&features.last_hidden_state, &fixture["projection.last_hidden_state"], TOLERANCE);
}

#[test]
fn projected_text_embeds_match() {
    let (features, fixture) = projected_features();
    assert_close(&features.text_embeds.unwrap(), &fixture["projection.text_embeds"], TOLERANCE);
}

/// Features of random pixels and of zeros, as the `plus` adapters' unconditional branch needs.
fn vision_features() -> (VisionFeatures, VisionFeatures, Fixture) {
    let fixture = Fixture::open("models/vision");
    let tower = VisionTower::load(&tiny_sd("image_encoder"), F32).unwrap();
    let zeros = Tensor::zeros([1, 3, 32, 32], (F32.1, F32.0));
    (tower.forward(&fixture["pixel_values"]), tower.forward(&zeros), fixture)
}

#[test]
fn image_embeds_match() {
    let (features, zero, fixture) = vision_features();
    assert_close(&features.image_embeds, &fixture["image_embeds"], TOLERANCE);
    assert_close(&zero.image_embeds, &fixture["zero.image_embeds"], TOLERANCE);
}

#[test]
fn penultimate_image_features_match() {
    let (features, zero, fixture) = vision_features();
    assert_close(&features.penultimate, &fixture["penultimate"], TOLERANCE);
    assert_close(&zero.penultimate, &fixture["zero.penultimate"], TOLERANCE);
}

/// A picture from bytes `[height, width, 3]`.
fn picture(bytes: &Tensor) -> RgbImage {
    let (height, width, _) = bytes.size3().unwrap();
    RgbImage::from_raw(width as u32, height as u32, Vec::try_from(bytes.view([-1])).unwrap()).unwrap()
}

#[test]
fn pictures_of_every_shape_are_preprocessed_as_the_reference_does() {
    let fixture = Fixture::open("models/preprocess");
    let tower = read_config(&tiny_sd("image_encoder")).unwrap();
    let processor = ImageProcessor::for_tower(&tiny_sd("feature_extractor"), &tower).unwrap();
    let sizes: Vec<&str> = fixture.names().filter_map(|name| name.strip_suffix(".input")).collect();
    assert_eq!(sizes.len(), 9);
    for size in sizes {
        let pixel_values = pixel_tensor(&processor, &[picture(&fixture[&format!("{size}.input")])]);
        let error = relative_error(&pixel_values.squeeze_dim(0), &fixture[&format!("{size}.pixel_values")]);
        assert!(error <= TOLERANCE, "{size}: {error:.2e}");
    }
}
