//! The vision tower.

use std::path::Path as FilePath;

use image::RgbImage;
use ipa_core::layers::{
    Conv2d, Embedding, LayerNorm, Linear, declare, embedding, layer_norm, linear_no_bias, patch_conv2d,
};
use ipa_core::tch::{Device, Kind, Tensor, nn::Path};
use ipa_core::{WeightsError, load_component};

use crate::encoder::{Encoder, EncoderConfig};
use crate::{ImageProcessor, VisionConfig};

/// A transformer over image patches (`CLIPVisionModelWithProjection`, arXiv:2010.11929).
#[derive(Debug)]
pub struct VisionTower {
    config: VisionConfig,
    class_embedding: Tensor,
    patch_embedding: Conv2d,
    position_embedding: Embedding,
    pre_layrnorm: LayerNorm, // (sic) the published name
    encoder: Encoder,
    post_layernorm: LayerNorm,
    visual_projection: Linear,
    vs_options: (Device, Kind),
}

/// What a vision tower says of pictures.
#[derive(Debug)]
pub struct VisionFeatures {
    /// Features before the last block, not normalised: `[batch, 1 + patches, hidden_size]`.
    pub penultimate: Tensor,
    /// One vector a picture in the space shared with text: `[batch, projection_dim]`, not normalised.
    pub image_embeds: Tensor,
}

impl VisionTower {
    /// Declares the tower's variables under `vs`.
    pub fn new(vs: &Path, config: &VisionConfig) -> Self {
        let (width, model) = (config.hidden_size, vs / "vision_model");
        let embeddings = &model / "embeddings";
        let side = config.image_size / config.patch_size;
        let encoder = EncoderConfig {
            width,
            feed_forward: config.intermediate_size,
            layers: config.num_hidden_layers,
            heads: config.num_attention_heads,
            activation: config.hidden_act,
            eps: config.layer_norm_eps,
            causal: false,
        };
        Self {
            config: config.clone(),
            class_embedding: declare(&embeddings, "class_embedding", &[width]),
            patch_embedding: patch_conv2d(&(&embeddings / "patch_embedding"), 3, width, config.patch_size),
            position_embedding: embedding(&(&embeddings / "position_embedding"), side * side + 1, width),
            pre_layrnorm: layer_norm(&(&model / "pre_layrnorm"), width, config.layer_norm_eps),
            encoder: Encoder::new(&(&model / "encoder"), encoder),
            post_layernorm: layer_norm(&(&model / "post_layernorm"), width, config.layer_norm_eps),
            visual_projection: linear_no_bias(&(vs / "visual_projection"), width, config.projection_dim),
            vs_options: (vs.device(), vs.kind()),
        }
    }

    /// Loads a published `image_encoder` folder; tensor names may lack their `vision_model.` prefix.
    ///
    /// # Errors
    /// [`WeightsError`] naming the file, and the field or tensor, at fault.
    pub fn load(folder: &FilePath, options: (Device, Kind)) -> Result<Self, WeightsError> {
        Ok(load_component(&folder.into(), options, model_name, |vs, config| Self::new(&vs, config))?.model)
    }

    /// The sizes it was built with.
    pub fn config(&self) -> &VisionConfig {
        &self.config
    }

    /// Features of preprocessed pictures `[batch, 3, image_size, image_size]`.
    pub fn forward(&self, pixel_values: &Tensor) -> VisionFeatures {
        let (device, kind) = self.vs_options;
        let pixel_values = pixel_values.to_device(device).to_kind(kind);
        let patches = pixel_values.apply(&self.patch_embedding).flatten(2, 3).transpose(1, 2); // [b, patches, width]
        let class = self.class_embedding.expand([patches.size()[0], 1, self.config.hidden_size], false);
        let tokens = Tensor::cat(&[class, patches], 1);
        let tokens = &tokens + self.position_embedding.first(tokens.size()[1]);
        let hidden_states = self.encoder.forward(tokens.apply(&self.pre_layrnorm));
        let [.., penultimate, last] = hidden_states.as_slice() else { unreachable!("a tower has a block") };
        let pooled = last.select(1, 0).apply(&self.post_layernorm);
        VisionFeatures { penultimate: penultimate.shallow_clone(), image_embeds: pooled.apply(&self.visual_projection) }
    }
}

/// Pictures preprocessed into one tensor `[n, 3, size, size]`, f32 on the CPU.
pub fn pixel_tensor(processor: &ImageProcessor, pictures: &[RgbImage]) -> Tensor {
    let values = processor.batch(pictures);
    let shape: Vec<i64> = values.shape().iter().map(|&size| size as i64).collect();
    let flat: Vec<f32> = values.into_iter().collect();
    Tensor::from_slice(&flat).view(shape.as_slice())
}

fn model_name(name: &str) -> Option<String> {
    if name.ends_with("position_ids") {
        return None;
    }
    let own = name.starts_with("vision_model.") || name.starts_with("visual_projection.");
    Some(if own { name.to_owned() } else { format!("vision_model.{name}") })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipa_core::layers::num_parameters;
    use ipa_core::tch::nn::VarStore;

    #[test]
    fn encoders_have_their_published_numbers_of_parameters() {
        for (config, expected) in [
            (VisionConfig::vit_h(), 632_076_800),
            (VisionConfig::vit_l(), 303_966_208),
            (VisionConfig::vit_bigg(), 1_844_907_264),
        ] {
            let vs = VarStore::new(Device::Cpu);
            VisionTower::new(&vs.root(), &config);
            assert_eq!(num_parameters(&vs), expected);
        }
    }
}
