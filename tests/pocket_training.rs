//! The training of the pocket model from nothing, a few steps of everything.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../examples/pocket/curves.rs"]
mod curves;
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
    workshop.curves().unwrap();
    let scores: serde_json::Value =
        serde_json::from_slice(&fs::read(folder.path().join("scores.json")).unwrap()).unwrap();
    assert!(scores["clip_i"]["mean"].is_number() && scores["autoencoder_psnr"]["mean"].is_number());
    assert!(image::open(folder.path().join("samples.png")).is_ok());
    assert!(fs::read_to_string(folder.path().join("losses.svg")).unwrap().contains("</svg>"));
    for stage in ["vae", "clip", "scorer", "unet", "adapter"] {
        let [first, last] = first_and_last_losses(&folder.path().join(stage));
        assert!(last < first, "{stage}: {first} to {last}");
    }
}

/// Means of the first and of the last ten.
fn first_and_last_losses(stage: &Path) -> [f32; 2] {
    let state = Checkpoint::open(&stage.join("state.safetensors")).unwrap();
    let losses = Vec::<f32>::try_from(state.tensor("losses").unwrap()).unwrap();
    [&losses[..10], &losses[losses.len() - 10..]].map(|losses| losses.iter().sum::<f32>() / 10.0)
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
