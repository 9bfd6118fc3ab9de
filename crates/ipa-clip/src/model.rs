//! Both towers together, for scores.

use std::path::Path as FilePath;

use image::RgbImage;
use ipa_core::tch::{self, Device, Kind, Tensor};
use ipa_core::{Component, Config, WeightsError, load_component};
use serde::{Deserialize, Serialize};

use crate::{
    ClipTokenizer, ImageProcessor, PreprocessError, TextConfig, TextTower, TokenizerError, VisionConfig, VisionTower,
};

/// Sizes of both towers, as published in the `config.json` of a `CLIPModel`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClipConfig {
    /// The text tower.
    pub text_config: TextConfig,
    /// The vision tower.
    pub vision_config: VisionConfig,
    /// Width of the space they share.
    pub projection_dim: i64,
}

impl Config for ClipConfig {
    fn check(&self) -> Result<(), String> {
        self.text_config.check().map_err(|reason| format!("`text_config`: {reason}"))?;
        self.vision_config.check().map_err(|reason| format!("`vision_config`: {reason}"))
    }
}

impl ClipConfig {
    /// The towers' sizes with the shared projection, which both have whatever their own fields say.
    fn towers(&self) -> (TextConfig, VisionConfig) {
        let (mut text, mut vision) = (self.text_config.clone(), self.vision_config.clone());
        (text.projection_dim, vision.projection_dim) = (self.projection_dim, self.projection_dim);
        text.architectures = Some(vec!["CLIPTextModelWithProjection".to_owned()]);
        (text, vision)
    }
}

/// Why a CLIP model cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum ClipError {
    /// Weights or sizes are at fault.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The tokenizer's files are at fault.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The image processor's configuration is at fault.
    #[error(transparent)]
    Processor(#[from] PreprocessError),
}

/// A whole CLIP (`CLIPModel`, such as openai/clip-vit-large-patch14): captions and pictures in one space.
#[derive(Debug)]
pub struct ClipModel {
    tokenizer: ClipTokenizer,
    processor: ImageProcessor,
    text: TextTower,
    vision: VisionTower,
}

impl ClipModel {
    /// Loads a folder with `config.json`, weights, tokenizer files and `preprocessor_config.json`.
    ///
    /// # Errors
    /// [`ClipError`] naming the file at fault.
    pub fn load(folder: &FilePath, options: (Device, Kind)) -> Result<Self, ClipError> {
        let loaded: Component<ClipConfig, (TextTower, VisionTower)> =
            load_component(&folder.into(), options, model_name, |vs, config: &ClipConfig| {
                let (text, vision) = config.towers();
                (TextTower::new(&vs, &text), VisionTower::new(&vs, &vision))
            })?;
        let (text, vision) = loaded.model;
        Ok(Self {
            tokenizer: ClipTokenizer::for_tower(folder, text.config(), None)?,
            processor: ImageProcessor::for_tower(folder, vision.config())?,
            text,
            vision,
        })
    }

    /// Embeddings of captions, `[n, projection_dim]`, not normalised.
    ///
    /// # Errors
    /// [`TokenizerError`].
    pub fn text_embeds(&self, captions: &[&str]) -> Result<Tensor, TokenizerError> {
        let _no_grad = tch::no_grad_guard();
        let ids: Vec<Vec<i64>> = captions.iter().map(|text| self.tokenizer.encode(text)).collect::<Result<_, _>>()?;
        let features = self.text.forward(&crate::token_tensor(&ids));
        Ok(features.text_embeds.expect("the text tower of a CLIP model has its projection"))
    }

    /// Embeddings of pictures, `[n, projection_dim]`, not normalised.
    pub fn image_embeds(&self, pictures: &[RgbImage]) -> Tensor {
        let _no_grad = tch::no_grad_guard();
        self.vision.forward(&crate::pixel_tensor(&self.processor, pictures)).image_embeds
    }
}

fn model_name(name: &str) -> Option<String> {
    let skipped = name.ends_with("position_ids") || name == "logit_scale";
    (!skipped).then(|| name.to_owned())
}
