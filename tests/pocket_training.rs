//! The training of the pocket model from nothing, a few steps of everything.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../examples/pocket/workshop.rs"]
mod workshop;

use std::fs;
use std::path::Path;

use ipa_core::Checkpoint;
use ipa_train::pretrain::Recipe;
use workshop::Workshop;

#[test]
fn every_stage_runs_and_the_model_draws() {
    let folder = tempfile::tempdir().unwrap();
    let workshop = Workshop { folder: folder.path().to_owned(), recipe: Recipe::short(), from: None };
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

#[test]
fn a_finished_model_is_gone_on_from() {
    let folder = tempfile::tempdir().unwrap();
    let (from, folder) = (Path::new("assets/pocket"), folder.path().to_owned());
    let recipe = Recipe::short();
    let workshop = Workshop { folder: folder.clone(), recipe: recipe.clone(), from: Some(from.to_owned()) };
    workshop.adopt().unwrap();
    workshop.unet().unwrap();
    workshop.adapter().unwrap();
    let difference = |file: &str| {
        let open = |folder: &Path| Checkpoint::open(&folder.join(file)).unwrap();
        let (before, after) = (open(from), open(&folder.join("model")));
        let differ = |name: &str| {
            let (before, after) = (before.tensor(name).unwrap(), after.tensor(name).unwrap());
            (before - after).abs().max().double_value(&[])
        };
        before.names().map(differ).fold(0.0, f64::max)
    };
    for file in ["unet/diffusion_pytorch_model.safetensors", "ip_adapter.safetensors"] {
        let difference = difference(file);
        assert!(difference > 0.0 && difference < 0.05, "{file}: {difference}");
    }
}
