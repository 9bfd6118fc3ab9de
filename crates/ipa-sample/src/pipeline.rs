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

use crate::{Ddim, GenerateRequest, NoiseSchedule, RequestError, SchedulerConfig, guided};

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
    /// The model's sampler is not built.
    #[error("the model's own sampler `{name}` is not built yet: use `--scheduler ddim`")]
    Sampler {
        /// As in scheduler_config.json.
        name: String,
    },
    /// The schedule has fields that are not computed.
    #[error("scheduler_config.json sets `{field}`, which is not built yet")]
    Schedule {
        /// The field.
        field: &'static str,
    },
    /// Latents stopped being numbers.
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

    /// Loads a transformers-style folder; without a `preprocessor_config.json` in it or in `processor_folder`, CLIP's
    /// own preprocessing at the tower's size.
    ///
    /// # Errors
    /// [`PipelineError`] naming the file at fault.
    pub fn load(
        folder: &Path,
        processor_folder: Option<&Path>,
        options: (Device, Kind),
    ) -> Result<Self, PipelineError> {
        let tower = VisionTower::load(folder, options)?;
        let size = tower.config().image_size as u32;
        let processor = ImageProcessor::from_folder_or_size(processor_folder.unwrap_or(folder), size)?;
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
    scheduler: SchedulerConfig,
    schedule: NoiseSchedule,
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
        let scheduler = SchedulerConfig::from_folder(&folder.require("scheduler")?)?;
        check_schedule(&scheduler)?;
        Ok(Self {
            tokenizer: ClipTokenizer::from_folder(&folder.require("tokenizer")?)?,
            text: TextTower::load(&folder.require("text_encoder")?, options)?,
            unet: Unet::load(&folder.require("unet")?, options)?,
            vae: Vae::load(&folder.require("vae")?, options)?,
            adapter: None,
            schedule: NoiseSchedule::new(&scheduler),
            scheduler,
            options,
            folder,
        })
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
        let latents = self.unet.config().sample_size.unwrap_or(64);
        (latents * self.vae.config().downsampling()) as u32
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
        let sampler = self.sampler(request)?;
        let guidance = (request.guidance_scale > 1.0).then_some(request.guidance_scale);
        let context = self.context(request, guidance.is_some())?;
        let prompt = self.image_prompt(request, references, guidance.is_some())?;
        let hook: &dyn CrossAttentionHook = prompt.as_ref().map_or(&NoHook, |prompt| prompt);
        let mut latents = self.initial_latents(request);
        for (index, timestep) in sampler.timesteps().enumerate() {
            let timestep = Tensor::from(timestep);
            let noise_pred = match guidance {
                Some(scale) => {
                    let doubled = Tensor::cat(&[&latents, &latents], 0); // [uncond; cond]
                    guided(&self.unet.forward(&doubled, &timestep, &context, hook), scale)
                }
                None => self.unet.forward(&latents, &timestep, &context, hook),
            };
            latents = sampler.step(index, &noise_pred, &latents);
            if progress(index + 1).is_break() {
                return Err(PipelineError::Interrupted { step: index + 1 });
            }
        }
        if latents.isfinite().logical_not().any().int64_value(&[]) != 0 {
            return Err(PipelineError::NotANumber);
        }
        Ok(Generated { pictures: self.decode(&latents), latents })
    }

    /// Pictures of sampled latents.
    pub fn decode(&self, latents: &Tensor) -> Vec<RgbImage> {
        let _no_grad = tch::no_grad_guard();
        // One at a time: the decoder's activations are the largest of all.
        let decode = |index: i64| self.vae.decode(&(latents.narrow(0, index, 1) / self.vae.config().scaling_factor));
        (0..latents.size()[0]).flat_map(|index| picture::to_pictures(&decode(index))).collect()
    }

    fn sampler(&self, request: &GenerateRequest) -> Result<Ddim, PipelineError> {
        match &request.scheduler {
            Some(name) if name != "ddim" => {
                return Err(
                    RequestError::Field { field: "scheduler", value: name.clone(), allowed: "choose ddim" }.into()
                );
            }
            None if self.scheduler.class_name != "DDIMScheduler" => {
                return Err(PipelineError::Sampler { name: self.scheduler.class_name.clone() });
            }
            _ => {}
        }
        if request.num_steps as i64 > self.schedule.len() {
            let allowed = "choose at most the model's number of training timesteps";
            return Err(
                RequestError::Field { field: "num_steps", value: request.num_steps.to_string(), allowed }.into()
            );
        }
        Ok(Ddim::new(&self.schedule, &self.scheduler, request.num_steps))
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

    fn initial_latents(&self, request: &GenerateRequest) -> Tensor {
        let factor = self.vae.config().downsampling();
        let side = |side: Option<u32>| i64::from(side.unwrap_or_else(|| self.native_side())) / factor;
        let (height, width) = (side(request.height), side(request.width));
        let shape = [i64::from(request.num_images), self.vae.config().latent_channels, height, width];
        let (device, kind) = self.options;
        Draws::seeded(request.seed).normal(&shape).to_device(device).to_kind(kind)
    }
}

fn check_schedule(config: &SchedulerConfig) -> Result<(), PipelineError> {
    let unbuilt = [
        ("trained_betas", config.trained_betas.is_some()),
        ("rescale_betas_zero_snr", config.rescale_betas_zero_snr),
        ("thresholding", config.thresholding),
    ];
    match unbuilt.into_iter().find(|(_, set)| *set) {
        Some((field, _)) => Err(PipelineError::Schedule { field }),
        None if !(1..=1_000_000).contains(&config.num_train_timesteps) => {
            Err(PipelineError::Schedule { field: "num_train_timesteps" })
        }
        None => Ok(()),
    }
}
