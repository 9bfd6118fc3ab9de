//! Base models in another form: a folder, a single file, or the same with other element types.

mod file;
mod folder;
mod pack;
mod unpack;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{Conversion, ConversionReport, Dropped};
use crate::atomic::create_folder;
use crate::{Component, Dtype, FormatError, PredictionType, Weights, write_atomically};

/// In which form a model is written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ModelForm {
    /// A diffusers-style folder.
    Folder,
    /// One safetensors file: of a folder, its models under LDM's names; of a file, its tensors under their own.
    SingleFile,
}

/// What the conversion of a model leaves open.
#[derive(Clone, Debug, Default)]
pub struct ModelConversionOptions {
    /// What floating-point tensors are written as; `None` to leave them as they are.
    pub dtype: Option<Dtype>,
    /// Takes the UNet's weights of a single file from their running averages.
    pub ema: bool,
    /// What the UNet of a single file predicts, where the rule for its family would be wrong.
    pub prediction_type: Option<PredictionType>,
    /// Folder of a tokenizer for the folder that is made of a single file.
    pub tokenizer: Option<PathBuf>,
    /// Writes a model that lacks a UNet, an autoencoder or a text tower, and says so in the report.
    pub allow_missing: bool,
}

/// A model ready to be written in another form.
///
/// ```no_run
/// use ipa_formats::{Dtype, ModelConversion, ModelConversionOptions, ModelForm};
///
/// let options = ModelConversionOptions { dtype: Some(Dtype::F16), ..Default::default() };
/// let model = ModelConversion::plan("v1-5-pruned.ckpt".as_ref(), ModelForm::Folder, &options)?;
/// for note in model.report().notes {
///     eprintln!("{note}");
/// }
/// model.write("stable-diffusion-v1-5".as_ref())?;
/// # Ok::<(), ipa_formats::FormatError>(())
/// ```
#[derive(Debug)]
pub struct ModelConversion {
    form: ModelForm,
    dtype: Option<Dtype>,
    plan: Plan,
}

/// What a conversion of a model did.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct ModelReport {
    /// What was done with tensors, by the weights file that was written within the folder; a single file has no name.
    pub weights: BTreeMap<String, ConversionReport>,
    /// Configurations and tables that were written, by their place in the folder.
    pub files: Vec<String>,
    /// Files and contents of the input that were not written, and why.
    pub dropped: Vec<Dropped>,
    /// What the result does not say, or says otherwise than the input.
    pub notes: Vec<String>,
}

/// What is to be written, by its place in the folder; a single file has the empty place.
#[derive(Debug, Default)]
struct Plan {
    weights: BTreeMap<String, Conversion>,
    files: BTreeMap<String, Vec<u8>>,
    dropped: Vec<Dropped>,
    notes: Vec<String>,
}

impl Plan {
    fn drop(&mut self, name: impl Into<String>, reason: &str) {
        self.dropped.push(Dropped { name: name.into(), reason: reason.to_owned() });
    }
}

impl ModelConversion {
    /// Decides from headers and configurations what becomes of every tensor and file.
    ///
    /// `input` is a diffusers-style folder, a component's folder, a single-file checkpoint or, for
    /// [`ModelForm::SingleFile`], any file of tensors: safetensors, what torch wrote, or an index of parts.
    ///
    /// # Errors
    /// [`FormatError`] naming the file, and the tensor, that cannot be read or has no place in the other form.
    pub fn plan(input: &Path, form: ModelForm, options: &ModelConversionOptions) -> Result<Self, FormatError> {
        if let Some(dtype) = options.dtype.filter(|dtype| !dtype.is_float()) {
            let problem = format!("{dtype} is no floating-point type; choose F16, BF16 or F32");
            return Err(FormatError::NotConvertible { path: input.to_owned(), problem });
        }
        let plan = match (input.is_dir(), form) {
            (false, ModelForm::Folder) => unpack::plan(input, options),
            (false, ModelForm::SingleFile) => file::plan(input, options),
            (true, _) if options.ema => Err(FormatError::EmaOfFolder { path: input.to_owned() }),
            (true, ModelForm::Folder) => folder::plan(input, options),
            (true, ModelForm::SingleFile) => pack::plan(input, options),
        }?;
        Ok(Self { form, dtype: options.dtype, plan })
    }

    /// What [`ModelConversion::write`] does.
    pub fn report(&self) -> ModelReport {
        let Plan { weights, files, dropped, notes } = &self.plan;
        let mut dropped = dropped.clone();
        dropped.sort();
        ModelReport {
            weights: weights.iter().map(|(name, made)| (name.clone(), made.report(self.dtype))).collect(),
            files: files.keys().cloned().collect(),
            dropped,
            notes: notes.clone(),
        }
    }

    /// Writes the file or the folder, whole or not at all.
    ///
    /// # Errors
    /// [`FormatError::FolderNotEmpty`] if there is something where the folder is to be; as [`Conversion::write`].
    pub fn write(&self, output: &Path) -> Result<(), FormatError> {
        match self.form {
            ModelForm::SingleFile => {
                self.plan.weights.values().try_for_each(|only| only.write(output, self.dtype, None))
            }
            ModelForm::Folder => create_folder(output, |folder| self.fill(folder)),
        }
    }

    fn fill(&self, folder: &Path) -> Result<(), FormatError> {
        let place = |name: &String| {
            let path = folder.join(name);
            let parent = path.parent().unwrap_or(folder).to_owned();
            match std::fs::create_dir_all(&parent) {
                Ok(()) => Ok(path),
                Err(source) => Err(FormatError::Write { path: parent, source }),
            }
        };
        for (name, bytes) in &self.plan.files {
            write_atomically(&place(name)?, |out| out.write_all(bytes))?;
        }
        self.plan.weights.iter().try_for_each(|(name, made)| made.write(&place(name)?, self.dtype, None))
    }
}

/// The parts of every model.
const PARTS: [Component; 3] = [Component::Unet, Component::Vae, Component::TextEncoder];

/// Refuses a model without one of its parts, or notes that it has none.
fn missing(
    input: &Path,
    part: Component,
    options: &ModelConversionOptions,
    plan: &mut Plan,
) -> Result<(), FormatError> {
    if !options.allow_missing {
        let problem = format!("it has no {part}; complete it, or leave the part out with `--allow-missing`");
        return Err(FormatError::NotConvertible { path: input.to_owned(), problem });
    }
    plan.notes.push(format!("there is no {part}: add one before the model is used"));
    Ok(())
}

/// All tensors of a file, or of an index of parts, as they are.
fn unchanged(weights: Weights) -> Conversion {
    let texts = weights.metadata();
    Conversion::new(weights, Vec::new(), Vec::new()).with_texts(texts)
}

/// JSON as the reference libraries write it: sorted, indented by two.
fn pretty(value: &serde_json::Value) -> Vec<u8> {
    let mut text = format!("{value:#}").into_bytes(); // its maps are sorted
    text.push(b'\n');
    text
}
