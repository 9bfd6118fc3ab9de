//! A picture drawn with an adapter trained here, by diffusers and by this project.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Result;
use ipa_clip::load_image;
use ipa_core::tch::Tensor;
use ipa_sample::{GenerateRequest, Pipeline};
use ipa_train::{Dataset, FrozenModels, TrainConfig, Trainer};
use serde_json::json;
use tempfile::tempdir;

use crate::F32;
use crate::outcome::{Comparison, Outcome, num_parameters};
use crate::reference::Reference;

const TINY_SD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tiny_sd");
const PICTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/pictures/wide.png");
/// Guidance amplifies rounding at every step.
const LATENTS_TOLERANCE: f64 = 1e-3;
/// Two levels of the 255 of a channel.
const PICTURE_TOLERANCE: f64 = 2.0 / 255.0;

/// Compares latents and picture of one request; `trained` are a model's folder and an adapter file that belongs to it.
pub(crate) fn picture(trained: Option<(&Path, &Path)>) -> Result<Outcome> {
    let folder = tempdir()?;
    let (model, file) = match trained {
        Some((model, file)) => (model.to_owned(), file.to_owned()),
        None => (PathBuf::from(TINY_SD), train(folder.path())?),
    };
    let request = GenerateRequest {
        prompt: "a photo of a cat in a garden".to_owned(),
        images: vec![PICTURE.into()],
        scale: 0.8,
        scheduler: Some("ddim".to_owned()),
        num_steps: 8,
        seed: 42,
        ..GenerateRequest::default()
    };
    fs::write(folder.path().join("request.json"), serde_json::to_vec(&request)?)?;
    let reference = Reference::make("adapter", folder, &[&model, &file])?;

    let start = Instant::now();
    let pipeline = Pipeline::load(&model, F32)?.with_adapter(&file, None)?;
    let (load, start) = (start.elapsed(), Instant::now());
    let references = [load_image(Path::new(PICTURE))?];
    let generated = pipeline.generate(&request, &references, |_| ControlFlow::Continue(()))?;
    let here = start.elapsed();

    let (width, height) = generated.pictures[0].dimensions();
    let picture = Tensor::from_slice(generated.pictures[0].as_raw()).view([i64::from(height), i64::from(width), 3]);
    let latents = (&generated.latents, reference.output("latents")?);
    let comparisons = vec![
        Comparison::relative("latents", latents.0, &latents.1, LATENTS_TOLERANCE)?,
        Comparison::within("picture", &picture, &reference.output("picture")?, 255.0, PICTURE_TOLERANCE)?,
    ];
    let num_parameters = num_parameters(&[&file])?;
    Ok(Outcome { name: "adapter", num_parameters, load, here, reference: reference.forward_time()?, comparisons })
}

/// Ten steps on the tests' tiny model, of one picture.
fn train(folder: &Path) -> Result<PathBuf> {
    fs::copy(PICTURE, folder.join("wide.png"))?;
    let list = folder.join("data.json");
    let row = json!({ "image_file": "wide.png", "text": "a photo of the old house" });
    fs::write(&list, json!([row]).to_string())?;
    let models = FrozenModels::load(Path::new(TINY_SD), None, F32)?;
    let dataset = Dataset::open(&list)?;
    let mut trainer = Trainer::new(&models, &dataset, TrainConfig::mini(64), None)?;
    trainer.run(folder, |_| ControlFlow::Continue(()))?;
    Ok(folder.join("ip_adapter.safetensors"))
}
