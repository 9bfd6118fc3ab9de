//! The frozen models around an adapter in training.

use std::path::Path;

use image::RgbImage;
use ipa_adapter::ImageFeatures;
use ipa_clip::{ClipTokenizer, TextTower, TokenizerError};
use ipa_core::Component;
use ipa_core::tch::{self, Device, Kind, Tensor};
use ipa_formats::{self as formats, ModelFiles, ModelTask};
use ipa_sample::{
    ImageEncoder, NoiseSchedule, PipelineError, PredictionType, Sampler, SamplerKind, SchedulerFile, check_parts,
    decode_each, native_side,
};
use ipa_unet::{Unet, UnetConfig};
use ipa_vae::{DiagonalGaussian, Vae};
use serde_json::Value;

use crate::data::{DataError, Dataset, training_pixels};
use crate::identity;

/// Why the models cannot be trained against.
#[derive(Debug, thiserror::Error)]
pub enum ModelsError {
    /// A file of them is at fault, as it would be for drawing.
    #[error(transparent)]
    Load(#[from] PipelineError),
    /// The model reads more than latents.
    #[error("the model is one for inpainting; train on a text-to-image model, whose adapters work in both")]
    Inpainting,
}

/// A base model and an image encoder, frozen.
#[derive(Debug)]
pub struct FrozenModels {
    tokenizer: ClipTokenizer,
    text: TextTower,
    vae: Vae,
    encoder: ImageEncoder,
    /// The UNet with its variables, from which K' and V' start.
    pub unet: Component<UnetConfig, Unet>,
    /// Its noise schedule.
    pub schedule: NoiseSchedule,
    prediction: PredictionType,
    scheduler: SchedulerFile,
    digests: Value,
    options: (Device, Kind),
}

/// All that a step needs of one row; on the CPU, f32.
#[derive(Debug)]
pub struct EncodedRow {
    posterior: DiagonalGaussian,
    text_embeds: Tensor,
    image_features: Tensor,
}

impl EncodedRow {
    /// The distribution of the picture's latents.
    pub fn posterior(&self) -> &DiagonalGaussian {
        &self.posterior
    }

    /// The caption's features `[1, tokens, width]`.
    pub fn text_embeds(&self) -> &Tensor {
        &self.text_embeds
    }

    /// What the adapter reads of the picture: its embedding `[1, embed_dim]`, or features `[1, patches, width]`.
    pub fn image_features(&self) -> &Tensor {
        &self.image_features
    }
}

impl FrozenModels {
    /// Loads a model, a folder or a single file, and a vision tower, from `image_encoder` or the model's own.
    ///
    /// # Errors
    /// [`ModelsError`] naming the file at fault.
    pub fn load(model: &Path, image_encoder: Option<&Path>, options: (Device, Kind)) -> Result<Self, ModelsError> {
        Self::load_files(&ModelFiles::open(model).map_err(PipelineError::from)?, image_encoder, options)
    }

    /// As [`FrozenModels::load`], of a model that is open already, perhaps with parts from elsewhere.
    ///
    /// # Errors
    /// As [`FrozenModels::load`].
    pub fn load_files(
        model: &ModelFiles,
        image_encoder: Option<&Path>,
        options: (Device, Kind),
    ) -> Result<Self, ModelsError> {
        let scheduler = SchedulerFile::of_model(model).map_err(PipelineError::from)?;
        match check_parts(model)? {
            ModelTask::TextToImage => Ok(Self::load_parts(model, scheduler, image_encoder, options)?),
            _ => Err(ModelsError::Inpainting),
        }
    }

    fn load_parts(
        model: &ModelFiles,
        scheduler: SchedulerFile,
        image_encoder: Option<&Path>,
        options: (Device, Kind),
    ) -> Result<Self, PipelineError> {
        let config = scheduler.own_config()?;
        let encoder = ImageEncoder::of_model(model, image_encoder, options)?;
        let text = TextTower::load(&model.component(formats::Component::TextEncoder)?, options)?;
        Ok(Self {
            tokenizer: ClipTokenizer::for_tower(&model.tokenizer()?, text.config(), model.pad_token())?,
            text,
            vae: Vae::load(&model.component(formats::Component::Vae)?, options)?,
            unet: Unet::load_with_variables(&model.component(formats::Component::Unet)?, options)?,
            schedule: NoiseSchedule::new(&config),
            prediction: config.prediction_type,
            scheduler,
            encoder,
            digests: identity::of_models(model, image_encoder)?,
            options,
        })
    }

    /// The image encoder.
    pub fn encoder(&self) -> &ImageEncoder {
        &self.encoder
    }

    /// Side of a picture the model was trained at, in pixels.
    pub fn native_side(&self) -> u32 {
        native_side(&self.unet.config, self.vae.config())
    }

    /// What the UNet predicts.
    pub fn prediction(&self) -> PredictionType {
        self.prediction
    }

    /// A sampler of the model's schedule that draws no noise on the way: DDIM.
    ///
    /// # Errors
    /// [`PipelineError`] naming a field of the scheduler's file that is not computed, or `num_steps` if there are too many.
    pub fn sampler(&self, num_steps: usize) -> Result<Box<dyn Sampler>, PipelineError> {
        self.scheduler.sampler(SamplerKind::Ddim, num_steps, 0.0)
    }

    /// Pictures of latents, scaled as the UNet sees them; none if what the VAE makes of them is no number.
    pub fn decode(&self, latents: &Tensor) -> Option<Vec<RgbImage>> {
        let _no_grad = tch::no_grad_guard();
        decode_each(&self.vae, latents, false)
    }

    /// What latents are multiplied by.
    pub fn scaling_factor(&self) -> f64 {
        self.vae.config().scaling_factor
    }

    /// Device and kind that the models compute in.
    pub fn options(&self) -> (Device, Kind) {
        self.options
    }

    /// What tells these models from others, by component.
    pub(crate) fn digests(&self) -> &Value {
        &self.digests
    }

    /// Features of a caption, `[1, tokens, width]`.
    ///
    /// # Errors
    /// [`TokenizerError`].
    pub fn text_embeds(&self, text: &str) -> Result<Tensor, TokenizerError> {
        let _no_grad = tch::no_grad_guard();
        Ok(self.text.forward(&ipa_clip::token_tensor(&[self.tokenizer.encode(text)?])).last_hidden_state)
    }

    /// Runs a row through every frozen encoder: the picture cropped for the VAE, whole for the image encoder.
    ///
    /// # Errors
    /// [`DataError`] or [`TokenizerError`].
    pub fn encode(
        &self,
        dataset: &Dataset,
        row: usize,
        resolution: u32,
        features: ImageFeatures,
    ) -> Result<EncodedRow, EncodeError> {
        let _no_grad = tch::no_grad_guard();
        let picture = dataset.picture(row)?;
        let (device, kind) = self.options;
        let pixels = training_pixels(&picture, resolution).to_device(device).to_kind(kind);
        let DiagonalGaussian { mean, logvar } = self.vae.encode(&pixels);
        let keep = |tensor: Tensor| tensor.to_device(Device::Cpu).to_kind(Kind::Float);
        Ok(EncodedRow {
            posterior: DiagonalGaussian { mean: keep(mean), logvar: keep(logvar) },
            text_embeds: keep(self.text_embeds(dataset.text(row))?),
            image_features: keep(self.encoder.features(&[picture], features)),
        })
    }
}

/// Why a row cannot be encoded.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// The picture.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The caption.
    #[error(transparent)]
    Caption(#[from] TokenizerError),
}
