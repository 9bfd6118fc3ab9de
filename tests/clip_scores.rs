//! CLIP-I and CLIP-T against transformers' `CLIPModel`, from picture files and captions to cosines.
//! Reference values: tests/fixtures/clip_scores.py
#![allow(clippy::unwrap_used)]

mod support;

use image::RgbImage;
use ipa_clip::{ClipModel, load_image};
use ipa_core::tch::Tensor;
use ipa_train::pretrain::scores::cosines;
use serde_json::Value;
use support::{F32, fixture_path};

const TOLERANCE: f64 = 1e-5;

/// Cosines of every picture with every one of the others.
fn assert_cosines(pictures: &Tensor, others: &Tensor, expected: &Value) {
    let expected: Vec<Vec<f64>> = serde_json::from_value(expected.clone()).unwrap();
    assert_eq!([expected.len() as i64, expected[0].len() as i64], [pictures.size()[0], others.size()[0]]);
    for (row, expected) in expected.iter().enumerate() {
        let repeated = pictures.narrow(0, row as i64, 1).expand_as(others);
        for (found, expected) in cosines(&repeated, others).unwrap().iter().zip(expected) {
            assert!((found - expected).abs() < TOLERANCE, "picture {row}: {found} is not {expected}");
        }
    }
}

#[test]
fn cosines_are_those_of_transformers() {
    let bytes = std::fs::read(fixture_path("metrics/clip.json")).unwrap();
    let values: Value = serde_json::from_slice(&bytes).unwrap();
    let names = |field: &str| serde_json::from_value::<Vec<String>>(values[field].clone()).unwrap();
    let clip = ClipModel::load("assets/pocket/clip".as_ref(), F32).unwrap();
    let pictures: Vec<RgbImage> =
        names("pictures").iter().map(|name| load_image(&fixture_path(name)).unwrap()).collect();
    let captions = names("captions");
    let images = clip.image_embeds(&pictures);
    let texts = clip.text_embeds(&captions.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
    assert_cosines(&images, &images, &values["clip_i"]);
    assert_cosines(&images, &texts, &values["clip_t"]);
}
