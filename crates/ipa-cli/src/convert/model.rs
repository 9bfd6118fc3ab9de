//! Base models, LoRA files, and other files of tensors.

use std::path::Path;

use anyhow::Result;
use ipa_formats::{LoraDialect, ModelConversion, ModelConversionOptions, ModelForm, ModelReport, convert_lora};

use super::told::{Told, Written};
use super::{ConvertArgs, Layout};
use crate::failure::UsageError;
use crate::output;

/// Writes a model in another form, or any file of tensors as safetensors.
pub(super) fn run(args: &ConvertArgs, form: Option<ModelForm>) -> Result<()> {
    let path = args.named_output()?;
    let form = form.unwrap_or_else(|| likely_form(path));
    let output = match form {
        ModelForm::SingleFile => args.output_file(false)?,
        ModelForm::Folder if path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("safetensors")) => {
            let problem = format!("{} would be a folder: leave out its ending, or `--to folder`", path.display());
            return Err(UsageError(problem).into());
        }
        ModelForm::Folder => path.to_owned(),
    };
    match form {
        ModelForm::SingleFile => output::check_file(&output)?,
        ModelForm::Folder => output::check_folder(&output)?,
    }
    let options = ModelConversionOptions {
        dtype: args.dtype(),
        ema: args.model.ema,
        prediction_type: args.model.known_prediction(),
        tokenizer: args.model.tokenizer.clone(),
        allow_missing: args.adapter.allow_missing,
    };
    let model = ModelConversion::plan(&args.input, form, &options)?;
    if !args.dry_run {
        output::create_folder_of(&output)?;
        model.write(&output)?;
    }
    told(args, &output, model.report()).tell(args)
}

/// Writes a LoRA under other names.
pub(super) fn run_lora(args: &ConvertArgs, to: LoraDialect) -> Result<()> {
    let output = args.output_file(false)?;
    output::check_file(&output)?;
    let converted = convert_lora(&args.input, to, args.adapter.unet_config.as_deref())?;
    if !args.dry_run {
        output::create_folder_of(&output)?;
        converted.write(&output, args.dtype(), None)?;
    }
    let written = vec![Written { file: output, report: converted.report(args.dtype()) }];
    Told { written, ..Told::of(&args.input) }.tell(args)
}

/// The form that a name stands for.
fn likely_form(path: &Path) -> ModelForm {
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default().to_ascii_lowercase();
    // What has the ending of a pickle is refused as such.
    match ["safetensors", "bin", "pt", "pth", "ckpt"].contains(&ending.as_str()) {
        true => ModelForm::SingleFile,
        false => ModelForm::Folder,
    }
}

impl Layout {
    /// The form of a model, if it is one.
    pub(super) fn form(self) -> Option<ModelForm> {
        match self {
            Self::Folder => Some(ModelForm::Folder),
            Self::SingleFile => Some(ModelForm::SingleFile),
            _ => None,
        }
    }

    /// The names of a LoRA file, if it is such.
    pub(super) fn lora(self) -> Option<LoraDialect> {
        match self {
            Self::Kohya => Some(LoraDialect::Kohya),
            Self::Diffusers => Some(LoraDialect::Diffusers),
            _ => None,
        }
    }
}

fn told(args: &ConvertArgs, output: &Path, report: ModelReport) -> Told {
    let ModelReport { weights, files, dropped, notes } = report;
    let place = |name: &str| if name.is_empty() { output.to_owned() } else { output.join(name) };
    let written = weights.into_iter().map(|(name, report)| Written { file: place(&name), report }).collect();
    let files = files.iter().map(|name| place(name)).collect();
    Told { written, files, dropped, notes, ..Told::of(&args.input) }
}
