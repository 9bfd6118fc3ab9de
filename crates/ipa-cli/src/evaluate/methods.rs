//! The adapters under evaluation, each with its name.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use ipa_formats::{AdapterFile, sha256_file};
use ipa_metrics::evaluation::{Method, MethodKind};
use ipa_sample::{AdapterSource, ImagePromptSpec, check_adapter};

use crate::args::{AdapterArgs, ModelArgs};
use crate::failure::UsageError;
use crate::model::{ModelSource, POCKET};

pub(super) const TEXT_ONLY: &str = "text only";
pub(super) const REFERENCE_ITSELF: &str = "reference itself";

/// Names of files that say nothing of what is in them.
const COMMON_NAMES: [&str; 5] = ["adapter", "ip_adapter", "ip-adapter", "model", "pytorch_model"];

/// An adapter, and the encoder that it sees with.
#[derive(Debug, Clone)]
pub(super) struct NamedAdapter {
    pub(super) name: String,
    pub(super) source: AdapterSource,
    /// With the encoder of this adapter, if it brings the name of one.
    pub(super) model: ModelArgs,
}

/// The adapters named, `FILE` or `NAME=FILE`; without any, the one that comes with the model. All are checked against
/// the model from their headers.
///
/// # Errors
/// If one is not there, is of another base model or encoder, or reads faces.
pub(super) fn adapters(named: &[String], args: &ModelArgs, model: &ModelSource) -> Result<Vec<NamedAdapter>> {
    let given: Vec<(Option<&str>, Option<PathBuf>)> = match named {
        [] => vec![(None, None)],
        named => named.iter().map(|text| split(text)).map(|(name, file)| (name, Some(file))).collect(),
    };
    let mut found: Vec<NamedAdapter> = Vec::new();
    for (name, file) in given {
        let (mut model_args, own) = (args.clone(), named_by_file(file.as_deref()));
        let mut adapter = AdapterArgs { adapter: file, lora: None, adapter_variant: None, adapter_numbering: None };
        adapter.find(&mut model_args)?;
        let source = adapter.source(&model_args, model)?;
        check_pictures(&source, model)?;
        let name = name.map(str::to_owned).unwrap_or(own);
        if [TEXT_ONLY, REFERENCE_ITSELF].contains(&name.as_str()) || found.iter().any(|other| other.name == name) {
            let text =
                format!("two methods would be called `{name}`: give each adapter a name, as in `--adapter new=FILE`");
            return Err(UsageError(text).into());
        }
        found.push(NamedAdapter { name, source, model: model_args });
    }
    Ok(found)
}

/// A name and a file, unless the whole is a file.
fn split(text: &str) -> (Option<&str>, PathBuf) {
    match text.split_once('=') {
        Some((name, file)) if !name.is_empty() && !Path::new(text).exists() => (Some(name), file.into()),
        _ => (None, text.into()),
    }
}

/// By its file, or by its folder if all files of its kind are called alike.
pub(crate) fn named_by_file(file: Option<&Path>) -> String {
    let Some(file) = file else { return POCKET.to_owned() };
    let text = |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
    let (stem, folder) = (text(file.file_stem()), text(file.parent().and_then(Path::file_name)));
    if COMMON_NAMES.contains(&stem.as_str()) && !folder.is_empty() { folder } else { stem }
}

/// Checks from its header that an adapter reads pictures and belongs to a model.
///
/// # Errors
/// If it does not.
pub(crate) fn check_pictures(source: &AdapterSource, model: &ModelSource) -> Result<()> {
    let any_picture = ImagePromptSpec { images: vec![PathBuf::new().into()], ..ImagePromptSpec::default() };
    if AdapterFile::open(&source.file, &source.options())?.info().face_embed_dim.is_some() {
        bail!("{} reads faces, and scores are of pictures: name an adapter that reads them", source.file.display());
    }
    check_adapter(&model.files, source, &any_picture)?;
    Ok(())
}

/// An adapter as the report names it.
///
/// # Errors
/// If its file cannot be read.
pub(crate) fn method(name: &str, source: &AdapterSource) -> Result<Method> {
    let file = AdapterFile::open(&source.file, &source.options())?;
    let weights = file.weights();
    let infos = weights.names().filter_map(|name| weights.info(name));
    let num_parameters = infos.map(|info| info.num_elements() as u64).sum();
    let sha256 = Some(sha256_file(weights.path())?);
    Ok(Method { name: name.to_owned(), kind: MethodKind::Adapter, num_parameters: Some(num_parameters), sha256 })
}

/// What adapters are compared with.
pub(super) fn baseline(kind: MethodKind) -> Method {
    let name = if kind == MethodKind::TextOnly { TEXT_ONLY } else { REFERENCE_ITSELF };
    Method { name: name.to_owned(), kind, num_parameters: None, sha256: None }
}
