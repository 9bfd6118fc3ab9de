//! One model in every form of files: the same tensors, the same picture, and how long they take to load.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Result;
use ipa_core::tch::{Kind, Tensor};
use ipa_formats::{Component, ModelConversion, ModelConversionOptions, ModelFiles, ModelForm};
use ipa_sample::{GenerateRequest, Pipeline};
use ipa_unet::Unet;
use tempfile::tempdir;

use crate::F32;
use crate::outcome::{Comparison, Outcome, num_parameters};
use crate::reference::Reference;

const COMPONENTS: [Component; 3] = [Component::Unet, Component::Vae, Component::TextEncoder];
/// Forms with the names of their tensors' and their pictures' rows. Half precision rounds by 2⁻¹¹ of a value.
const FORMS: [(&str, &str, &str, f64); 5] = [
    ("sharded", "sharded: tensors", "sharded: picture", 0.0),
    ("bin", "bin: tensors", "bin: picture", 0.0),
    ("single.safetensors", "single: tensors", "single: picture", 0.0),
    ("single.ckpt", "ckpt: tensors", "ckpt: picture", 0.0),
    ("fp16", "fp16: tensors", "fp16: picture", 1.0 / 2048.0),
];

/// Stable Diffusion 1.5's sizes, random weights.
pub(crate) fn forms() -> Result<Outcome> {
    let reference = Reference::make("files", tempdir()?, &[])?;
    let folder = reference.model();
    write_single_file(&folder, &reference.path("single.safetensors"))?;
    // Has diffusers read it too, and write the same as a `.ckpt`.
    let reference = reference.remake("files-single")?;
    let expected = drawn(&folder)?;
    let mut comparisons = vec![Comparison::given("diffusers: single", reference.number("single_error")?, 0.0)];
    for (form, tensors, picture, tolerance) in FORMS {
        let path = reference.path(form);
        comparisons.push(Comparison::given(tensors, largest_difference(&folder, &path)?, tolerance));
        // What half precision does to a picture of random weights is no error of the files.
        let allowed = if tolerance > 0.0 { f64::INFINITY } else { 0.0 };
        comparisons.push(Comparison::within(picture, &drawn(&path)?, &expected, 1.0, allowed)?);
    }
    let file = ipa_formats::weights_file(&folder.join("unet"))?;
    let (load, read) = load_and_read(&folder.join("unet"), &file)?;
    println!(
        "files     the UNet of {:.2} GB loads in {:.2} s, a plain read into memory takes {:.2} s: {:.2} times",
        fs::metadata(&file)?.len() as f64 / 1e9,
        load.as_secs_f64(),
        read.as_secs_f64(),
        load.as_secs_f64() / read.as_secs_f64()
    );
    let here = Duration::ZERO;
    Ok(Outcome { name: "files", num_parameters: num_parameters(&[&file])?, load, here, reference: read, comparisons })
}

/// The folder's tensors in a single file's names.
fn write_single_file(folder: &Path, path: &Path) -> Result<()> {
    let options = ModelConversionOptions::default();
    Ok(ModelConversion::plan(folder, ModelForm::SingleFile, &options)?.write(path)?)
}

/// Of all tensors of all components, relative to each tensor's largest value; infinite if one is missing.
fn largest_difference(folder: &Path, other: &Path) -> Result<f64> {
    let (folder, other) = (ModelFiles::open(folder)?, ModelFiles::open(other)?);
    let mut largest = 0f64;
    for component in COMPONENTS {
        let tensors = |files: &ModelFiles| -> Result<BTreeMap<String, Tensor>> {
            let checkpoint = ipa_core::Checkpoint::of(files.component(component)?.weights()?);
            let name = |name: &str| name.strip_prefix("text_model.").unwrap_or(name).to_owned();
            checkpoint.names().map(|full| Ok((name(full), checkpoint.tensor(full)?))).collect()
        };
        let (expected, mut found) = (tensors(&folder)?, tensors(&other)?);
        for (name, expected) in expected {
            let Some(found) = found.remove(&name) else { return Ok(f64::INFINITY) };
            let difference = (found.to_kind(Kind::Float) - &expected).abs().max() / expected.abs().max();
            largest = largest.max(difference.double_value(&[]));
        }
        if !found.is_empty() {
            return Ok(f64::INFINITY);
        }
    }
    Ok(largest)
}

/// A small picture in two steps, `[height, width, 3]`, bytes as numbers.
fn drawn(model: &Path) -> Result<Tensor> {
    let request = GenerateRequest {
        prompt: "a photo of a cat".to_owned(),
        scheduler: Some("ddim".to_owned()),
        num_steps: 2,
        width: Some(128),
        height: Some(128),
        ..GenerateRequest::default()
    };
    let drawn = Pipeline::load(model, F32)?.generate(&request, &[], |_| ControlFlow::Continue(()))?;
    Ok(Tensor::from_slice(drawn.pictures[0].as_raw()).view([128, 128, 3]).to_kind(Kind::Float))
}

/// The faster of three each, in turn, from the page cache.
fn load_and_read(folder: &Path, file: &PathBuf) -> Result<(Duration, Duration)> {
    let (mut load, mut read) = (Duration::MAX, Duration::MAX);
    for _ in 0..3 {
        let start = Instant::now();
        drop(fs::read(file)?);
        read = read.min(start.elapsed());
        let start = Instant::now();
        drop(Unet::load(folder, F32)?);
        load = load.min(start.elapsed());
    }
    Ok((load, read))
}
