//! The frozen models around an adapter in training.

use std::path::Path;

use image::RgbImage;
use ipa_clip::{ClipModel, ClipTokenizer, TextTower, TokenizerError};
use ipa_core::device::kind_name;
use ipa_core::tch::{self, Device, Kind, Tensor};
use ipa_core::{Component, picture};
use ipa_formats::{self as formats, ModelFiles, ModelTask};
use ipa_sample::{
    ImageEncoder, NoiseSchedule, PipelineError, PredictionType, Sampler, SamplerKind, SchedulerFile, check_parts,
    decode_each, native_side,
};
use ipa_unet::{Unet, UnetConfig};
use ipa_vae::{DiagonalGaussian, Vae};
use serde_json::{Value, json};

use crate::dataset::DataError;
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
    scorer: Option<ClipModel>,
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
            scorer: None,
        })
    }

    /// With a whole CLIP that scores what validations draw; without one the image encoder scores likeness to references.
    pub fn with_scorer(self, scorer: Option<ClipModel>) -> Self {
        Self { scorer, ..self }
    }

    /// What scores.
    pub(crate) fn scorer(&self) -> Option<&ClipModel> {
        self.scorer.as_ref()
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

    /// The distribution of a picture's latents, on the CPU, f32; the picture is of the training's size.
    pub fn posterior(&self, picture: &RgbImage) -> DiagonalGaussian {
        let _no_grad = tch::no_grad_guard();
        let (device, kind) = self.options;
        let pixels = picture::to_pixels(std::slice::from_ref(picture)).to_device(device).to_kind(kind);
        let DiagonalGaussian { mean, logvar } = self.vae.encode(&pixels);
        let keep = |tensor: Tensor| tensor.to_device(Device::Cpu).to_kind(Kind::Float);
        DiagonalGaussian { mean: keep(mean), logvar: keep(logvar) }
    }

    /// What a picture's encoding depends on beside the picture: a component's weights, device and kind.
    pub(crate) fn origin_of(&self, component: &str) -> Value {
        json!([self.digests[component], kind_name(self.options.1), format!("{:?}", self.options.0)])
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
