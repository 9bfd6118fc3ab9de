//! What turns reference images into embeddings.

use std::path::Path;

use image::RgbImage;
use ipa_clip::{ImageProcessor, VisionTower};
use ipa_core::tch::{self, Device, Kind, Tensor};
use ipa_formats::ModelFiles;

use crate::PipelineError;

/// A vision tower and the preprocessing that belongs to it.
#[derive(Debug)]
pub struct ImageEncoder {
    /// The tower.
    pub tower: VisionTower,
    /// Resizes, crops and normalises for it.
    pub processor: ImageProcessor,
}

impl ImageEncoder {
    /// Loads `folder`, or without one the model's own `image_encoder`.
    ///
    /// # Errors
    /// [`PipelineError`] naming the file at fault, or that there is no such folder.
    pub fn of_model(model: &ModelFiles, folder: Option<&Path>, options: (Device, Kind)) -> Result<Self, PipelineError> {
        if let Some(folder) = folder {
            return Self::load(folder, None, options);
        }
        let own = model.folder("image_encoder");
        let own = own.ok_or_else(|| PipelineError::NoImageEncoder { model: model.path().to_path_buf() })?;
        Self::load(&own, model.folder("feature_extractor").as_deref(), options)
    }

    /// Loads a transformers-style folder, with the `preprocessor_config.json` of `processor_folder` or else of its own;
    /// where that is not there, with CLIP's own preprocessing at the tower's size.
    ///
    /// # Errors
    /// [`PipelineError`] naming the file at fault.
    pub fn load(
        folder: &Path,
        processor_folder: Option<&Path>,
        options: (Device, Kind),
    ) -> Result<Self, PipelineError> {
        let tower = VisionTower::load(folder, options)?;
        let processor = ImageProcessor::for_tower(processor_folder.unwrap_or(folder), tower.config())?;
        Ok(Self { tower, processor })
    }

    /// Image embeddings `[n, projection_dim]`, not normalised.
    pub fn image_embeds(&self, pictures: &[RgbImage]) -> Tensor {
        let _no_grad = tch::no_grad_guard();
        self.tower.forward(&ipa_clip::pixel_tensor(&self.processor, pictures)).image_embeds
    }
}
