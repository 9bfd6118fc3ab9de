//! Writes a model, or any file of tensors, in another form; a LoRA in other names.
//!
//! `cargo run --release -p ipa-formats --example convert_model -- model.ckpt model.safetensors single-file f16`

use std::error::Error;
use std::path::Path;

use ipa_formats::{
    ConversionReport, Dtype, LoraDialect, ModelConversion, ModelConversionOptions, ModelForm, convert_lora,
};

const USAGE: &str = "convert_model IN OUT folder|single-file|diffusers|kohya [f16|bf16|f32]";

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (input, output, form, dtype) = match &arguments[..] {
        [input, output, form] => (Path::new(input), Path::new(output), form.as_str(), None),
        [input, output, form, dtype] => (Path::new(input), Path::new(output), form.as_str(), Some(dtype.as_str())),
        _ => return Err(USAGE.into()),
    };
    let dtype = match dtype {
        None => None,
        Some("f16") => Some(Dtype::F16),
        Some("bf16") => Some(Dtype::BF16),
        Some("f32") => Some(Dtype::F32),
        Some(_) => return Err(USAGE.into()),
    };
    match form {
        "folder" => model(input, output, ModelForm::Folder, dtype),
        "single-file" => model(input, output, ModelForm::SingleFile, dtype),
        "diffusers" => lora(input, output, LoraDialect::Diffusers, dtype),
        "kohya" => lora(input, output, LoraDialect::Kohya, dtype),
        _ => Err(USAGE.into()),
    }
}

fn model(input: &Path, output: &Path, form: ModelForm, dtype: Option<Dtype>) -> Result<(), Box<dyn Error>> {
    let options = ModelConversionOptions { dtype, ..ModelConversionOptions::default() };
    let model = ModelConversion::plan(input, form, &options)?;
    let report = model.report();
    for (file, made) in &report.weights {
        show(if file.is_empty() { output } else { Path::new(file) }, made);
    }
    report.dropped.iter().for_each(|dropped| println!("not carried: {}: {}", dropped.name, dropped.reason));
    report.notes.iter().for_each(|note| println!("note: {note}"));
    Ok(model.write(output)?)
}

fn lora(input: &Path, output: &Path, dialect: LoraDialect, dtype: Option<Dtype>) -> Result<(), Box<dyn Error>> {
    let lora = convert_lora(input, dialect, None)?;
    show(output, &lora.report(dtype));
    Ok(lora.write(output, dtype, None)?)
}

fn show(file: &Path, made: &ConversionReport) {
    println!("{}: {} tensors, {} dropped", file.display(), made.tensors.len(), made.dropped.len());
}
