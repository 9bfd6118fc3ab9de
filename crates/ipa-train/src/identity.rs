//! What a run is made from, mostly as digests: nothing but the same run goes on from a checkpoint.

use std::path::Path;

use ipa_core::device::kind_name;
use ipa_formats::{
    Component, ComponentFiles, FormatError, ModelFiles, SchedulerFields, Weights, settings_files, sha256_file,
};
use ipa_sample::AdapterSource;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use crate::models::EncodeError;
use crate::{Dataset, FrozenModels, TrainConfig, TrainError};

/// Bytes of every tensor that are looked at: a fine-tuned model differs in them, and all of them are read at once.
const TENSOR_BYTES: usize = 64;

/// Rows whose pictures are read to tell two datasets apart; all of them are told apart by names and captions.
const PICTURES: usize = 1000;

/// Settings, data, pictures, models: all that decides the bits of a run but the machine.
pub(crate) fn of_run(
    models: &FrozenModels,
    dataset: &Dataset,
    config: &TrainConfig,
    init_adapter: Option<&AdapterSource>,
) -> Result<Value, TrainError> {
    Ok(json!({
        "config": config.recorded(),
        "validation": config.validation,
        "data": dataset.digest().map_err(EncodeError::from)?,
        "pictures": pictures(dataset)?,
        "init_adapter": init_adapter.map(|source| sha256_file(&source.file)).transpose()?,
        "init_adapter_options": init_adapter.map(|source| (source.variant, source.numbering)),
        "kind": kind_name(models.options().1),
        "models": models.digests(),
    }))
}

/// A digest of the files of rows spread evenly over a dataset: of all of them unless there are very many.
fn pictures(dataset: &Dataset) -> Result<String, EncodeError> {
    let num = dataset.len().min(PICTURES);
    let files = (0..num).map(|index| {
        let sample = dataset.sample(index * dataset.len() / num)?;
        let files = [Some(&sample.picture), sample.reference.as_ref(), sample.mask.as_ref(), sample.id_embed.as_ref()];
        files.into_iter().flatten().map(|file| Ok(file.digest()?)).collect::<Result<String, EncodeError>>()
    });
    Ok(hex_digest(files.collect::<Result<String, _>>()?.as_bytes()))
}

/// A digest of every component that training computes with, by name.
pub(crate) fn of_models(model: &ModelFiles, image_encoder: Option<&Path>) -> Result<Value, FormatError> {
    let mut digests = Map::new();
    for component in [Component::TextEncoder, Component::Vae, Component::Unet] {
        digests.insert(component.folder().to_owned(), of_component(&model.component(component)?)?.into());
    }
    digests.insert("tokenizer".to_owned(), hex_digest(&settings(&model.tokenizer()?)?).into());
    let scheduler = match model.scheduler()?.1 {
        SchedulerFields::Text(text) => text,
        SchedulerFields::Parsed(fields) => Value::Object(fields).to_string(),
    };
    let scheduler = format!("{scheduler} {:?}", model.prediction_type());
    digests.insert("scheduler".to_owned(), hex_digest(scheduler.as_bytes()).into());
    let own = |name| Some((name, model.folder(name)?));
    let encoder = match image_encoder {
        Some(folder) => vec![("image_encoder", folder.to_path_buf())],
        None => ["image_encoder", "feature_extractor"].into_iter().filter_map(own).collect(),
    };
    for (name, folder) in encoder {
        digests.insert(name.to_owned(), of_component(&ComponentFiles::Folder(folder))?.into());
    }
    Ok(Value::Object(digests))
}

/// The first field, in the order of their names, in which two runs differ, such as `config.seed`.
pub(crate) fn difference(found: &Value, expected: &Value) -> Option<String> {
    difference_below("run", found, expected).map(|field| field.trim_start_matches("run.").to_owned())
}

fn difference_below(name: &str, found: &Value, expected: &Value) -> Option<String> {
    let part = |(part, expected): (&String, &Value)| {
        difference_below(&format!("{name}.{part}"), &found[part.as_str()], expected)
    };
    let first = || expected.as_object().into_iter().flatten().find_map(part);
    (found != expected).then(|| first().unwrap_or_else(|| name.to_owned()))
}

fn of_component(files: &ComponentFiles) -> Result<String, FormatError> {
    let settings = match files {
        ComponentFiles::Folder(folder) => settings(folder)?,
        ComponentFiles::Part(..) => files.config::<Value>()?.to_string().into_bytes(),
    };
    let weights = match files.weights() {
        Ok(weights) => tensor_starts(&weights),
        Err(_) => Vec::new(), // the feature extractor: what needs weights was loaded before
    };
    Ok(hex_digest(&[settings, weights].concat()))
}

/// Digests of the settings in a folder.
fn settings(folder: &Path) -> Result<Vec<u8>, FormatError> {
    let digests = settings_files(folder).iter().map(|path| sha256_file(path)).collect::<Result<Vec<_>, _>>()?;
    Ok(digests.concat().into_bytes())
}

/// Name, kind, shape and first bytes of every tensor.
fn tensor_starts(weights: &Weights) -> Vec<u8> {
    let start = |name: &str| {
        let (info, data) = (weights.info(name), weights.data(name).unwrap_or_default());
        [format!("{name} {info:?} ").as_bytes(), &data[..data.len().min(TENSOR_BYTES)]].concat()
    };
    weights.names().flat_map(start).collect()
}

pub(crate) fn hex_digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

    use ipa_formats::{Dtype, TensorBytes, write_safetensors};

    use super::*;

    #[test]
    fn the_first_difference_is_named() {
        let run = json!({ "config": { "epochs": 3, "seed": 0 }, "data": "ab", "kind": "f32" });
        assert_eq!(difference(&run, &run), None);
        let other = json!({ "config": { "epochs": 3, "seed": 1 }, "data": "cd", "kind": "f32" });
        assert_eq!(difference(&other, &run).unwrap(), "config.seed");
        let other = json!({ "config": { "epochs": 3, "seed": 0 }, "data": "ab" });
        assert_eq!(difference(&other, &run).unwrap(), "kind");
        assert_eq!(difference(&json!([]), &json!({})).unwrap(), "run");
    }

    /// A component of one tensor.
    fn component(config: &str, first: u8) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("config.json"), config).unwrap();
        let (name, data) = ("one".to_owned(), vec![first; 4 * 8].into());
        let tensor = TensorBytes { name, dtype: Dtype::F32, shape: vec![8], data };
        write_safetensors(&folder.path().join("model.safetensors"), vec![tensor], None).unwrap();
        folder
    }

    #[test]
    fn settings_and_weights_tell_components_apart() {
        let digest = |config, first| of_component(&component(config, first).path().into()).unwrap();
        assert_eq!(digest("{}", 0), digest("{}", 0));
        assert_ne!(digest("{}", 0), digest("{ }", 0));
        assert_ne!(digest("{}", 0), digest("{}", 1));
    }
}
