//! A diffusers folder as a single file.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};

use super::folder::{Entry, entries};
use super::{ModelConversionOptions, PARTS, Plan, file, missing};
use crate::convert::Conversion;
use crate::weights::Source;
use crate::{
    Component, ComponentConfigs, ComponentFiles, FolderTensors, FormatError, ModelFiles, PredictionType,
    SchedulerFields, SingleFileError, SingleFileOptions, TensorInfo, Weights, plan_single_file, read_json_if_there,
    read_single_file, weights_file,
};

/// Folders of a model that no single file holds, and who brings them where a single file is read.
const OUTSIDE: [(&str, &str); 6] = [
    ("feature_extractor", "a single file has no place for it; it belongs to the safety checker or the image encoder"),
    ("image_encoder", "a single file has no place for it; name it with `--image-encoder` where it is needed"),
    ("safety_checker", "a single file has no place for it"),
    ("scheduler", "a single file has no place for it; the published noise schedule is taken where it is read"),
    ("tokenizer", "a single file has no place for it; name one with `--tokenizer`, or keep a copy beside the file"),
    ("model_index.json", "says which folders there are"),
];
/// Fields of which nothing depends that is computed, or that readers choose.
const FREE: [&str; 4] = ["_class_name", "architectures", "skip_prk_steps", "sample_size"];

pub(super) fn plan(input: &Path, options: &ModelConversionOptions) -> Result<Plan, FormatError> {
    if !input.join("unet").is_dir()
        && input.join("config.json").is_file()
        && let Ok(only) = weights_file(input)
    {
        return file::plan(&only, options); // a component by itself, whose names stay
    }
    if input.join("text_encoder_2").is_dir() {
        let problem =
            "it has two text encoders, as Stable Diffusion XL has; single files are written of 1.x and 2.x alone";
        return Err(FormatError::NotConvertible { path: input.to_owned(), problem: problem.to_owned() });
    }
    let model = ModelFiles::open(input)?;
    let mut plan = Plan::default();
    let (mut parts, mut tensors) = (Vec::new(), BTreeMap::new());
    for part in PARTS {
        match model.folder(part.folder()) {
            None => missing(input, part, options, &mut plan)?,
            Some(folder) => {
                let weights = Weights::open(&weights_file(&folder)?)?;
                left_in(&folder, &weights, &mut plan)?;
                tensors.insert(part, weights.tensors());
                parts.push((part, weights));
            }
        }
    }
    let single_error = |source| FormatError::SingleFile { path: input.to_owned(), source: Box::new(source) };
    let (plans, configs) = planned(&tensors, options.prediction_type).map_err(single_error)?;
    compare(&model, &tensors, &configs, &mut plan)?;
    outside(input, &mut plan)?;
    let place = |part| parts.iter().position(|(other, _)| *other == part);
    let plans: Vec<_> = plans.into_iter().filter_map(|plan| Some((place(plan.component)?, plan))).collect();
    let mut texts = BTreeMap::new();
    parts.iter().for_each(|(_, weights)| texts.extend(weights.metadata()));
    let sources = parts.into_iter().map(|(_, weights)| Source::Weights(weights)).collect();
    let made = Conversion::new(Weights::planned(input, sources, plans.into_iter()), Vec::new(), Vec::new());
    plan.weights.insert(String::new(), made.with_texts(texts));
    Ok(plan)
}

type Planned = (Vec<crate::TensorPlan>, ComponentConfigs);

/// The single file's tensors, and the configurations that whoever reads it will take.
fn planned(
    tensors: &BTreeMap<Component, BTreeMap<String, TensorInfo>>,
    prediction_type: Option<PredictionType>,
) -> Result<Planned, SingleFileError> {
    let of = |part| tensors.get(&part);
    let (unet, vae, text_encoder) = (of(Component::Unet), of(Component::Vae), of(Component::TextEncoder));
    let plans = plan_single_file(&FolderTensors { unet, vae, text_encoder, version: None })?;
    let made = plans.iter().map(|plan| (plan.name.clone(), plan.info.clone())).collect();
    let options = SingleFileOptions { prediction_type, ..SingleFileOptions::default() };
    let read = read_single_file(&made, &options)?;
    Ok((plans, read.configs))
}

/// Notes what the folder's configurations say otherwise than the tensors will be read.
fn compare(
    model: &ModelFiles,
    tensors: &BTreeMap<Component, BTreeMap<String, TensorInfo>>,
    configs: &ComponentConfigs,
    plan: &mut Plan,
) -> Result<(), FormatError> {
    let pairs = [
        (Component::Unet, &configs.unet),
        (Component::Vae, &configs.vae),
        (Component::TextEncoder, &configs.text_encoder),
    ];
    for (part, taken) in pairs {
        if let (true, Some(taken)) = (tensors.contains_key(&part), taken) {
            let path = model.component(part).map(|files: ComponentFiles| files.config_path())?;
            let said: Option<Value> = read_json_if_there(&path)?;
            differences(&format!("{part}/config.json"), taken, &said.unwrap_or_default(), plan);
        }
    }
    let Some(taken) = configs.scheduler.as_ref().filter(|_| model.folder("scheduler").is_some()) else { return Ok(()) };
    let (path, SchedulerFields::Text(text)) = model.scheduler()? else { return Ok(()) };
    let said: Value =
        serde_json::from_str(&text).map_err(|source| FormatError::Json { path, field: ".".to_owned(), source })?;
    let mut taken = taken.clone();
    taken["rescale_betas_zero_snr"] = false.into();
    differences("scheduler/scheduler_config.json", &taken, &said, plan);
    Ok(())
}

fn differences(file: &str, taken: &Value, said: &Value, plan: &mut Plan) {
    let nothing = Map::new();
    for (field, taken) in taken.as_object().unwrap_or(&nothing).iter().filter(|(field, _)| !FREE.contains(&&field[..]))
    {
        let said = said.get(field).filter(|said| !same(said, taken));
        plan.notes.extend(
            said.map(|said| {
                format!("{file} says {field} {said}, which a single file cannot say: it is read as {taken}")
            }),
        );
    }
}

/// Whether two values mean the same: numbers however they are written, one for all levels or one for each.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Array(all), one) | (one, Value::Array(all)) => all.iter().all(|each| same(each, one)),
        _ => a == b || a.as_f64().is_some_and(|a| b.as_f64() == Some(a)),
    }
}

/// Names what of a component's folder is not carried; its configuration follows from the tensors.
fn left_in(folder: &Path, weights: &Weights, plan: &mut Plan) -> Result<(), FormatError> {
    let part = folder.file_name().unwrap_or_default().to_string_lossy();
    let read = weights.paths();
    for Entry { name, path, .. } in entries(folder)? {
        if !read.contains(&path) && path != weights.path() && name != "config.json" {
            plan.drop(format!("{part}/{name}"), "another copy of the weights, or none of the model's files");
        }
    }
    Ok(())
}

fn outside(input: &Path, plan: &mut Plan) -> Result<(), FormatError> {
    for Entry { name, is_folder, .. } in entries(input)? {
        let known = OUTSIDE.iter().find(|(outside, _)| *outside == name).map(|(_, reason)| *reason);
        if !PARTS.iter().any(|part| part.folder() == name) {
            let shown = if is_folder { format!("{name}/") } else { name };
            plan.drop(shown, known.unwrap_or("is no part of a single file"));
        }
    }
    Ok(())
}
