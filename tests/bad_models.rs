//! Models whose parts do not belong together, or ask for what is not computed here: refused by file and field before
//! anything is drawn or trained.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use ipa_clip::ClipModel;
use ipa_core::save_tensors;
use ipa_core::tch::{Device, Kind, Tensor};
use ipa_formats::ModelFiles;
use ipa_sample::{GenerateRequest, ImageEncoder, Pipeline, PipelineError};
use ipa_train::FrozenModels;
use serde_json::{Value, json};
use support::{F32, Fixture, tiny_sd};
use tempfile::TempDir;

const UNET: &str = "unet/config.json";
const VAE: &str = "vae/config.json";
const SCHEDULER: &str = "scheduler/scheduler_config.json";

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy_folder(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).unwrap()),
        }
    }
}

/// The tiny model in a folder of its own, with one field of one file changed.
fn model_with(file: &str, field: &str, value: Value) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    copy_folder(&tiny_sd(""), folder.path());
    let path = folder.path().join(file);
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config[field] = value;
    fs::write(path, config.to_string()).unwrap();
    folder
}

fn checked(model: &Path, request: &GenerateRequest) -> Result<(), PipelineError> {
    Pipeline::check(&ModelFiles::open(model)?, request)
}

#[track_caller]
fn assert_says(error: &str, words: &[&str]) {
    let missing: Vec<_> = words.iter().filter(|word| !error.contains(**word)).collect();
    assert!(missing.is_empty(), "nothing of {missing:?} in: {error}");
}

/// Asserts that a model can neither draw nor be trained on.
#[track_caller]
fn assert_refused(file: &str, field: &str, value: Value, words: &[&str]) {
    let model = model_with(file, field, value);
    for error in [
        Pipeline::load(model.path(), F32).unwrap_err().to_string(),
        FrozenModels::load(model.path(), None, F32).unwrap_err().to_string(),
    ] {
        assert_says(&error, &[&[field], words].concat());
    }
}

#[test]
fn parts_of_different_models() {
    let [unet, vae, text] = ["of unet/config.json", "of vae/config.json", "of text_encoder/config.json"];
    assert_refused(UNET, "in_channels", json!(8), &[unet, "is 8", vae, "`latent_channels`", "is 4"]);
    assert_refused(UNET, "out_channels", json!(8), &[unet, "is 8", vae, "`latent_channels`", "is 4"]);
    assert_refused(UNET, "cross_attention_dim", json!(40), &[unet, "is 40", text, "`hidden_size`", "is 32"]);
}

#[test]
fn a_tokenizer_of_more_places_than_the_text_tower() {
    let model = model_with("tokenizer/tokenizer_config.json", "model_max_length", json!(128));
    let words = ["tokenizer", "`max_position_embeddings`", "128", "77"];
    assert_says(&Pipeline::load(model.path(), F32).unwrap_err().to_string(), &words);
    assert_says(&FrozenModels::load(model.path(), None, F32).unwrap_err().to_string(), &words);
}

#[test]
fn sizes_that_are_not_computed() {
    assert_refused(VAE, "out_channels", json!(1), &[VAE, "is 1"]);
    for side in [-1, 0, 1_i64 << 62] {
        assert_refused(UNET, "sample_size", json!(side), &[UNET, &format!("is {side}")]);
    }
}

#[test]
fn noise_schedules_that_are_not_computed() {
    let refused = |field: &str, value: Value, words: &[&str]| {
        let model = model_with(SCHEDULER, field, value);
        for error in [
            checked(model.path(), &GenerateRequest::default()).unwrap_err().to_string(),
            FrozenModels::load(model.path(), None, F32).unwrap_err().to_string(),
        ] {
            assert_says(&error, &[&[SCHEDULER, field], words].concat());
        }
    };
    refused("trained_betas", json!([0.1, 0.2]), &[]);
    for number in [-1, 0, 1_000_000_000_000_i64] {
        refused("num_train_timesteps", json!(number), &[&format!("is {number}")]);
    }
}

#[test]
fn an_image_processor_of_another_encoder() {
    let file = "feature_extractor/preprocessor_config.json";
    for side in [16, 64] {
        let model = model_with(file, "crop_size", json!({"height": side, "width": side}));
        let error = ImageEncoder::of_model(&ModelFiles::open(model.path()).unwrap(), None, F32).unwrap_err();
        assert_says(&error.to_string(), &[file, &format!("{side} x {side} pixels"), "32 x 32"]);
    }
}

