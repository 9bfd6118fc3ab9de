//! Every score against an independent implementation. Reference values: tests/fixtures/metrics.py
#![allow(clippy::unwrap_used)]

use std::path::Path;

use image::RgbImage;
use ipa_metrics::{
    MetricsError, clip_scores, cosines, frechet_distance, mean_pairwise_distance, psnr, ref_clip_scores, ssim,
    torchmetrics_clip_score,
};
use ndarray::{Array2, ArrayView2};
use serde_json::Value;

const TOLERANCE: f64 = 1e-5;

fn values() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/metrics/values.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn matrix(rows: &Value) -> Array2<f32> {
    let rows: Vec<Vec<f32>> = serde_json::from_value(rows.clone()).unwrap();
    Array2::from_shape_vec((rows.len(), rows[0].len()), rows.concat()).unwrap()
}

fn numbers(values: &Value) -> Vec<f64> {
    serde_json::from_value(values.clone()).unwrap()
}

#[track_caller]
fn assert_close(found: impl IntoIterator<Item = f64>, expected: &[f64]) {
    let found: Vec<f64> = found.into_iter().collect();
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() <= TOLERANCE * expected.abs().max(1.0), "{found}, expected {expected}");
    }
}

#[test]
fn clip_scores_are_those_of_their_definitions() {
    let values = values();
    let (images, captions) = (matrix(&values["images"]), matrix(&values["captions"]));
    let references: Vec<Array2<f32>> = values["references"].as_array().unwrap().iter().map(matrix).collect();
    let views: Vec<ArrayView2<f32>> = references.iter().map(|rows| rows.view()).collect();
    let (images, captions) = (images.view(), captions.view());
    assert_close(cosines(images, captions).unwrap(), &numbers(&values["cosines"]));
    assert_close(clip_scores(images, captions).unwrap(), &numbers(&values["clip_scores"]));
    assert_close(ref_clip_scores(images, captions, &views).unwrap(), &numbers(&values["ref_clip_scores"]));
    let expected = values["torchmetrics_clip_score"].as_f64().unwrap();
    assert_close([torchmetrics_clip_score(images, captions).unwrap()], &[expected]);
    let missing = ref_clip_scores(images, captions, &views[1..]);
    assert_eq!(missing, Err(MetricsError::Unpaired { left: 9, right: 8 }));
}

#[test]
fn the_frechet_distance_is_scipys() {
    let values = values();
    let (a, b) = (matrix(&values["sets"][0]), matrix(&values["sets"][1]));
    let expected = values["frechet_distance"].as_f64().unwrap();
    assert_close([frechet_distance(a.view(), b.view()).unwrap()], &[expected]);
    assert_close([frechet_distance(b.view(), a.view()).unwrap()], &[expected]);
}

#[test]
fn psnr_and_ssim_are_scikit_images() {
    let values = values();
    let picture = |rows: &Value| {
        let rows: Vec<Vec<[u8; 3]>> = serde_json::from_value(rows.clone()).unwrap();
        RgbImage::from_fn(rows[0].len() as u32, rows.len() as u32, |x, y| image::Rgb(rows[y as usize][x as usize]))
    };
    let (a, b) = (picture(&values["pictures"][0]), picture(&values["pictures"][1]));
    assert_close([psnr(&a, &b).unwrap()], &[values["psnr"].as_f64().unwrap()]);
    assert_close([ssim(&a, &b).unwrap()], &[values["ssim"].as_f64().unwrap()]);
}

#[test]
fn pairwise_distances_are_those_of_all_pairs() {
    let images = matrix(&values()["images"]);
    let mut sum = 0.0;
    for (index, row) in images.rows().into_iter().enumerate() {
        for other in images.rows().into_iter().skip(index + 1) {
            let pair = cosines(row.insert_axis(ndarray::Axis(0)), other.insert_axis(ndarray::Axis(0))).unwrap();
            sum += 1.0 - pair[0];
        }
    }
    assert_close([mean_pairwise_distance(images.view()).unwrap()], &[sum / 36.0]);
}
