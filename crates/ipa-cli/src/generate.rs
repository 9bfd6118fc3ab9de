//! `ipa generate`

mod like;
mod target;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Result;
use clap::Args;
use clap::builder::PossibleValuesParser;
use image::RgbImage;
use ipa_core::save_tensors;
use ipa_core::tch::Kind;
use ipa_sample::{GenerateRequest, NoiseDtype, Pictures, Pipeline, Record, SamplerKind, read_record, write_picture};
use serde::Serialize;

use crate::args::{AdapterArgs, DeviceArgs, ModelArgs};
use crate::failure::UsageError;
use crate::provenance::{self, Provenance, Sources};
use crate::{images, interrupt, model, output, progress};
use target::Target;

/// Draw pictures from text, reference images, or both
///
/// A request file gives every field at once; flags beside it win. The same seed gives the same picture.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    ipa generate --model pocket --prompt \"a red circle\" --output red.png\n  \
    ipa generate --model pocket --image red.png --prompt \"a star\" --scale 0.6 --num-images 4 --output stars\n  \
    ipa generate --model pocket --init-image red.png --prompt \"a blue circle\" --strength 0.8 --output blue.png\n  \
    ipa generate --model pocket --init-image red.png --mask mask.png --prompt \"a star\" --output star.png\n  \
    ipa generate --like star.png --output again.png")]
