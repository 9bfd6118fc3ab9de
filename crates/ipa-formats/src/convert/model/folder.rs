//! A folder as a folder: weights as safetensors of another element type, everything else as it is.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{ModelConversionOptions, PARTS, Plan, missing, pretty, unchanged};
use crate::layout::read_small;
use crate::{Dtype, FormatError, ModelFolder, Weights, read_json, weights_file};

/// How configurations, a tokenizer's tables and the papers of a model are called.
const CARRIED: [&str; 4] = ["json", "txt", "md", "model"];

pub(super) fn plan(input: &Path, options: &ModelConversionOptions) -> Result<Plan, FormatError> {
    let dtype = options.dtype;
    let mut plan = Plan::default();
    if input.join("config.json").is_file() && weights_file(input).is_ok() {
        component(input, "", dtype, &mut plan)?;
        return Ok(plan);
    }
    let model = ModelFolder::open(input)?;
    for part in PARTS {
        if model.component(part.folder()).is_none() {
            missing(input, part, options, &mut plan)?;
        }
    }
    for Entry { name, path, is_folder } in entries(model.path())? {
        match is_folder {
            true => component(&path, &format!("{name}/"), dtype, &mut plan)?,
            false if is_carried(&name) => drop(plan.files.insert(name, read_small(&path)?)),
            false => plan.drop(name, "lies beside the model's parts; convert it by itself"),
        }
    }
    Ok(plan)
}

/// One folder with or without weights; `place` is where it lies in the model.
fn component(folder: &Path, place: &str, dtype: Option<Dtype>, plan: &mut Plan) -> Result<(), FormatError> {
    let chosen = match weights_file(folder) {
        Ok(path) => Some(Weights::open(&path)?),
        Err(FormatError::NoWeights { .. }) => None,
        Err(other) => return Err(other),
    };
    let read: Vec<PathBuf> =
        chosen.iter().flat_map(|weights| [weights.paths(), vec![weights.path().into()]].concat()).collect();
    for Entry { name, path, is_folder } in entries(folder)? {
        match () {
            () if read.contains(&path) => {}
            () if is_folder => plan.drop(format!("{place}{name}/"), "no model has a folder there"),
            () if name.contains(".index.") => {
                plan.drop(format!("{place}{name}"), "lists the parts of another copy of the weights");
            }
            () if name == "config.json" => drop(plan.files.insert(format!("{place}{name}"), config(&path, dtype)?)),
            () if is_carried(&name) => drop(plan.files.insert(format!("{place}{name}"), read_small(&path)?)),
            () => plan.drop(format!("{place}{name}"), "another copy of the weights, or none of the model's files"),
        }
    }
    if let Some(weights) = chosen {
        let file = weights.path().file_name().unwrap_or_default().to_string_lossy();
        let name = if file.starts_with("diffusion_") { "diffusion_pytorch_model" } else { "model" };
        plan.weights.insert(format!("{place}{name}.safetensors"), unchanged(weights));
    }
    Ok(())
}

/// A configuration, in which the reference libraries may have put the element type of the weights.
fn config(path: &Path, dtype: Option<Dtype>) -> Result<Vec<u8>, FormatError> {
    let bytes = read_small(path)?;
    let fields: Value = read_json(path)?; // a broken one is not carried on
    let (Some(dtype), Value::Object(mut fields)) = (dtype, fields) else { return Ok(bytes) };
    let name = match dtype {
        Dtype::F16 => "float16",
        Dtype::BF16 => "bfloat16",
        Dtype::F64 => "float64",
        _ => "float32",
    };
    let said = ["dtype", "torch_dtype"].into_iter().filter(|field| fields.get(*field).is_some_and(Value::is_string));
    let said: Vec<&str> = said.collect();
    if said.is_empty() {
        return Ok(bytes);
    }
    said.into_iter().for_each(|field| drop(fields.insert(field.to_owned(), name.into())));
    Ok(pretty(&Value::Object(fields)))
}

fn is_carried(name: &str) -> bool {
    let extension =
        Path::new(name).extension().is_some_and(|extension| CARRIED.iter().any(|known| extension == *known));
    extension || name.starts_with("LICENSE")
}

pub(super) struct Entry {
    pub(super) name: String,
    pub(super) path: PathBuf,
    pub(super) is_folder: bool,
}

/// What lies in a folder, sorted by name; hidden files are not looked at.
pub(super) fn entries(folder: &Path) -> Result<Vec<Entry>, FormatError> {
    let read_error = |source| FormatError::Read { path: folder.to_owned(), source };
    let mut entries = Vec::new();
    for entry in fs::read_dir(folder).map_err(read_error)? {
        let path = entry.map_err(read_error)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !name.starts_with('.') {
            entries.push(Entry { name, is_folder: path.is_dir(), path });
        }
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}
