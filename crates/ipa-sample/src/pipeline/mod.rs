//! The whole way from a request to pictures.

mod adapters;
mod decoding;
mod error;
mod inpainting;
mod start;

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use image::RgbImage;
use ipa_adapter::Composition;
use ipa_clip::{ClipTokenizer, TextConfig, TextTower};
use ipa_core::device::{device_name, kind_name};
use ipa_core::layers::lay_out_for_drawing;
use ipa_core::noise::Draws;
use ipa_core::read_config;
use ipa_core::tch::{self, Device, Kind, Tensor};
use ipa_formats::{Component, ModelFiles, ModelTask};
use ipa_unet::{Unet, UnetConfig};
use ipa_vae::Vae;

pub use crate::denoise::Extras;
use crate::denoise::{Conditions, Denoiser};
use crate::graph::{Kept, Recorder};
use crate::image_prompt::Prepared;
use crate::pictures::{Pictures, init_size};
use crate::prompt::Prompts;
use crate::reuse::UnetCall;
use crate::sampler::Calls;
use crate::{
    GenerateRequest, ImageEncoder, NoiseDtype, Record, RequestError, Sampler, SamplerKind, SchedulerFile, check_parts,
    native_side,
};
use adapters::Added;
pub use decoding::{Decoded, decode_each};
pub use error::PipelineError;
use start::Start;

/// A Stable Diffusion model, ready to draw; optionally with an image-prompt adapter.
#[derive(Debug)]
pub struct Pipeline {
    files: ModelFiles,
    tokenizer: ClipTokenizer,
    text: TextTower,
    unet: Unet,
    unet_variables: HashMap<String, Tensor>,
    vae: Vae,
    /// The same in f32, once half precision was not enough.
    vae_f32: OnceCell<Vae>,
    adapters: Vec<Added>,
    /// By the folder that was named, if one was.
    encoders: Vec<(Option<PathBuf>, ImageEncoder)>,
    scheduler: SchedulerFile,
    task: ModelTask,
    options: (Device, Kind),
    is_recording: bool,
    last_graph: RefCell<Option<Kept>>,
}

/// What a request became.
#[derive(Debug)]
pub struct Generated {
    /// `[n, 4, h/f, w/f]` before the VAE's scaling is undone, as diffusers' `output_type="latent"`.
    pub latents: Tensor,
    /// One a latent, in sampling order.
    pub pictures: Vec<RgbImage>,
    /// Whether the VAE gave no numbers in the run's half precision, so that it is used in f32 where it has to be.
    pub vae_in_f32: bool,
    /// By image prompt, `images` first, the tokens of each of its references.
    pub reference_tokens: Vec<Vec<i64>>,
    /// What was asked of the UNet, in this order.
    pub calls: Vec<UnetCall>,
}

impl Pipeline {
    /// Loads a diffusers-style model folder or a single-file checkpoint.
    ///
    /// # Errors
    /// [`PipelineError`] naming the file, and the field or tensor, at fault.
    pub fn load(model: &Path, options: (Device, Kind)) -> Result<Self, PipelineError> {
        Self::load_files(ModelFiles::open(model)?, options)
    }

    /// As [`Pipeline::load`], of a model that is open already, perhaps with parts from elsewhere.
    ///
    /// # Errors
    /// As [`Pipeline::load`].
    pub fn load_files(files: ModelFiles, options: (Device, Kind)) -> Result<Self, PipelineError> {
        let scheduler = SchedulerFile::of_model(&files)?;
        let task = check_parts(&files)?;
        let tokenizer_folder = files.tokenizer()?;
        let text = TextTower::load(&files.component(Component::TextEncoder)?, options)?;
        let unet = Unet::load_with_variables(&files.component(Component::Unet)?, options)?;
        let unet_variables = unet.vs.variables();
        lay_out_for_drawing(unet_variables.values());
        Ok(Self {
            tokenizer: ClipTokenizer::for_tower(&tokenizer_folder, text.config(), files.pad_token())?,
            text,
            unet_variables,
            unet: unet.model,
            vae: Vae::load(&files.component(Component::Vae)?, options)?,
            vae_f32: OnceCell::new(),
            adapters: Vec::new(),
            encoders: Vec::new(),
            scheduler,
            task,
            options,
            is_recording: true,
            last_graph: RefCell::default(),
            files,
        })
    }

    /// Whether the UNet's calls on a CUDA card are recorded and replayed as CUDA graphs, which spares launching every kernel
    /// of every step; they are unless this says otherwise. Numbers are the same; some memory stays with the pipeline.
    #[must_use]
    pub fn with_cuda_graphs(self, are_wanted: bool) -> Self {
        Self { is_recording: are_wanted, last_graph: RefCell::default(), ..self }
    }