#[command(mut_arg("model", |model| model.required(false).required_unless_present("like")))]
pub(crate) struct GenerateArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    adapter: AdapterArgs,
    #[command(flatten)]
    request: RequestArgs,
    #[command(flatten)]
    device: DeviceArgs,
    /// Draw a picture of this program again, from what it says of itself; flags beside it win
    #[arg(long, value_name = "PICTURE", conflicts_with = "request")]
    like: Option<PathBuf>,
    /// PNG, JPEG or WebP file, or the folder for several: 000.png, 001.png, … [default: out.png, or the folder out]
    #[arg(long, value_name = "FILE|DIR")]
    output: Option<PathBuf>,
    /// Format of pictures in a folder: png, jpg or webp [default: png]
    #[arg(long, value_name = "NAME", hide_possible_values = true)]
    #[arg(value_parser = PossibleValuesParser::new(["png", "jpg", "webp"]))]
    format: Option<String>,
    /// Also write the final latents, as tensor `latents` in f32
    #[arg(long, value_name = "FILE")]
    save_latents: Option<PathBuf>,
    /// Print one JSON object a line, one for each picture
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct RequestArgs {
    /// TOML file with fields of a request, named as the flags here but for images (--image) and num_steps (--steps);
    /// paths relative to its folder
    #[arg(long, value_name = "FILE")]
    request: Option<PathBuf>,
    /// Reference images; several are one prompt together
    #[arg(long = "image", value_name = "FILE", num_args = 1..)]
    images: Vec<PathBuf>,
    /// Strength of the reference images: 0 none, 1 as trained [default: 1]
    #[arg(long, value_name = "F", allow_negative_numbers = true)]
    scale: Option<f64>,
    /// What to draw
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// What not to draw
    #[arg(long, value_name = "TEXT")]
    negative_prompt: Option<String>,
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
    /// The request of a picture, or the request file, if any, with the flags over it; checked.
    fn request(self, like: Option<&Record>) -> Result<GenerateRequest> {
        let has_base = self.request.is_some() || like.is_some();
        let is_empty = !has_base && self.prompt.is_none() && self.images.is_empty() && self.init_image.is_none();
        let mut request = match (&self.request, like) {
            (_, Some(record)) => record.request.clone(),
            (Some(path), None) => GenerateRequest::from_toml(path)?,
            (None, None) => GenerateRequest::default(),
        };
        let (is_scaled, is_noisy) = (self.scale.is_some(), self.eta.is_some());
        if !self.images.is_empty() {
            request.images = self.images;
        }
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
        set(&mut request.clip_skip, self.clip_skip);
        set(&mut request.eta, self.eta);
        set(&mut request.seed, self.seed);
        set(&mut request.noise_dtype, self.noise_dtype);
        set(&mut request.num_images, self.num_images);
        request.check()?;
        if is_scaled && request.images.is_empty() {
            output::warn("`--scale` is of use with reference images only: name one with `--image`");
        }
        if is_noisy && request.scheduler.as_deref().is_some_and(|name| name != SamplerKind::Ddim.name()) {
            output::warn("`--eta` is of use with the sampler ddim only");
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

/// Whether two paths are one file that is there.
fn is_same(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
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

/// One line of `--json`.
#[derive(Debug, Serialize)]
struct Written<'a> {
    file: &'a Path,
    index: usize,
    seed: u64,
    width: u32,
    height: u32,
    num_steps: usize,
    /// For all pictures together, without loading.
    seconds: f64,
}

pub(crate) fn run(mut args: GenerateArgs) -> Result<()> {
    interrupt::listen()?;
    let like = args.like.as_deref().map(read_record).transpose()?;
    if let Some(record) = &like {
        like::complete(&mut args, record);
    }
    let changes_number = args.request.num_images.is_some();
    let request = args.request.request(like.as_ref())?;
    // Of several pictures drawn together, the one that was shown.
    let only = match (&like, &args.like) {
        (Some(record), Some(picture)) if !changes_number => Some(like::index(picture, record)?),
        _ => None,
    };
    let target = Target::new(args.output, if only.is_some() { 1 } else { request.num_images }, args.format.as_deref())?;
    let options = args.device.options()?;
    target.check()?;
    if let Some(latents) = &args.save_latents {
        output::check_file(latents)?;
        if (0..target.num()).any(|index| target.file(index) == *latents) {
            return Err(usage("`--save-latents` and `--output` are the same file: name two"));
        }
    }
    if let Some(picture) =
        args.like.as_deref().filter(|picture| (0..target.num()).any(|i| is_same(&target.file(i), picture)))
    {
        let text =
            format!("{} would be overwritten by what is drawn like it: name another `--output`", picture.display());
        return Err(usage(&text));
    }
    let source = args.model.source()?;
    let adapter = adapter_for(&args.adapter, &args.model, &request, &source)?;
    let sources = Sources::new(&args.model, &source, adapter, &request)?;
    let digests = sources.digested(&args.model);
    let provenance: Box<dyn FnOnce() -> Result<Provenance>> = match (&like, &args.like) {
        (Some(record), Some(picture)) => {
            let known = provenance::joined(digests)?;
            like::check_same(picture, record, &known.of(record.clone()))?;
            Box::new(|| Ok(known))
        }
        _ => Box::new(|| provenance::joined(digests)), // by the time the pictures are drawn
    };
    let references = images::load(&request.images)?;
    let init = images::load(request.init_image.as_slice())?.pop();
    let mask = images::load(request.mask.as_slice())?.pop();
    Pipeline::check(&source.files, &request)?;

    let mut pipeline = Pipeline::load_files(source.files.clone(), options)?;
    if let Some(adapter) = adapter {
        pipeline = pipeline.with_adapter(adapter, args.model.image_encoder.as_deref())?;
    }
    warn_of_overflow(&pipeline, &request);

    let bar = progress::bar(request.num_denoising_steps() as u64, "drawing", args.json);
    let started = Instant::now();
    let pictures = Pictures { references: &references, init: init.as_ref(), mask: mask.as_ref() };
    let drawn = pipeline.generate(&request, pictures, |step| {
        bar.set_position(step as u64);
        interrupt::flow()
    });
    let generated = drawn.map_err(|error| interrupt::told(error, "nothing was written"))?;
    let seconds = started.elapsed().as_secs_f64();
    bar.finish_and_clear();
    interrupt::stop_if_requested("nothing was written");
    if generated.vae_in_f32 {
        output::warn(format_args!("the VAE overflowed in half precision and was used in f32"));
    }

    let provenance = provenance().map_err(|error| {
        output::warn(format_args!("the pictures do not say which files drew them: {error}"));
    });
    let chosen = |index: &usize| only.is_none_or(|only| only == *index);
    let drawn: Vec<(&RgbImage, Record)> = (0..generated.pictures.len())
        .filter(chosen)
        .map(|index| {
            let picture = &generated.pictures[index];
            let record = pipeline.record(&request, index, picture);
            (picture, provenance.iter().fold(record, |record, provenance| provenance.of(record)))
        })
        .collect();
    write(&drawn, &target)?;
    if let Some(file) = &args.save_latents {
        output::create_folder_of(file)?;
        save_tensors(file, [("latents".to_owned(), generated.latents.to_kind(Kind::Float))], None)?;
    }
    for (number, (picture, record)) in drawn.iter().enumerate() {
        let ((width, height), file, index) = (picture.dimensions(), &target.file(number), record.index);
        let (seed, num_steps) = (request.seed, request.num_denoising_steps());
        if args.json {
            output::json_line(&Written { file, index, seed, width, height, num_steps, seconds })?;
        } else {
            output::line(format_args!("wrote {} ({width} x {height}, seed {seed})", file.display()))?;
        }
    }
    Ok(())
}

/// The adapter to load, if any: the one named, or for reference images the one that comes with the model.
fn adapter_for<'a>(
    args: &'a AdapterArgs,
    model: &ModelArgs,
    request: &GenerateRequest,
    source: &'a model::ModelSource,
) -> Result<Option<&'a Path>> {
    match (request.images.is_empty(), &args.adapter) {
        (false, _) => Ok(Some(args.file(source)?)),
        (true, Some(_)) => Err(usage("an adapter needs a reference image: name one with `--image`")),
        (true, None) if model.image_encoder.is_some() => {
            Err(usage("`--image-encoder` is of use with a reference image only: name one with `--image`"))
        }
        (true, None) => Ok(None),
    }
}

fn usage(text: &str) -> anyhow::Error {
    UsageError(text.to_owned()).into()
}

fn warn_of_overflow(pipeline: &Pipeline, request: &GenerateRequest) {
    for (field, words) in ["prompt", "negative prompt"].into_iter().zip(pipeline.overflow(request)) {
        if let Some(words) = words {
            output::warn(format_args!(
                "the {field} is too long; without `--long-prompts` the model does not see its end: \"{words}\""
            ));
        }
    }
}

fn write(drawn: &[(&RgbImage, Record)], target: &Target) -> Result<()> {
    target.create_folder()?;
    for (index, (picture, record)) in drawn.iter().enumerate() {
        write_picture(&target.file(index), picture, record, target.format())?;
    }
    Ok(())
}
