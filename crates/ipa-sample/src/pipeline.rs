//! The whole way from a request to pictures.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use image::RgbImage;
use ipa_adapter::{AdapterError, ImagePrompt, IpAdapter};
use ipa_clip::{ClipTokenizer, ImageProcessor, PreprocessError, TextTower, TokenizerError, VisionTower};
use ipa_core::noise::Draws;
use ipa_core::tch::{self, Device, Kind, Tensor};
use ipa_core::{WeightsError, picture};
use ipa_formats::{FormatError, ModelFolder};
use ipa_unet::{CrossAttentionHook, NoHook, Unet};
use ipa_vae::Vae;

use crate::sampler::steps_done;
use crate::{GenerateRequest, RequestError, Sampler, SamplerKind, SchedulerFile, check_parts, guided, native_side};

/// Why pictures could not be made.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// The request is at fault.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// A file of the model is at fault.
    #[error(transparent)]
    File(#[from] FormatError),
    /// Weights are at fault.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The tokenizer's files are at fault.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The adapter is at fault.
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    /// An image or the image processor's configuration is at fault.
    #[error(transparent)]
    Image(#[from] PreprocessError),
    /// There are reference images but nothing that reads them.
    #[error("the request has reference images but no adapter was loaded: name one with `--adapter`")]
    NoAdapter,
    /// There is nothing that turns pictures into embeddings.
    #[error("{model} has no `image_encoder` folder: name one with `--image-encoder`")]
    NoImageEncoder {
        /// The model's folder.
        model: PathBuf,
    },
    /// The model's sampler is none of those that are built.
    #[error("the model's own sampler `{name}` is not built: choose one with `--scheduler`: {}", SamplerKind::NAMES)]
    Sampler {
        /// As in scheduler_config.json.
        name: String,
    },
    /// Parts that come from different models, or from one of another kind.
    #[error(
        "the parts of {model} do not fit together: {found}, {expected}; take all of them from one text-to-image model \
         (inpainting is not built yet)"
    )]
    Parts {
        /// The model's folder.
        model: PathBuf,
        /// What one part says of the other.
        found: String,
        /// What the other says of itself.
        expected: String,
    },
    /// Latents or pixels stopped being numbers.
    #[error("the model gave values that are not numbers: use `--dtype f32`, or look for broken weights")]
    NotANumber,
    /// The listener asked to stop.
    #[error("interrupted after step {step}")]
    Interrupted {
        /// Steps done.
        step: usize,
    },
}

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
    pub fn of_model(
        model: &ModelFolder,
        folder: Option<&Path>,
        options: (Device, Kind),
    ) -> Result<Self, PipelineError> {
        if let Some(folder) = folder {
            return Self::load(folder, None, options);
        }
        let own = model.component("image_encoder");
        let own = own.ok_or_else(|| PipelineError::NoImageEncoder { model: model.path().to_path_buf() })?;
        Self::load(&own, model.component("feature_extractor").as_deref(), options)
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

/// A Stable Diffusion model, ready to draw; optionally with an image-prompt adapter.
#[derive(Debug)]
pub struct Pipeline {
    folder: ModelFolder,
    tokenizer: ClipTokenizer,
    text: TextTower,
    unet: Unet,
    vae: Vae,
    adapter: Option<(IpAdapter, ImageEncoder)>,
    scheduler: SchedulerFile,
    options: (Device, Kind),
}

/// What a request became.
#[derive(Debug)]
pub struct Generated {
    /// `[n, 4, h/f, w/f]` before the VAE's scaling is undone, as diffusers' `output_type="latent"`.
    pub latents: Tensor,
    /// One a latent, in sampling order.
    pub pictures: Vec<RgbImage>,
}

impl Pipeline {
    /// Loads a diffusers-style model folder.
    ///
    /// # Errors
    /// [`PipelineError`] naming the file, and the field or tensor, at fault.
    pub fn load(folder: &Path, options: (Device, Kind)) -> Result<Self, PipelineError> {
        let folder = ModelFolder::open(folder)?;
        let scheduler = SchedulerFile::open(&folder.require("scheduler")?)?;
        check_parts(&folder)?;
        let text = TextTower::load(&folder.require("text_encoder")?, options)?;
        Ok(Self {
            tokenizer: ClipTokenizer::for_tower(&folder.require("tokenizer")?, text.config())?,
            text,
            unet: Unet::load(&folder.require("unet")?, options)?,
            vae: Vae::load(&folder.require("vae")?, options)?,
            adapter: None,
            scheduler,
            options,
            folder,
        })
    }

    /// Whether the model in `folder` can carry out a request, as far as its files tell without the weights: its
    /// sampler, its schedule, its parts. What [`Pipeline::generate`] would refuse only after [`Pipeline::load`].
    ///
    /// # Errors
    /// [`PipelineError`] naming the field of the request, or the file and its field, at fault.
    pub fn check(folder: &Path, request: &GenerateRequest) -> Result<(), PipelineError> {
        request.check()?;
        let folder = ModelFolder::open(folder)?;
        sampler(&SchedulerFile::open(&folder.require("scheduler")?)?, request)?;
        check_parts(&folder)
    }

    /// Adds an adapter file; its encoder lies in `image_encoder` or in the model's folder.
    ///
    /// # Errors
    /// [`PipelineError`] if either cannot be loaded or they do not belong together.
    pub fn with_adapter(self, adapter: &Path, image_encoder: Option<&Path>) -> Result<Self, PipelineError> {
        let adapter = IpAdapter::load(adapter, self.unet.config(), self.options)?;
        let encoder = ImageEncoder::of_model(&self.folder, image_encoder, self.options)?;
        self.with_loaded_adapter(adapter, encoder)
    }

    /// As [`Pipeline::with_adapter`] with parts that are loaded already.
    ///
    /// # Errors
    /// [`AdapterError::EmbedDim`] if they do not belong together.
    pub fn with_loaded_adapter(mut self, adapter: IpAdapter, encoder: ImageEncoder) -> Result<Self, PipelineError> {
        let (found, expected) = (encoder.tower.config().projection_dim, adapter.config().embed_dim);
        if found != expected {
            return Err(AdapterError::EmbedDim { found, expected }.into());
        }
        self.adapter = Some((adapter, encoder));
        Ok(self)
    }

    /// The adapter and its encoder, if one was added.
    pub fn adapter(&self) -> Option<(&IpAdapter, &ImageEncoder)> {
        self.adapter.as_ref().map(|(adapter, encoder)| (adapter, encoder))
    }

    /// The folder it was loaded from.
    pub fn folder(&self) -> &ModelFolder {
        &self.folder
    }

    /// The UNet.
    pub fn unet(&self) -> &Unet {
        &self.unet
    }

    /// The words of a prompt that the text tower will not see, for a warning.
    pub fn overflow(&self, prompt: &str) -> Option<String> {
        self.tokenizer.overflow(prompt)
    }

    /// The side of a picture when a request names none, in pixels.
    pub fn native_side(&self) -> u32 {
        native_side(self.unet.config(), self.vae.config())
    }

    /// Draws. `references` are the request's images, loaded; without any, an adapter is left alone. `progress` hears of
    /// every step done and may stop.
    ///
    /// Noise, order of draws and every number after it are those of diffusers' `StableDiffusionPipeline` with
    /// `torch.Generator("cpu").manual_seed(seed)`.
    ///
    /// # Errors
    /// [`PipelineError`] if the request is out of range or does not fit what is loaded.
    pub fn generate(
        &self,
        request: &GenerateRequest,
        references: &[RgbImage],
        mut progress: impl FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Generated, PipelineError> {
        request.check()?;
        let _no_grad = tch::no_grad_guard();
        let mut sampler = sampler(&self.scheduler, request)?;
        let guidance = (request.guidance_scale > 1.0).then_some(request.guidance_scale);
        let context = self.context(request, guidance.is_some())?;
        let prompt = self.image_prompt(request, references, guidance.is_some())?;
        let hook: &dyn CrossAttentionHook = prompt.as_ref().map_or(&NoHook, |prompt| prompt);
        let mut draws = Draws::seeded(request.seed);
        let mut latents = self.initial_latents(request, &mut draws) * sampler.init_noise_sigma();
        let timesteps = sampler.timesteps().to_vec();
        // Only samplers that draw again keep other requests from drawing until they are done.
        let mut draws = (0..timesteps.len()).any(|index| sampler.draws_noise(index)).then_some(draws);
        for (index, timestep) in timesteps.into_iter().enumerate() {
            let timestep = Tensor::from(timestep as f32);
            let scaled = sampler.scale_model_input(index, &latents);
            let noise_pred = match guidance {
                Some(scale) => {
                    let doubled = Tensor::cat(&[&scaled, &scaled], 0); // [uncond; cond]
                    guided(&self.unet.forward(&doubled, &timestep, &context, hook), scale)
                }
                None => self.unet.forward(&scaled, &timestep, &context, hook),
            };
            let draws = draws.as_mut().filter(|_| sampler.draws_noise(index));
            let noise = draws.map(|draws| self.noise(draws, &latents.size()));
            latents = sampler.step(index, &noise_pred, &latents, noise.as_ref());
            let Some(step) = steps_done(sampler.as_ref(), index, request.num_steps) else { continue };
            if progress(step).is_break() {
                return Err(PipelineError::Interrupted { step });
            }
        }
        Ok(Generated { pictures: self.decode(&latents)?, latents })
    }

    /// Pictures of sampled latents.
    ///
    /// # Errors
    /// [`PipelineError::NotANumber`] if the latents, or what the VAE makes of them, are none: in f16 it may overflow.
    pub fn decode(&self, latents: &Tensor) -> Result<Vec<RgbImage>, PipelineError> {
        let _no_grad = tch::no_grad_guard();
        let latents = finite(latents / self.vae.config().scaling_factor)?;
        // One at a time: the decoder's activations are the largest of all.
        let decode = |index: i64| {
            let pixels = finite(self.vae.decode(&latents.narrow(0, index, 1)))?;
            Ok(picture::to_pictures(&pixels).swap_remove(0))
        };
        (0..latents.size()[0]).map(decode).collect()
    }

    /// Text features, `[num_images or 2 · num_images, tokens, width]`, unconditional half first.
    fn context(&self, request: &GenerateRequest, guided: bool) -> Result<Tensor, PipelineError> {
        let prompts: &[&str] = match guided {
            true => &[&request.negative_prompt, &request.prompt],
            false => &[&request.prompt],
        };
        let ids: Vec<Vec<i64>> =
            prompts.iter().map(|prompt| self.tokenizer.encode(prompt)).collect::<Result<_, _>>()?;
        let embeds = self.text.forward(&ipa_clip::token_tensor(&ids)).last_hidden_state;
        Ok(embeds.repeat_interleave_self_int(i64::from(request.num_images), 0, None))
    }

    fn image_prompt(
        &self,
        request: &GenerateRequest,
        references: &[RgbImage],
        guided: bool,
    ) -> Result<Option<ImagePrompt>, PipelineError> {
        if references.is_empty() {
            return Ok(None);
        }
        let (adapter, encoder) = self.adapter().ok_or(PipelineError::NoAdapter)?;
        let embeds = encoder.image_embeds(references).unsqueeze(0); // [1, images, embed_dim]
        let embeds = embeds.repeat_interleave_self_int(i64::from(request.num_images), 0, None);
        let prompt = match guided {
            true => adapter.guided_prompt(&embeds, request.scale),
            false => adapter.prompt(&embeds, request.scale),
        };
        Ok(Some(prompt?))
    }

    fn initial_latents(&self, request: &GenerateRequest, draws: &mut Draws) -> Tensor {
        let factor = self.vae.config().downsampling();
        let side = |side: Option<u32>| i64::from(side.unwrap_or_else(|| self.native_side())) / factor;
        let (height, width) = (side(request.height), side(request.width));
        let shape = [i64::from(request.num_images), self.vae.config().latent_channels, height, width];
        self.noise(draws, &shape)
    }

    /// Drawn in f32 on the CPU, whatever the model computes in.
    fn noise(&self, draws: &mut Draws, shape: &[i64]) -> Tensor {
        let (device, kind) = self.options;
        draws.normal(shape).to_device(device).to_kind(kind)
    }
}

/// What the request asks for, or else the model.
fn sampler(file: &SchedulerFile, request: &GenerateRequest) -> Result<Box<dyn Sampler>, PipelineError> {
    let kind = match request.sampler()? {
        Some(kind) => kind,
        None => file.kind()?,
    };
    file.sampler(kind, request.num_steps, request.eta)
}

fn finite(tensor: Tensor) -> Result<Tensor, PipelineError> {
    match tensor.isfinite().all().int64_value(&[]) {
        0 => Err(PipelineError::NotANumber),
        _ => Ok(tensor),
    }
}
