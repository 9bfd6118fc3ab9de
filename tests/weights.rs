//! A model draws the same from whichever files hold its weights.
//! Torch files: tests/fixtures/torch_files.py
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use ipa_core::tch::{Kind, Tensor};
use ipa_core::{Checkpoint, save_tensors};
use ipa_formats::{
    Component, ModelConversion, ModelConversionOptions, ModelFiles, ModelForm, ModelOptions, PredictionType,
    TensorBytes, TensorInfo, Weights, write_safetensors,
};
use ipa_sample::{GenerateRequest, Pipeline, PipelineError};
use serde_json::{Value, json};
use support::{F32, Fixture, completed, fixture_path, tiny_sd};

const UNET: &str = "unet/diffusion_pytorch_model.safetensors";
const TEXT: &str = "text_encoder/model.safetensors";
const ADAPTER: &str = "ip_adapter.safetensors";

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy_folder(&entry.path(), &to),
            false => assert!(fs::copy(entry.path(), to).is_ok()),
        }
    }
}

/// The tiny model in a folder of its own, changed.
fn model(change: impl FnOnce(&Path)) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    copy_folder(&tiny_sd(""), folder.path());
    change(folder.path());
    folder
}

fn latents(model: &Path, adapter: &Path) -> Tensor {
    drawn(Pipeline::load(model, F32).unwrap().with_adapter(adapter, None).unwrap())
}

fn drawn(pipeline: Pipeline) -> Tensor {
    let request = GenerateRequest { prompt: "a red square".into(), num_steps: 2, ..GenerateRequest::default() };
    let reference = image::RgbImage::from_fn(32, 32, |x, y| image::Rgb([x as u8 * 8, y as u8 * 8, 99]));
    pipeline.generate(&request, &[reference], |_| ControlFlow::Continue(())).unwrap().latents
}

fn assert_draws_the_same(model: &Path, adapter: &Path) {
    assert_eq!(latents(model, adapter), latents(&tiny_sd(""), &tiny_sd(ADAPTER)));
}

/// Puts the weights at `file` into two parts and an index called `index`.
fn split(file: &Path, index: &str) {
    let mut parts = [BTreeMap::new(), BTreeMap::new()];
    for (number, (name, tensor)) in Fixture::read(file).into_iter().enumerate() {
        parts[number % 2].insert(name, tensor);
    }
    fs::remove_file(file).unwrap();
    let mut weight_map = BTreeMap::new();
    for (number, part) in (1..).zip(parts) {
        let name = format!("part-{number}-of-2.safetensors");
        weight_map.extend(part.keys().map(|tensor| (tensor.clone(), name.clone())));
        save_tensors(&file.with_file_name(&name), part, None).unwrap();
    }
    let json = serde_json::json!({ "metadata": {}, "weight_map": weight_map });
    fs::write(file.with_file_name(index), json.to_string()).unwrap();
}

#[test]
fn pickled_weights_draw_the_same() {
    let model = model(|folder| {
        fs::remove_file(folder.join(TEXT)).unwrap();
        let pickle = fixture_path("torch_files/tiny_text_encoder.bin");
        fs::copy(pickle, folder.join("text_encoder/pytorch_model.bin")).unwrap();
    });
    assert_draws_the_same(model.path(), &fixture_path("torch_files/tiny_ip_adapter.bin"));
}

#[test]
fn weights_in_parts_draw_the_same() {
    for index in
        ["diffusion_pytorch_model.safetensors.index.json", "diffusion_pytorch_model.safetensors.index.fp16.json"]
    {
        let model = model(|folder| split(&folder.join(UNET), index));
        assert_draws_the_same(model.path(), &tiny_sd(ADAPTER));
    }
}

#[test]
fn weights_in_half_precision_are_within_its_rounding() {
    let model = model(|folder| {
        let half =
            Fixture::read(&folder.join(UNET)).into_iter().map(|(name, tensor)| (name, tensor.to_kind(Kind::Half)));
        save_tensors(&folder.join("unet/diffusion_pytorch_model.fp16.safetensors"), half, None).unwrap();
        fs::remove_file(folder.join(UNET)).unwrap();
    });
    let folder = model.path().join("unet");
    let variables = ipa_unet::Unet::load_with_variables(&folder, F32).unwrap().vs.variables();
    let full = Checkpoint::open(&tiny_sd(UNET)).unwrap();
    for (name, variable) in variables {
        let full = full.tensor(&name).unwrap();
        assert_eq!(variable, full.to_kind(Kind::Half).to_kind(Kind::Float), "{name}");
    }
}

