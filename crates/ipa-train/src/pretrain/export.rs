//! Writing the pocket model in the published folder layout.

use std::io::Write;
use std::path::Path;

use ipa_adapter::{AdapterError, IpAdapter};
use ipa_core::tch::{Kind, Tensor, nn::VarStore};
use ipa_core::{WeightsError, save_tensors, save_variables};
use ipa_formats::write_atomically;
use ipa_sample::SchedulerConfig;
use ipa_unet::UnetConfig;
use ipa_vae::VaeConfig;
use serde_json::{Value, json};

use super::clip::Towers;

const VERSION: &str = "0.42.1"; // of diffusers, whose layout this is

/// Writes `vae/`.
///
/// # Errors
/// [`WeightsError`] if a file cannot be written.
pub fn vae(model: &Path, vs: &VarStore, config: &VaeConfig) -> Result<(), WeightsError> {
    let levels = config.block_out_channels.len();
    let mut json = json!(config);
    extend(
        &mut json,
        json!({
            "_class_name": "AutoencoderKL", "_diffusers_version": VERSION, "act_fn": "silu", "sample_size": 64,
            "down_block_types": vec!["DownEncoderBlock2D"; levels], "up_block_types": vec!["UpDecoderBlock2D"; levels],
        }),
    );
    component(&model.join("vae"), "diffusion_pytorch_model.safetensors", &json, vs)
}

/// Writes `unet/`.
///
/// # Errors
/// [`WeightsError`] if a file cannot be written.
pub fn unet(model: &Path, vs: &VarStore, config: &UnetConfig) -> Result<(), WeightsError> {
    let mut json = json!(config);
    extend(
        &mut json,
        json!({
            "_class_name": "UNet2DConditionModel", "_diffusers_version": VERSION, "act_fn": "silu",
            "center_input_sample": false, "downsample_padding": 1, "flip_sin_to_cos": true, "freq_shift": 0,
            "mid_block_scale_factor": 1,
        }),
    );
    component(&model.join("unet"), "diffusion_pytorch_model.safetensors", &json, vs)
}

/// Writes `text_encoder/`.
///
/// # Errors
/// [`WeightsError`] if a file cannot be written.
pub fn text_encoder(model: &Path, towers: &Towers) -> Result<(), WeightsError> {
    let mut text = text_json(towers);
    extend(&mut text, json!({ "architectures": ["CLIPTextModel"], "model_type": "clip_text_model" }));
    tower(&model.join("text_encoder"), towers, "text.", &text)
}

/// Writes `image_encoder/` and `feature_extractor/`.
///
/// # Errors
/// [`WeightsError`] if a file cannot be written.
pub fn image_encoder(model: &Path, towers: &Towers) -> Result<(), WeightsError> {
    let mut vision = vision_json(towers);
    extend(
        &mut vision,
        json!({ "architectures": ["CLIPVisionModelWithProjection"], "model_type": "clip_vision_model" }),
    );
    tower(&model.join("image_encoder"), towers, "vision.", &vision)?;
    write_json(&model.join("feature_extractor/preprocessor_config.json"), &processor_json(towers))
}

/// One of the towers, whose names begin with `prefix`.
fn tower(folder: &Path, towers: &Towers, prefix: &str, json: &Value) -> Result<(), WeightsError> {
    let own = half(towers).into_iter().filter_map(|(name, tensor)| {
        let name = name.strip_prefix(prefix).filter(|name| !name.starts_with("text_projection"))?;
        Some((name.to_owned(), tensor))
    });
    write_json(&folder.join("config.json"), json)?;
    save_tensors(&folder.join("model.safetensors"), own, None)
}

/// Replaces the weights of `text_encoder/` by those that learned with the UNet.
///
/// # Errors
/// [`WeightsError`] if the file cannot be written.
pub fn text_weights(model: &Path, vs: &VarStore) -> Result<(), WeightsError> {
    save_variables(&model.join("text_encoder/model.safetensors"), vs, Kind::Half, None)
}

