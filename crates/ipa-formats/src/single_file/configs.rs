//! The configurations of a folder, from its tensors' sizes.
//!
//! They are what diffusers takes for such a file: sizes from the tensors, the rest from the published
//! models. Some of it no tensor shows: the numbers of heads and of norm groups, the activation, the
//! scaling of the latents, the size of the pictures, what is predicted. Where a published number does not
//! divide the sizes, the largest common divisor stands in for it.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::info::{ModelTask, ModelVersion, SingleFileInfo};
use super::{Component, PredictionType, SingleFileError, TensorPlan};

/// Groups of every GroupNorm.
const NORM_GROUPS: usize = 32;
/// Attention heads of 1.x, whatever the width.
const HEADS: usize = 8;
/// Width of a head in 2.x and in every CLIP text tower.
const HEAD_WIDTH: usize = 64;
/// `projection_dim` in the configuration of the published 2.x towers, which have no projection.
const V2_PROJECTION: usize = 512;

/// Contents of the configuration files of a folder; `None` for components that the file lacks.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ComponentConfigs {
    /// `unet/config.json`.
    pub unet: Option<Value>,
    /// `vae/config.json`.
    pub vae: Option<Value>,
    /// `text_encoder/config.json`.
    pub text_encoder: Option<Value>,
    /// `scheduler/scheduler_config.json`, there if the UNet is.
    pub scheduler: Option<Value>,
}

/// Configurations for planned tensors in diffusers' names.
pub(super) fn infer(plans: &[TensorPlan], info: &SingleFileInfo) -> Result<ComponentConfigs, SingleFileError> {
    let shapes = |component| {
        let shapes = Shapes::of(plans, component);
        info.components.contains(&component).then_some(shapes)
    };
    let image_size = image_size(info);
    let unet = shapes(Component::Unet);
    Ok(ComponentConfigs {
        scheduler: unet.as_ref().map(|_| scheduler(info)),
        unet: unet.map(|shapes| unet_config(&shapes, info)).transpose()?,
        vae: shapes(Component::Vae).map(|shapes| vae_config(&shapes, image_size)).transpose()?,
        text_encoder: shapes(Component::TextEncoder).map(|shapes| text_config(&shapes, info)).transpose()?,
    })
}

/// Sizes of one component's tensors.
struct Shapes<'a>(BTreeMap<&'a str, &'a [usize]>);

impl<'a> Shapes<'a> {
    fn of(plans: &'a [TensorPlan], component: Component) -> Self {
        let plans = plans.iter().filter(|plan| plan.component == component);
        Self(plans.map(|plan| (plan.name.as_str(), plan.info.shape.as_slice())).collect())
    }

    fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    fn size(&self, name: &str, axis: usize) -> Result<usize, SingleFileError> {
        let shape = self.0.get(name).ok_or_else(|| SingleFileError::Missing { name: name.to_owned() })?;
        let fault = || SingleFileError::Shape {
            name: name.to_owned(),
            shape: shape.to_vec(),
            expected: format!("at least {} sizes", axis + 1),
        };
        shape.get(axis).copied().ok_or_else(fault)
    }

    /// How many of the tensors `name(0)`, `name(1)`, … are there.
    fn count(&self, name: impl Fn(usize) -> String) -> usize {
        (0..self.0.len()).take_while(|&index| self.has(&name(index))).count()
    }

    /// Output channels of the convolutions `name(0)`, `name(1)`, …, of which there is at least one.
    fn channels(&self, name: impl Fn(usize) -> String) -> Result<Vec<usize>, SingleFileError> {
        (0..self.count(&name).max(1)).map(|index| self.size(&name(index), 0)).collect()
    }
}

fn unet_config(shapes: &Shapes, info: &SingleFileInfo) -> Result<Value, SingleFileError> {
    let channels = shapes.channels(|level| format!("down_blocks.{level}.resnets.0.conv1.weight"))?;
    let attends = |half: &str, level| shapes.has(&format!("{half}_blocks.{level}.attentions.0.proj_in.weight"));
    let block_types = |half: &str, with: &'static str, without: &'static str| -> Vec<&str> {
        (0..channels.len()).map(|level| if attends(half, level) { with } else { without }).collect()
    };
    let is_v2 = info.version == Some(ModelVersion::V2);
    let projection = "mid_block.attentions.0.proj_in.weight";
    let mut config = json!({
        "_class_name": "UNet2DConditionModel",
        "act_fn": "silu",
        "attention_head_dim": heads(&channels, is_v2),
        "block_out_channels": channels,
        "center_input_sample": false,
        "cross_attention_dim": shapes.size("mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight", 1)?,
        "down_block_types": block_types("down", "CrossAttnDownBlock2D", "DownBlock2D"),
        "downsample_padding": 1,
        "flip_sin_to_cos": true,
        "freq_shift": 0,
        "in_channels": shapes.size("conv_in.weight", 1)?,
        "layers_per_block": shapes.count(|layer| format!("down_blocks.0.resnets.{layer}.conv1.weight")),
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-5,
        "norm_num_groups": divisor(NORM_GROUPS, &channels),
        "out_channels": shapes.size("conv_out.weight", 0)?,
        "sample_size": image_size(info) / 8,
        "transformer_layers_per_block":
            shapes.count(|layer| format!("mid_block.attentions.0.transformer_blocks.{layer}.norm1.weight")),
        "up_block_types": block_types("up", "CrossAttnUpBlock2D", "UpBlock2D"),
        "use_linear_projection": shapes.0.get(projection).is_some_and(|shape| shape.len() == 2),
    });
    // The published 2.1 at 768 pixels asks for it, the others do not.
    if is_v2 && image_size(info) == 768 {
        config["upcast_attention"] = true.into();
    }
    Ok(config)
}

