//! Writes a model, or any file of tensors, in another form: `convert_model IN OUT folder|single-file [f16|bf16|f32]`.
//!
//! `cargo run --release -p ipa-formats --example convert_model -- model.ckpt model.safetensors single-file f16`

use std::error::Error;
use std::path::Path;

use ipa_formats::{Dtype, ModelConversion, ModelConversionOptions, ModelForm};

const USAGE: &str = "convert_model IN OUT folder|single-file [f16|bf16|f32]";

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (input, output, form, dtype) = match &arguments[..] {
        [input, output, form] => (input, output, form.as_str(), None),
        [input, output, form, dtype] => (input, output, form.as_str(), Some(dtype.as_str())),
        _ => return Err(USAGE.into()),
    };
    let form = match form {
        "folder" => ModelForm::Folder,
        "single-file" => ModelForm::SingleFile,
        _ => return Err(USAGE.into()),
    };
    let dtype = match dtype {
        None => None,
        Some("f16") => Some(Dtype::F16),
        Some("bf16") => Some(Dtype::BF16),
        Some("f32") => Some(Dtype::F32),
        Some(_) => return Err(USAGE.into()),
    };
    let options = ModelConversionOptions { dtype, ..ModelConversionOptions::default() };
    let model = ModelConversion::plan(Path::new(input), form, &options)?;
    let report = model.report();
    for (file, made) in &report.weights {
        println!("{output} {file}: {} tensors, {} dropped", made.tensors.len(), made.dropped.len());
    }
    report.dropped.iter().for_each(|dropped| println!("not carried: {}: {}", dropped.name, dropped.reason));
    report.notes.iter().for_each(|note| println!("note: {note}"));
    Ok(model.write(Path::new(output))?)
}