/// Writes `clip/`: a whole `CLIPModel`, for scores; its tokenizer files are written beside it by the caller.
///
/// # Errors
/// [`WeightsError`] if a file cannot be written.
pub fn clip(folder: &Path, towers: &Towers) -> Result<(), WeightsError> {
    let config = json!({
        "architectures": ["CLIPModel"], "model_type": "clip", "projection_dim": towers.vision.config().projection_dim,
        "text_config": text_json(towers), "vision_config": vision_json(towers), "logit_scale_init_value": 2.6592,
    });
    write_json(&folder.join("config.json"), &config)?;
    write_json(&folder.join("preprocessor_config.json"), &processor_json(towers))?;
    let own = half(towers).into_iter().map(|(name, tensor)| match name.split_once('.') {
        Some(("logit_scale", _)) => ("logit_scale".to_owned(), tensor.squeeze()),
        Some((_, rest)) => (rest.to_owned(), tensor),
        None => (name, tensor),
    });
    save_tensors(&folder.join("model.safetensors"), own, None)
}

/// Writes the adapter in the published layout.
///
/// # Errors
/// [`WeightsError`] if the file cannot be written.
pub fn adapter(model: &Path, adapter: &IpAdapter) -> Result<(), AdapterError> {
    adapter.save(&model.join("ip_adapter.safetensors"), Kind::Half, Some(&json!({ "variant": "classic" })))
}

fn half(towers: &Towers) -> Vec<(String, Tensor)> {
    towers.vs.variables().into_iter().map(|(name, tensor)| (name, tensor.to_kind(Kind::Half))).collect()
}

fn text_json(towers: &Towers) -> Value {
    let config = towers.text.config();
    let mut json = json!(config);
    extend(&mut json, json!({ "bos_token_id": config.vocab_size - 2, "pad_token_id": config.vocab_size - 1 }));
    json
}

fn vision_json(towers: &Towers) -> Value {
    let mut json = json!(towers.vision.config());
    extend(&mut json, json!({ "num_channels": 3 }));
    json
}

fn processor_json(towers: &Towers) -> Value {
    let side = towers.vision.config().image_size;
    json!({
        "image_processor_type": "CLIPImageProcessor", "do_center_crop": true, "do_convert_rgb": true,
        "do_normalize": true, "do_rescale": true, "do_resize": true, "resample": 3, "rescale_factor": 1.0 / 255.0,
        "crop_size": { "height": side, "width": side }, "size": { "shortest_edge": side },
        "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
    })
}

/// Writes `scheduler/` and `model_index.json`.
///
/// # Errors
/// [`WeightsError`] if a file cannot be written.
pub fn index(model: &Path) -> Result<(), WeightsError> {
    let mut scheduler = json!(SchedulerConfig::sd15_ddim());
    extend(&mut scheduler, json!({ "_diffusers_version": VERSION, "clip_sample": false }));
    write_json(&model.join("scheduler/scheduler_config.json"), &scheduler)?;
    let index = json!({
        "_class_name": "StableDiffusionPipeline", "_diffusers_version": VERSION,
        "vae": ["diffusers", "AutoencoderKL"], "unet": ["diffusers", "UNet2DConditionModel"],
        "text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"],
        "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
        "feature_extractor": ["transformers", "CLIPImageProcessor"], "scheduler": ["diffusers", "DDIMScheduler"],
        "safety_checker": [null, null], "requires_safety_checker": false,
    });
    write_json(&model.join("model_index.json"), &index)
}

fn component(folder: &Path, weights: &str, config: &Value, vs: &VarStore) -> Result<(), WeightsError> {
    write_json(&folder.join("config.json"), config)?;
    save_variables(&folder.join(weights), vs, Kind::Half, None)
}

fn write_json(path: &Path, value: &Value) -> Result<(), WeightsError> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)
            .map_err(|source| ipa_formats::FormatError::Write { path: path.into(), source })?;
    }
    let text = format!("{value:#}\n");
    Ok(write_atomically(path, |file: &mut dyn Write| file.write_all(text.as_bytes()))?)
}

fn extend(json: &mut Value, more: Value) {
    if let (Value::Object(fields), Value::Object(more)) = (json, more) {
        fields.extend(more);
    }
}