    /// Whether a model can carry out a request, as far as its files tell without the weights: its
    /// sampler, its schedule, its parts. What [`Pipeline::generate`] would refuse only after [`Pipeline::load`].
    ///
    /// # Errors
    /// [`PipelineError`] naming the field of the request, or the file and its field, at fault.
    pub fn check(files: &ModelFiles, request: &GenerateRequest) -> Result<(), PipelineError> {
        request.check()?;
        sampler(&SchedulerFile::of_model(files)?, request)?;
        check_clip_skip(request, &read_config(&files.component(Component::TextEncoder)?)?)?;
        check_cache_branch(request, &read_config(&files.component(Component::Unet)?)?)?;
        files.tokenizer()?;
        check_task(check_parts(files)?, request, files.path())
    }

    /// The files it was loaded from.
    pub fn files(&self) -> &ModelFiles {
        &self.files
    }

    /// The UNet.
    pub fn unet(&self) -> &Unet {
        &self.unet
    }

    /// Its variables by name, from which adapters of one's own may begin.
    pub fn unet_variables(&self) -> &HashMap<String, Tensor> {
        &self.unet_variables
    }

    /// How a picture of a request came about: all but the digests of files, which the caller knows.
    pub fn record(&self, request: &GenerateRequest, index: usize, picture: &RgbImage) -> Record {
        let own = || self.scheduler.kind().map(SamplerKind::name).unwrap_or_default().to_owned();
        let (device, kind) = self.options;
        Record {
            ipa: env!("CARGO_PKG_VERSION").to_owned(),
            request: request.clone(),
            index,
            width: picture.width(),
            height: picture.height(),
            scheduler: request.scheduler.clone().unwrap_or_else(own),
            device: device_name(device),
            dtype: kind_name(kind).to_owned(),
            model: None,
            adapter: None,
            image_encoder: None,
            pictures: Vec::new(),
            files: Vec::new(),
        }
    }

    /// The words of the request's prompts that the text tower will not see, for a warning; prompt, then negative
    /// prompt.
    pub fn overflow(&self, request: &GenerateRequest) -> [Option<String>; 2] {
        let prompts = Prompts::new(&self.tokenizer, &self.text, request);
        [&request.prompt, &request.negative_prompt].map(|prompt| prompts.overflow(prompt))
    }

    /// The side of a picture when a request names none, in pixels.
    pub fn native_side(&self) -> u32 {
        native_side(self.unet.config(), self.vae.config())
    }

    /// Draws. `pictures` are those that the request names, loaded; without references, adapters are left alone.
    /// `progress` hears of every step done and may stop.
    ///
    /// Noise, order of draws and every number after it are those of diffusers' `StableDiffusionPipeline`, with a
    /// picture to start from `StableDiffusionImg2ImgPipeline`, with a mask `StableDiffusionInpaintPipeline`, with
    /// `torch.Generator("cpu").manual_seed(seed)`.
    ///
    /// # Errors
    /// [`PipelineError`] if the request is out of range or does not fit what is loaded.
    pub fn generate<'p>(
        &self,
        request: &GenerateRequest,
        pictures: impl Into<Pictures<'p>>,
        progress: impl FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Generated, PipelineError> {
        self.generate_with(request, pictures, Extras::default(), progress)
    }

    /// As [`Pipeline::generate`], with a hook of one's own or with attention gathered.
    ///
    /// # Errors
    /// As [`Pipeline::generate`].
    pub fn generate_with<'p>(
        &self,
        request: &GenerateRequest,
        pictures: impl Into<Pictures<'p>>,
        extras: Extras,
        mut progress: impl FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Generated, PipelineError> {
        request.check()?;
        check_task(self.task, request, self.files.path())?;
        check_cache_branch(request, self.unet.config())?;
        let _no_grad = tch::no_grad_guard();
        let pictures = pictures.into();
        let mut sampler = sampler(&self.scheduler, request)?;
        let prepared = self.prepared(request, pictures)?;
        let patched = self.patched(request, pictures)?;
        let unet = patched.as_ref().unwrap_or(&self.unet);
        let recorder = Recorder::new(self.options.0, &self.last_graph).filter(|_| self.is_recording);
        let mut denoiser = Denoiser::new((unet, recorder), extras, request, |num_images, is_guided| {
            let context = self.context(request, num_images, is_guided)?;
            let prompts = prepared.iter().map(|prepared| prepared.prompt(&context, num_images, is_guided)).collect();
            Ok(Conditions { context, prompts: Composition::new(prompts) })
        })?;
        let (device, kind) = self.options;
        let noise_kind = if request.noise_dtype == NoiseDtype::Run { kind } else { Kind::Float };
        let mut draws = Draws::seeded(request.seed).in_kind(noise_kind);
        let Start { mut latents, first, inpainting } = self.start(request, pictures, sampler.as_ref(), &mut draws)?;
        let timesteps = sampler.timesteps()[first..].to_vec();
        // Only samplers that draw again keep other requests from drawing until they are done.
        let mut draws = (first..first + timesteps.len()).any(|index| sampler.draws_noise(index)).then_some(draws);
        let calls = Calls { num: timesteps.len(), num_steps: request.num_denoising_steps(), order: sampler.order() };
        // On the device before the first call: a copy to a card waits for all that it was told before.
        let timesteps = Tensor::from_slice(&timesteps).to_kind(Kind::Float).to_device(device);
        for call in 0..calls.num {
            let index = first + call;
            let timestep = timesteps.get(call as i64);
            let scaled = sampler.scale_model_input(index, &latents);
            let input = inpainting.iter().fold(scaled, |scaled, inpainting| inpainting.model_input(scaled));
            let noise_pred = denoiser.predict(call as f64 / calls.num as f64, &input, &timestep);
            let draws = draws.as_mut().filter(|_| sampler.draws_noise(index));
            let noise = draws.map(|draws| match sampler.draws_in_f32() {
                true => self.as_model_wants(&draws.normal_f32(&latents.size())),
                false => self.noise(draws, &latents.size()),
            });
            latents = sampler.step(index, &noise_pred, &latents, noise.as_ref());
            if let Some(inpainting) = &inpainting {
                let next = (call + 1 < calls.num).then_some(index + 1);
                latents = inpainting.restored(latents, next, sampler.as_ref());
            }
            let Some(step) = calls.steps_done(call) else { continue };
            if progress(step).is_break() {
                return Err(PipelineError::Interrupted { step });
            }
        }
        let calls = denoiser.into_calls(); // and what it holds of a card's memory is there for decoding
        drop(patched);
        let Decoded { pictures, .. } = self.decode(&latents, request.vae_tiling)?;
        let reference_tokens = prepared.iter().map(Prepared::reference_tokens).collect();
        let vae_in_f32 = self.vae_f32.get().is_some();
        Ok(Generated { latents, pictures, vae_in_f32, reference_tokens, calls })
    }