/// Makes the VAE's pixels some 100,000 times as large.
fn with_loud_vae() -> TempDir {
    let model = model_with(VAE, "latent_channels", json!(4));
    let file = model.path().join("vae/diffusion_pytorch_model.safetensors");
    let louder = |(name, tensor): (String, Tensor)| {
        let tensor = if name == "decoder.conv_out.weight" { tensor * 1e5 } else { tensor };
        (name, tensor.to_kind(Kind::Half).clamp(-6e4, 6e4))
    };
    save_tensors(&file, Fixture::read(&file).into_iter().map(louder), None).unwrap();
    model
}

#[test]
fn a_vae_that_overflows_in_half_precision_decodes_in_full() {
    let model = with_loud_vae();
    let half = Pipeline::load(model.path(), (Device::Cpu, Kind::Half)).unwrap();
    let request = GenerateRequest { num_steps: 1, ..GenerateRequest::default() };
    let drawn = half.generate(&request, &[], |_| ControlFlow::Continue(())).unwrap();
    assert!(drawn.vae_in_f32);
    let full = Pipeline::load(model.path(), F32).unwrap().decode(&drawn.latents.to_kind(Kind::Float), false).unwrap();
    assert!(full.pictures == drawn.pictures && !full.in_f32);
}

#[test]
fn weights_files_where_folders_belong() {
    let file = tiny_sd("image_encoder/model.safetensors");
    let words = [file.to_str().unwrap(), "is a file", "folder", "config.json"];
    assert_says(&ImageEncoder::load(&file, None, F32).unwrap_err().to_string(), &words);
    assert_says(&ClipModel::load(&file, F32).unwrap_err().to_string(), &words);
}

#[test]
fn a_request_is_checked_without_weights() {
    let model = model_with(SCHEDULER, "_class_name", json!("DEISMultistepScheduler"));
    fs::remove_file(model.path().join("unet/diffusion_pytorch_model.safetensors")).unwrap();
    let check = |scheduler: Option<&str>, num_steps| {
        let scheduler = scheduler.map(str::to_owned);
        checked(model.path(), &GenerateRequest { scheduler, num_steps, ..Default::default() })
    };
    assert!(check(Some("ddim"), 1000).is_ok());
    assert!(matches!(check(None, 50), Err(PipelineError::Sampler { name }) if name == "DEISMultistepScheduler"));
    assert!(matches!(check(Some("dpm"), 50), Err(PipelineError::Request(_))));
    assert!(matches!(check(Some("ddim"), 0), Err(PipelineError::Request(_))));
    let skipping = |clip_skip| GenerateRequest { clip_skip, scheduler: Some("ddim".into()), ..Default::default() };
    assert!(checked(model.path(), &skipping(2)).is_ok());
    assert!(checked(model.path(), &skipping(3)).unwrap_err().to_string().contains("`clip_skip` is 3"));
    let model = model_with(SCHEDULER, "num_train_timesteps", json!(10));
    let request = GenerateRequest { num_steps: 11, ..Default::default() };
    assert!(matches!(checked(model.path(), &request), Err(PipelineError::Request(_))));
}

#[test]
fn pixels_that_are_not_numbers_are_no_picture() {
    let model = model_with(VAE, "sample_size", json!(128));
    let weights = model.path().join("vae/diffusion_pytorch_model.safetensors");
    let spoil = |(name, tensor): (String, Tensor)| match name.as_str() {
        "decoder.conv_out.bias" => (name, tensor.full_like(f64::NAN)),
        _ => (name, tensor),
    };
    let tensors: Vec<_> = Fixture::read(&weights).into_iter().map(spoil).collect();
    save_tensors(&weights, tensors, None).unwrap();
    let request = GenerateRequest { num_steps: 1, width: Some(64), height: Some(64), ..Default::default() };
    let pipeline = Pipeline::load(model.path(), F32).unwrap();
    let error = pipeline.generate(&request, &[], |_| ControlFlow::Continue(())).unwrap_err();
    assert!(matches!(error, PipelineError::NotANumber), "{error}");
}
