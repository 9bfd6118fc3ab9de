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
use ipa_sample::{GenerateRequest, Pipeline};
use support::{F32, Fixture, fixture_path, tiny_sd};

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
    let pipeline = Pipeline::load(model, F32).unwrap().with_adapter(adapter, None).unwrap();
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