    /// Text features, `[num_images or 2 · num_images, tokens, width]`, unconditional half first.
    fn context(&self, request: &GenerateRequest, num_images: i64, is_guided: bool) -> Result<Tensor, PipelineError> {
        check_clip_skip(request, self.text.config())?;
        let prompts = Prompts::new(&self.tokenizer, &self.text, request);
        let (prompt, negative) = request.prompts();
        let (features, negative) = prompts.features(prompt, is_guided.then_some(negative), request.clip_skip)?;
        let embeds = negative.into_iter().chain([features]).collect::<Vec<_>>();
        Ok(Tensor::cat(&embeds, 0).repeat_interleave_self_int(num_images, 0, None))
    }

    /// Width and height of what a request draws, in pixels.
    fn size(&self, request: &GenerateRequest, pictures: Pictures) -> Result<(u32, u32), PipelineError> {
        let side = |side: Option<u32>| side.unwrap_or_else(|| self.native_side());
        match pictures.init {
            Some(picture) => Ok(init_size(picture, request, self.vae.config().downsampling() as u32)?),
            None => Ok((side(request.width), side(request.height))),
        }
    }

    /// Drawn on the CPU, wherever the model computes.
    fn noise(&self, draws: &mut Draws, shape: &[i64]) -> Tensor {
        self.as_model_wants(&draws.normal(shape))
    }

    fn as_model_wants(&self, tensor: &Tensor) -> Tensor {
        let (device, kind) = self.options;
        tensor.to_device(device).to_kind(kind)
    }
}

/// What the request asks for, or else the model.
fn sampler(file: &SchedulerFile, request: &GenerateRequest) -> Result<Box<dyn Sampler>, PipelineError> {
    let kind = match request.sampler()? {
        Some(kind) => kind,
        None => file.kind()?,
    };
    let file = file.clone();
    let file = if request.mask.is_some() { file.for_inpainting() } else { file };
    file.sampler(kind, request.num_steps, request.eta)
}

fn check_clip_skip(request: &GenerateRequest, text: &TextConfig) -> Result<(), RequestError> {
    match request.clip_skip <= text.num_hidden_layers as usize {
        true => Ok(()),
        false => Err(RequestError::Field {
            field: "clip_skip",
            value: request.clip_skip.to_string(),
            allowed: "choose at most the number of layers of the model's text encoder; 0 skips none",
        }),
    }
}

fn check_cache_branch(request: &GenerateRequest, unet: &UnetConfig) -> Result<(), RequestError> {
    match request.cache_branch < unet.num_branches() {
        true => Ok(()),
        false => Err(RequestError::Field {
            field: "cache_branch",
            value: request.cache_branch.to_string(),
            allowed: "choose fewer than the model's UNet has layers on the way up, 12 in Stable Diffusion; 0 is the fastest",
        }),
    }
}

/// Models for inpainting need a mask; others can do with one.
fn check_task(task: ModelTask, request: &GenerateRequest, model: &Path) -> Result<(), PipelineError> {
    match (task, &request.mask) {
        (ModelTask::Inpainting, None) => Err(PipelineError::NeedsMask { model: model.to_owned() }),
        _ => Ok(()),
    }
}