fn set(config: &Path, fields: &[(&str, Value)]) {
    let mut value: Value = serde_json::from_slice(&fs::read(config).unwrap()).unwrap();
    for (field, new) in fields {
        value[field] = new.clone();
    }
    fs::write(config, value.to_string()).unwrap();
}

/// A tiny model with the numbers of heads and groups that single files are taken to have, which no tensor shows.
fn with_usual_numbers(model: &str) -> tempfile::TempDir {
    let (unet_heads, groups, text_heads) = match model {
        "tiny_sd" => (json!(8), 8, 1),
        _ => (json!([1, 2]), 16, 5),
    };
    let folder = completed(model);
    let unet = [("attention_head_dim", unet_heads), ("norm_num_groups", json!(groups))];
    set(&folder.path().join("unet/config.json"), &unet);
    set(&folder.path().join("text_encoder/config.json"), &[("num_attention_heads", json!(text_heads))]);
    folder
}

const ALL: [Component; 3] = [Component::Unet, Component::Vae, Component::TextEncoder];

/// Writes a folder's single file elsewhere, with its tokenizer beside it.
fn single_file(folder: &Path, components: &[Component]) -> tempfile::TempDir {
    let elsewhere = tempfile::tempdir().unwrap();
    let partial = tempfile::tempdir().unwrap();
    fs::write(partial.path().join("model_index.json"), "{}").unwrap();
    for part in components.iter().map(|component| component.folder()) {
        copy_folder(&folder.join(part), &partial.path().join(part));
    }
    let options = ModelConversionOptions { allow_missing: true, ..ModelConversionOptions::default() };
    let model = ModelConversion::plan(partial.path(), ModelForm::SingleFile, &options).unwrap();
    model.write(&elsewhere.path().join("model.safetensors")).unwrap();
    copy_folder(&folder.join("tokenizer"), &elsewhere.path().join("tokenizer"));
    elsewhere
}

fn of_single_file(folder: &Path, options: ModelOptions) -> Result<Pipeline, PipelineError> {
    let files = ModelFiles::open_with(&folder.join("model.safetensors"), options)?;
    Pipeline::load_files(files, F32)
}

#[test]
fn single_files_of_both_generations_draw_what_their_folders_draw() {
    for model in ["tiny_sd", "tiny_sd2"] {
        let folder = with_usual_numbers(model);
        let single = single_file(folder.path(), &ALL);
        let (adapter, encoder) = (folder.path().join(ADAPTER), folder.path().join("image_encoder"));
        // A 1.x tokenizer beside a 2.x file: what fills up is known.
        copy_folder(&tiny_sd("tokenizer"), &single.path().join("tokenizer"));
        let pipeline = of_single_file(single.path(), ModelOptions::default()).unwrap();
        let pipeline = pipeline.with_adapter(&adapter, Some(&encoder)).unwrap();
        let of_folder = Pipeline::load(folder.path(), F32).unwrap().with_adapter(&adapter, None).unwrap();
        assert_eq!(draw_small(pipeline), draw_small(of_folder), "{model}");
    }
}

/// At a size of its own, as single files are taken to be trained at the published one.
fn draw_small(pipeline: Pipeline) -> Tensor {
    let request = GenerateRequest {
        prompt: "a red square!".into(),
        scheduler: Some("ddim".into()),
        num_steps: 2,
        width: Some(64),
        height: Some(64),
        ..GenerateRequest::default()
    };
    let reference = image::RgbImage::from_fn(32, 32, |x, y| image::Rgb([x as u8 * 8, y as u8 * 8, 99]));
    pipeline.generate(&request, &[reference], |_| ControlFlow::Continue(())).unwrap().latents
}

