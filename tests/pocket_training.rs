//! The training of the pocket model from nothing, a few steps of everything.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../examples/pocket/workshop.rs"]
mod workshop;

use std::fs;

use ipa_train::pretrain::Recipe;
use workshop::Workshop;

#[test]
fn every_stage_runs_and_the_model_draws() {
    let folder = tempfile::tempdir().unwrap();
    let workshop = Workshop { folder: folder.path().to_owned(), recipe: Recipe::short() };
    workshop.vae().unwrap();
    workshop.clip().unwrap();
    workshop.scorer().unwrap();
    workshop.unet().unwrap();
    workshop.adapter().unwrap();
    workshop.scores().unwrap();
    let scores: serde_json::Value =
        serde_json::from_slice(&fs::read(folder.path().join("scores.json")).unwrap()).unwrap();
    assert!(scores["clip_i"]["mean"].as_f64().unwrap().abs() <= 1.0);
    assert!(image::open(folder.path().join("samples.png")).is_ok());
}
