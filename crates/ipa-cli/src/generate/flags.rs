//! The flags of a request.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use clap::builder::PossibleValuesParser;
use ipa_sample::{Fast, GenerateRequest, ImagePromptSpec, NoiseDtype, Record, SamplerKind};

use super::usage;
use crate::args::fast;
use crate::output;

#[derive(Debug, Args)]
pub(super) struct RequestArgs {
    /// TOML or JSON file with fields of a request, named as the flags here but for images (--image), faces (--face),
    /// image_prompts (--image-prompt) and num_steps (--steps); paths relative to its folder
    #[arg(long, value_name = "FILE")]
    request: Option<PathBuf>,
    /// Reference images; several are one prompt together
    #[arg(long = "image", value_name = "FILE", num_args = 1..)]
    images: Vec<PathBuf>,
    /// Files of identity vectors (InsightFace's embeddings, .npy or .safetensors), for adapters that read faces
    #[arg(long = "face", value_name = "FILE", num_args = 1..)]
    faces: Vec<PathBuf>,
    /// Reference images with all that can be said of them, as an inline table, several times for several, in place of
    /// those of the request file; beside --image and --face: '{ images = ["a.png"], scale = 0.6, layers = "style" }'.
    /// Fields: adapter, images (or { file, weight, mask, crop }), faces, embeds, negative, merge (concat, add, subtract,
    /// average, norm-average, max, min), crop (center, pad, squash, tiles, { x, y }), bgr, scale, layers (style, layout,
    /// style+layout, strong-style, ease-in, ease-out, weak-input, …), curve, start, end, lora_scale, structure
    #[arg(long = "image-prompt", value_name = "TOML", value_parser = image_prompt)]
    image_prompts: Vec<ImagePromptSpec>,
    /// Strength of the reference images: 0 none, 1 as trained [default: 1]
    #[arg(long, value_name = "F", allow_negative_numbers = true)]
    scale: Option<f64>,
    /// What to draw
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// What not to draw
    #[arg(long, value_name = "TEXT")]
    negative_prompt: Option<String>,
    /// Where a prompt is empty, take the words of the reference implementation: best quality, high quality
    #[arg(long)]
    default_prompts: bool,
    /// Read weights in the prompts: (word) counts 1.1 times, (word:1.3) 1.3 times, [word] 1.1 times less
    #[arg(long)]
    prompt_weights: bool,
    /// Let prompts be longer than the text encoder reads at once, in pieces of 75 tokens
    #[arg(long)]
    long_prompts: bool,
    /// Denoising steps [default: 50]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    steps: Option<usize>,
    /// How closely to follow the prompt; 1 is no guidance [default: 7.5]
    #[arg(long, value_name = "F", allow_negative_numbers = true)]
    guidance_scale: Option<f64>,
    /// How far guided predictions are brought back to the deviation of unguided ones: 0 not at all, to 1 [default: 0]
    #[arg(long, value_name = "F", allow_negative_numbers = true)]
    guidance_rescale: Option<f64>,
    /// Share of the steps after which guidance begins, 0 to 1 [default: 0]
    #[arg(long, value_name = "F", allow_negative_numbers = true)]
    guidance_start: Option<f64>,
    /// Share of the steps after which guidance ends, at least --guidance-start; the rest takes half the time [default: 1]
    #[arg(long, value_name = "F", allow_negative_numbers = true)]
    guidance_end: Option<f64>,
    /// Take deep features of the model again and again, from one call in so many; the others run its outermost layers
    /// alone (DeepCache) [default: 1, off]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    cache_interval: Option<usize>,
    /// How much such calls run: 0, the least, to 11 in Stable Diffusion, as DeepCache's cache_branch_id [default: 0]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    cache_branch: Option<usize>,
    /// Draw faster, at a cost that docs/performance.md has: mild, default or most. Stands for --steps,
    /// --guidance-end, --cache-interval and --cache-branch, where neither flags nor the request file say otherwise
    #[arg(long, value_name = "PRESET", num_args = 0..=1, default_missing_value = Fast::Default.name(), value_parser = fast)]
    fast: Option<Fast>,
    /// Last layers of the text encoder to leave out for the prompt, counted as diffusers does [default: 0]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    clip_skip: Option<usize>,
    /// A picture to start from instead of pure noise; without --width and --height, its size is drawn
    #[arg(long, value_name = "FILE")]
    init_image: Option<PathBuf>,
    /// What to draw anew of --init-image, white on black; stretched over it
    #[arg(long, value_name = "FILE")]
    mask: Option<PathBuf>,
    /// How much of --init-image is drawn anew, up to 1; so large a share of the steps is made [default: 0.8, with --mask 1]
    #[arg(long, value_name = "F", allow_negative_numbers = true)]
    strength: Option<f64>,
    /// Sampler [default: the model's own]
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(SamplerKind::ALL.map(SamplerKind::name)))]
    scheduler: Option<String>,
    /// Fresh noise of the sampler ddim: 0 none, 1 as much as ddpm draws [default: 0]
    #[arg(long, value_name = "F", allow_negative_numbers = true)]
    eta: Option<f64>,
    /// Seed of the noise, as diffusers' CPU generator takes it [default: 0]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = seed)]
    seed: Option<u64>,
    /// What the noise is drawn in: f32, or run for what is computed in, as diffusers' half-precision pipelines do
    /// [default: f32]
    #[arg(long, value_name = "NAME", value_parser = noise_dtype)]
    noise_dtype: Option<NoiseDtype>,
    /// Pictures drawn at once [default: 1]
    #[arg(long, value_name = "N")]
    num_images: Option<u32>,
    /// Pictures in a call of the model, for less memory [default: all]
    #[arg(long, value_name = "N")]
    batch_size: Option<u32>,
    /// Encode and decode large pictures in tiles, for less memory; they differ a little from those in one piece
    #[arg(long)]
    vae_tiling: bool,
    /// Width, a multiple of 8 [default: the model's own, or in the proportions of --init-image]
    #[arg(long, value_name = "PX")]
    width: Option<u32>,
    /// Height, a multiple of 8 [default: the model's own, or in the proportions of --init-image]
    #[arg(long, value_name = "PX")]
    height: Option<u32>,
}