/// Diffusers' `attention_head_dim`, which is the number of heads: one for all levels in 1.x, each level's own in 2.x.
fn heads(channels: &[usize], is_v2: bool) -> Value {
    let width = divisor(HEAD_WIDTH, channels);
    match is_v2 {
        true => channels.iter().map(|channels| channels / width).collect(),
        false => divisor(HEADS, channels).into(),
    }
}

fn vae_config(shapes: &Shapes, image_size: usize) -> Result<Value, SingleFileError> {
    let channels = shapes.channels(|level| format!("encoder.down_blocks.{level}.resnets.0.conv1.weight"))?;
    Ok(json!({
        "_class_name": "AutoencoderKL",
        "act_fn": "silu",
        "down_block_types": vec!["DownEncoderBlock2D"; channels.len()],
        "in_channels": shapes.size("encoder.conv_in.weight", 1)?,
        "latent_channels": shapes.size("decoder.conv_in.weight", 1)?,
        "layers_per_block": shapes.count(|layer| format!("encoder.down_blocks.0.resnets.{layer}.conv1.weight")),
        "norm_num_groups": divisor(NORM_GROUPS, &channels),
        "out_channels": shapes.size("decoder.conv_out.weight", 0)?,
        "sample_size": image_size,
        "scaling_factor": 0.18215,
        "up_block_types": vec!["UpDecoderBlock2D"; channels.len()],
        "block_out_channels": channels,
    }))
}

fn text_config(shapes: &Shapes, info: &SingleFileInfo) -> Result<Value, SingleFileError> {
    let [tokens, positions] =
        ["token", "position"].map(|kind| format!("text_model.embeddings.{kind}_embedding.weight"));
    let width = shapes.size(&tokens, 1)?;
    let is_v2 = info.version == Some(ModelVersion::V2);
    let (projection, class) = match shapes.0.get("text_projection.weight").and_then(|shape| shape.first()) {
        Some(&projection) => (projection, "CLIPTextModelWithProjection"),
        None => (if is_v2 { V2_PROJECTION } else { width }, "CLIPTextModel"),
    };
    // The ids of the published configurations: with eos 2, transformers takes the largest id of a prompt for its end.
    Ok(json!({
        "architectures": [class],
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "dropout": 0.0,
        "eos_token_id": 2,
        "hidden_act": if is_v2 { "gelu" } else { "quick_gelu" },
        "hidden_size": width,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "intermediate_size": shapes.size("text_model.encoder.layers.0.mlp.fc1.weight", 0)?,
        "layer_norm_eps": 1e-5,
        "max_position_embeddings": shapes.size(&positions, 0)?,
        "model_type": "clip_text_model",
        "num_attention_heads": width / divisor(HEAD_WIDTH, &[width]),
        "num_hidden_layers": shapes.count(|layer| format!("text_model.encoder.layers.{layer}.layer_norm1.weight")),
        "pad_token_id": 1,
        "projection_dim": projection,
        "vocab_size": shapes.size(&tokens, 0)?,
    }))
}

/// The noise schedule of every 1.x and 2.x model, under the class of the published folder.
fn scheduler(info: &SingleFileInfo) -> Value {
    let class = match (info.version, info.task) {
        (Some(ModelVersion::V1), Some(ModelTask::TextToImage)) => "PNDMScheduler",
        (_, Some(ModelTask::InstructPix2Pix)) => "EulerAncestralDiscreteScheduler",
        _ => "DDIMScheduler",
    };
    json!({
        "_class_name": class,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "clip_sample": false,
        "num_train_timesteps": 1000,
        "prediction_type": info.prediction_type.unwrap_or(PredictionType::Epsilon).name(),
        "set_alpha_to_one": false,
        "skip_prk_steps": true,
        "steps_offset": 1,
        "trained_betas": null,
    })
}

/// Pictures' side in training: 768 for the 2.x models that predict velocities, else 512.
fn image_size(info: &SingleFileInfo) -> usize {
    match (info.version, info.task, info.prediction_type) {
        (Some(ModelVersion::V2), Some(ModelTask::TextToImage), Some(PredictionType::VPrediction)) => 768,
        _ => 512,
    }
}

/// The published number, or its largest divisor that divides all sizes too.
fn divisor(published: usize, sizes: &[usize]) -> usize {
    sizes.iter().fold(published, |divisor, &size| gcd(divisor, size))
}

fn gcd(mut a: usize, mut b: usize) -> usize {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_numbers_stand_where_they_divide_the_sizes() {
        assert_eq!(divisor(32, &[320, 640, 1280]), 32);
        assert_eq!(divisor(32, &[16, 24, 32]), 8);
        assert_eq!(divisor(32, &[7]), 1);
        assert_eq!(divisor(32, &[0]), 32);
        assert_eq!(heads(&[320, 640, 1280, 1280], false), json!(8));
        assert_eq!(heads(&[320, 640, 1280, 1280], true), json!([5, 10, 20, 20]));
    }
}