#[test]
fn what_a_single_file_lacks_is_asked_for_or_comes_from_elsewhere() {
    let folder = with_usual_numbers("tiny_sd");
    let single = single_file(folder.path(), &[Component::Unet, Component::TextEncoder]);
    let refused = |options| of_single_file(single.path(), options).unwrap_err().to_string();
    let error = refused(ModelOptions::default());
    assert!(error.contains("holds no vae") && error.contains("`--vae`"), "{error}");

    let vae_file = single_file(folder.path(), &[Component::Vae]);
    for vae in [folder.path().join("vae"), folder.path().to_owned(), vae_file.path().join("model.safetensors")] {
        let options = ModelOptions { vae: Some(vae), ..ModelOptions::default() };
        assert!(of_single_file(single.path(), options).is_ok());
    }
    let vae = Some(folder.path().join("vae"));
    fs::remove_dir_all(single.path().join("tokenizer")).unwrap();
    let error = refused(ModelOptions { vae: vae.clone(), ..ModelOptions::default() });
    assert!(error.contains("`--tokenizer`"), "{error}");
    let tokenizer = Some(tiny_sd("tokenizer"));
    assert!(of_single_file(single.path(), ModelOptions { vae, tokenizer, ..ModelOptions::default() }).is_ok());
}

#[test]
fn averages_are_taken_where_they_are_asked_for_and_there() {
    let folder = with_usual_numbers("tiny_sd");
    let single = single_file(folder.path(), &ALL);
    let ema = || ModelOptions { ema: true, ..ModelOptions::default() };
    let error = std::error::Error::source(&of_single_file(single.path(), ema()).unwrap_err()).unwrap().to_string();
    assert!(error.contains("leave out `--ema`"), "{error}");
    let error = ModelFiles::open_with(folder.path(), ema()).unwrap_err().to_string();
    assert!(error.contains("no single file"), "{error}");

    // Averages that are the weights themselves, and weights that are something else.
    let path = single.path().join("model.safetensors");
    let weights = Weights::open(&path).unwrap();
    let tensors = weights.names().flat_map(|name| {
        let TensorInfo { dtype, shape } = weights.info(name).unwrap().clone();
        let tensor = TensorBytes { name: name.to_owned(), dtype, shape, data: weights.data(name).unwrap() };
        let Some(name) = name.strip_prefix("model.diffusion_model.") else { return vec![tensor] };
        let average =
            TensorBytes { name: format!("model_ema.diffusion_model{}", name.replace('.', "")), ..tensor.clone() };
        let zeros = vec![0; tensor.data.len()].into();
        vec![average, TensorBytes { data: zeros, ..tensor }]
    });
    write_safetensors(&path, tensors.collect(), None).unwrap();
    let averaged = of_single_file(single.path(), ema()).unwrap();
    let own = of_single_file(single.path(), ModelOptions::default()).unwrap();
    let expected = Pipeline::load(folder.path(), F32).unwrap();
    let draw = |pipeline: Pipeline| {
        let request = GenerateRequest {
            num_steps: 1,
            width: Some(64),
            height: Some(64),
            scheduler: Some("ddim".into()),
            ..Default::default()
        };
        pipeline.generate(&request, &[], |_| ControlFlow::Continue(())).unwrap().latents
    };
    let expected = draw(expected);
    assert_eq!(draw(averaged), expected);
    assert_ne!(draw(own), expected);
}

#[test]
fn what_a_model_predicts_can_be_said() {
    let folder = with_usual_numbers("tiny_sd2");
    let single = single_file(folder.path(), &ALL);
    let epsilon = || ModelOptions { prediction_type: Some(PredictionType::Epsilon), ..ModelOptions::default() };
    let of_folder = ModelFiles::open_with(folder.path(), epsilon()).unwrap();
    let encoder = folder.path().join("image_encoder");
    let with_adapter =
        |pipeline: Pipeline| pipeline.with_adapter(&folder.path().join(ADAPTER), Some(&encoder)).unwrap();
    let as_epsilon = draw_small(with_adapter(Pipeline::load_files(of_folder, F32).unwrap()));
    let single_as_epsilon = draw_small(with_adapter(of_single_file(single.path(), epsilon()).unwrap()));
    assert_eq!(single_as_epsilon, as_epsilon);
    assert_ne!(as_epsilon, draw_small(with_adapter(Pipeline::load(folder.path(), F32).unwrap())));
}