impl RequestArgs {
    /// Whether they ask for a number of pictures.
    pub(super) fn changes_number(&self) -> bool {
        self.num_images.is_some()
    }

    /// The folder that paths in the request file are relative to; of flags the current one.
    pub(super) fn folder(&self) -> PathBuf {
        self.request.as_deref().and_then(Path::parent).unwrap_or(Path::new("")).to_owned()
    }

    /// The request of a picture, or the request file, if any, with the flags over it; checked.
    pub(super) fn request(self, like: Option<&Record>) -> Result<GenerateRequest> {
        let has_base = self.request.is_some() || like.is_some();
        let has_references = !(self.images.is_empty() && self.faces.is_empty() && self.image_prompts.is_empty());
        let has_words = self.prompt.is_some() || self.default_prompts;
        let is_empty = !has_base && !has_words && !has_references && self.init_image.is_none();
        let mut request = match (&self.request, like) {
            (_, Some(record)) => record.request.clone(),
            (Some(path), None) => GenerateRequest::from_file_with(path, self.fast)?,
            (None, None) => GenerateRequest::default(),
        };
        // A request file's own words were left alone; a record has all fields, and does not tell whose words they were.
        if let (Some(fast), None) = (self.fast, &self.request) {
            fast.fill(&mut request, |_| false);
        }
        let (is_scaled, is_noisy, is_branched) =
            (self.scale.is_some(), self.eta.is_some(), self.cache_branch.is_some());
        if !self.images.is_empty() {
            request.images = self.images;
        }
        if !self.faces.is_empty() {
            request.faces = self.faces;
        }
        if !self.image_prompts.is_empty() {
            request.image_prompts = self.image_prompts;
        }
        request.default_prompts |= self.default_prompts;
        request.scheduler = self.scheduler.or(request.scheduler);
        request.width = self.width.or(request.width);
        request.height = self.height.or(request.height);
        request.init_image = self.init_image.or(request.init_image);
        request.mask = self.mask.or(request.mask);
        request.strength = self.strength.or(request.strength);
        request.vae_tiling |= self.vae_tiling;
        request.prompt_weights |= self.prompt_weights;
        request.long_prompts |= self.long_prompts;
        request.batch_size = self.batch_size.or(request.batch_size);
        set(&mut request.scale, self.scale);
        set(&mut request.prompt, self.prompt);
        set(&mut request.negative_prompt, self.negative_prompt);
        set(&mut request.num_steps, self.steps);
        set(&mut request.guidance_scale, self.guidance_scale);
        set(&mut request.guidance_rescale, self.guidance_rescale);
        set(&mut request.guidance_start, self.guidance_start);
        set(&mut request.guidance_end, self.guidance_end);
        set(&mut request.cache_interval, self.cache_interval);
        set(&mut request.cache_branch, self.cache_branch);
        set(&mut request.clip_skip, self.clip_skip);
        set(&mut request.eta, self.eta);
        set(&mut request.seed, self.seed);
        set(&mut request.noise_dtype, self.noise_dtype);
        set(&mut request.num_images, self.num_images);
        request.check()?;
        if is_scaled && request.own_prompt().is_none() {
            output::warn(
                "`--scale` is of use with `--image` and `--face` only; an image prompt has a scale of its own",
            );
        }
        if is_noisy && request.scheduler.as_deref().is_some_and(|name| name != SamplerKind::Ddim.name()) {
            output::warn("`--eta` is of use with the sampler ddim only");
        }
        if is_branched && request.cache_interval == 1 {
            output::warn("`--cache-branch` is of use with `--cache-interval` above 1 only");
        }
        if request.strength.is_some() && request.init_image.is_none() {
            return Err(usage(
                "`--strength` is of use with a picture to start from only: name one with `--init-image`",
            ));
        }
        if is_empty {
            return Err(usage("nothing to draw: say it with `--prompt`, or show it with `--image` or `--init-image`"));
        }
        Ok(request)
    }
}

/// An entry of `image_prompts`, as TOML writes it on one line.
fn image_prompt(table: &str) -> Result<ImagePromptSpec, String> {
    #[derive(serde::Deserialize)]
    struct Entry {
        entry: ImagePromptSpec,
    }
    let read: Result<Entry, _> = toml::from_str(&format!("entry = {table}"));
    read.map(|Entry { entry }| entry).map_err(|error| error.message().to_owned())
}

fn seed(number: &str) -> Result<u64, &'static str> {
    number.parse().map_err(|_| "choose a whole number from 0 on; none stands for a random one")
}

fn noise_dtype(name: &str) -> Result<NoiseDtype, &'static str> {
    match name {
        "f32" => Ok(NoiseDtype::F32),
        "run" => Ok(NoiseDtype::Run),
        _ => Err("choose f32 or run"),
    }
}

fn set<T>(field: &mut T, flag: Option<T>) {
    if let Some(value) = flag {
        *field = value;
    }
}
