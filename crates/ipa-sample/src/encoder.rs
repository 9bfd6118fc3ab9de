//! What turns reference images into embeddings.

use std::path::Path;

use image::{Rgb, RgbImage};
use ipa_adapter::ImageFeatures;
use ipa_clip::{ImageProcessor, VisionFeatures, VisionTower};
use ipa_core::tch::{self, Device, Kind, Tensor};
use ipa_formats::ModelFiles;

use crate::{Crop, PipelineError, RequestError};

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
        self.features(pictures, ImageFeatures::Embedding)
    }

    /// What an adapter reads of pictures: embeddings `[n, projection_dim]` or the features before the last layer
    /// `[n, 1 + patches, hidden_size]`, neither normalised.
    pub fn features(&self, pictures: &[RgbImage], features: ImageFeatures) -> Tensor {
        self.features_of_pixels(&ipa_clip::pixel_tensor(&self.processor, pictures), features)
    }

    /// What stands for no picture in classifier-free guidance, `[1, ..]`: zeros in place of an embedding; where an
    /// adapter reads the features before the last layer, those of a picture of zeros after normalisation, which is not
    /// black.
    pub fn unconditional(&self, features: ImageFeatures) -> Tensor {
        let on_cpu = (Kind::Float, Device::Cpu); // where pictures come from; tower and adapter take them to their own device
        match features {
            ImageFeatures::Embedding => Tensor::zeros([1, self.width(features)], on_cpu),
            ImageFeatures::Penultimate => {
                let side = self.tower.config().image_size;
                self.features_of_pixels(&Tensor::zeros([1, 3, side, side], on_cpu), features)
            }
        }
    }

    /// The squares of a picture that it is to see, with red and blue exchanged if `bgr`.
    ///
    /// # Errors
    /// [`RequestError::Field`] if it would take very many.
    pub fn squares(&self, picture: &RgbImage, crop: Crop, bgr: bool) -> Result<Vec<RgbImage>, RequestError> {
        if !bgr {
            return crop.squares(picture, self.side(), self.mean_colour());
        }
        let mut exchanged = picture.clone();
        exchanged.pixels_mut().for_each(|pixel| pixel.0.reverse());
        crop.squares(&exchanged, self.side(), self.mean_colour())
    }

    /// Side of the pictures it sees, in pixels.
    pub fn side(&self) -> u32 {
        self.tower.config().image_size as u32
    }

    /// The colour that is zero to it.
    pub fn mean_colour(&self) -> Rgb<u8> {
        Rgb(self.processor.mean_colour())
    }

    /// How wide these features are.
    pub fn width(&self, features: ImageFeatures) -> i64 {
        match features {
            ImageFeatures::Embedding => self.tower.config().projection_dim,
            ImageFeatures::Penultimate => self.tower.config().hidden_size,
        }
    }

    fn features_of_pixels(&self, pixels: &Tensor, features: ImageFeatures) -> Tensor {
        let _no_grad = tch::no_grad_guard();
        let VisionFeatures { penultimate, image_embeds } = self.tower.forward(pixels);
        match features {
            ImageFeatures::Embedding => image_embeds,
            ImageFeatures::Penultimate => penultimate,
        }
    }
}
