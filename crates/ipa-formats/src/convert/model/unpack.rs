//! A single file as a diffusers folder.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};

use super::{ModelConversionOptions, PARTS, Plan, file, missing, pretty};
use crate::convert::Conversion;
use crate::layout::read_small;
use crate::{
    Component, FormatError, ModelFiles, ModelOptions, ModelTask, ModelVersion, SchedulerFields, SingleFileInfo,
    read_json_if_there, settings_files,
};

pub(super) fn plan(input: &Path, options: &ModelConversionOptions) -> Result<Plan, FormatError> {
    let known = ModelOptions {
        tokenizer: options.tokenizer.clone(),
        ema: options.ema,
        prediction_type: options.prediction_type,
        ..ModelOptions::default()
    };
    let model = ModelFiles::open_with(input, known)?;
    let mut plan = Plan::default();
    if let Some(info) = model.single_file() {
        parts(&model, info, options, &mut plan)?;
        tokenizer(&model, info, options, &mut plan)?;
        leftovers(&model, info, &mut plan);
    }
    Ok(plan)
}

fn parts(
    model: &ModelFiles,
    info: &SingleFileInfo,
    options: &ModelConversionOptions,
    plan: &mut Plan,
) -> Result<(), FormatError> {
    for part in PARTS {
        if !info.components.contains(&part) {
            missing(model.path(), part, options, plan)?;
            continue;
        }
        let files = model.component(part)?;
        let config: Value = files.config()?;
        plan.files.insert(format!("{part}/config.json"), pretty(&config));
        let name = if part == Component::TextEncoder { "model" } else { "diffusion_pytorch_model" };
        let made = Conversion::new(files.weights()?, Vec::new(), Vec::new());
        plan.weights.insert(format!("{part}/{name}.safetensors"), made);
    }
    if let (Some(prediction), true) = (info.prediction_type, info.prediction_assumed) {
        plan.notes.push(format!(
            "no tensor shows what the UNet predicts; scheduler_config.json says `{}`, as most of its family do",
            prediction.name()
        ));
    }
    if info.components.contains(&Component::Unet)
        && let (_, SchedulerFields::Parsed(fields)) = model.scheduler()?
    {
        plan.files.insert("model_index.json".to_owned(), pretty(&index(info, fields.get("_class_name"))));
        plan.files.insert("scheduler/scheduler_config.json".to_owned(), pretty(&Value::Object(fields)));
    }
    Ok(())
}

/// Which classes of which library read the folders. The tokenizer is named whether or not there is one yet.
fn index(info: &SingleFileInfo, scheduler: Option<&Value>) -> Value {
    let class = match info.task {
        Some(ModelTask::Inpainting) => "StableDiffusionInpaintPipeline",
        Some(ModelTask::InstructPix2Pix) => "StableDiffusionInstructPix2PixPipeline",
        Some(ModelTask::TextToImage) | None => "StableDiffusionPipeline",
    };
    let part = |part, library: &str, class: &str| match info.components.contains(&part) {
        true => json!([library, class]),
        false => json!([null, null]),
    };
    let nothing = json!([null, null]);
    json!({
        "_class_name": class,
        "feature_extractor": nothing,
        "image_encoder": nothing,
        "requires_safety_checker": false,
        "safety_checker": nothing,
        "scheduler": ["diffusers", scheduler],
        "text_encoder": part(Component::TextEncoder, "transformers", "CLIPTextModel"),
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": part(Component::Unet, "diffusers", "UNet2DConditionModel"),
        "vae": part(Component::Vae, "diffusers", "AutoencoderKL"),
    })
}

fn tokenizer(
    model: &ModelFiles,
    info: &SingleFileInfo,
    options: &ModelConversionOptions,
    plan: &mut Plan,
) -> Result<(), FormatError> {
    let folder = match model.tokenizer() {
        Ok(folder) => folder,
        Err(FormatError::NoTokenizer { .. }) => {
            let generation = if info.version == Some(ModelVersion::V2) { "2.x" } else { "1.x" };
            plan.notes.push(format!(
                "a single file has no tokenizer: copy the folder `tokenizer` of a {generation} model into the result, or \
                 name it with `--tokenizer`"
            ));
            return Ok(());
        }
        Err(other) => return Err(other),
    };
    let files = settings_files(&folder);
    if files.is_empty() && options.tokenizer.is_some() {
        let problem = "it holds no tokenizer; name the folder that holds vocab.json and merges.txt".to_owned();
        return Err(FormatError::NotConvertible { path: folder, problem });
    }
    let special: Value = read_json_if_there(&folder.join("special_tokens_map.json"))?.unwrap_or_default();
    let pad = special["pad_token"].as_str().or(special["pad_token"]["content"].as_str());
    if let (Some(pad), Some(expected)) = (pad, model.pad_token().filter(|expected| pad != Some(*expected))) {
        plan.notes.push(format!(
            "{} fills prompts up with `{pad}`, models of this generation are trained with `{expected}`; take the \
             tokenizer of one of them",
            folder.display()
        ));
    }
    for path in files {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        plan.files.insert(format!("tokenizer/{name}"), read_small(&path)?);
    }
    Ok(())
}

/// Names what of the file no part is made of.
fn leftovers(model: &ModelFiles, info: &SingleFileInfo, plan: &mut Plan) {
    let Some(single) = model.file() else { return };
    let used: BTreeSet<String> = plan
        .weights
        .values()
        .flat_map(|made| made.weights().names().flat_map(|name| made.weights().sources(name)))
        .map(str::to_owned)
        .collect();
    for name in single.names().filter(|name| !used.contains(*name)) {
        let reason = match () {
            () if info.unknown.iter().any(|unknown| unknown == name) => "no model of this family has such a tensor",
            () if name.contains("model_ema.") && info.uses_ema => "counts the averages, which have become the weights",
            () if name.contains("model_ema.") => "an average of the UNet's weights, which were taken themselves",
            () if info.uses_ema && name.contains("diffusion_model.") => "its average was taken in its place",
            () => "belongs to training or to the noise schedule, or is a part that Stable Diffusion does not read",
        };
        plan.drop(name, reason);
    }
    if let [first, ..] = &info.unknown[..] {
        plan.notes.push(format!(
            "{} tensors that no model of this family has are left out, first `{first}`",
            info.unknown.len()
        ));
    }
    file::drop_values(single.values(), plan);
}
