//! `ipa generate`

mod attention;
mod flags;
mod like;
mod target;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Result;
use clap::Args;
use clap::builder::PossibleValuesParser;
use image::RgbImage;
use ipa_adapter::AttentionMaps;
use ipa_core::save_tensors;
use ipa_core::tch::Kind;
use ipa_formats::{AdapterInfo, AdapterVariant};
use ipa_sample::{
    AdapterSource, Crop, Extras, GenerateRequest, Generated, ImagePromptSpec, Pictures, Pipeline, PipelineError,
    Record, check_adapter, read_faces, write_picture,
};
use serde::Serialize;

use crate::args::{AdapterArgs, DeviceArgs, ModelArgs};
use crate::failure::UsageError;
use crate::provenance::{self, Provenance, Sources};
use crate::{images, interrupt, model, names, output, progress};
use flags::RequestArgs;
use like::Like;
use target::Target;

/// Draw pictures from text, reference images, or both
///
/// A request file gives every field at once; flags beside it win. The same seed gives the same picture.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    ipa generate --model pocket --prompt \"a red circle\" --output red.png\n  \
    ipa generate --model pocket --image red.png --prompt \"a star\" --scale 0.6 --num-images 4 --output stars\n  \
    ipa generate --model pocket --image-prompt '{ images = [\"red.png\"], layers = \"style\" }' --prompt \"a star\"\n  \
    ipa generate --model sd15 --adapter ip-adapter-faceid_sd15.bin --face me.npy --prompt \"in a garden\" --output me.png\n  \
    ipa generate --model pocket --image red.png --attention-maps maps --prompt \"a star\" --output star.png\n  \
    ipa generate --model pocket --request request.toml --output out\n  \
    ipa generate --model pocket --prompt \"a star\" --fast --output star.png\n  \
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
    /// Folder for pictures of where each reference acted, and the shares of attention behind them
    #[arg(long, value_name = "DIR")]
    attention_maps: Option<PathBuf>,
    /// On a CUDA card, launch every kernel of every step instead of replaying recorded ones: slower, in less memory
    #[arg(long)]
    no_cuda_graphs: bool,
    /// Print one JSON object a line, one for each picture
    #[arg(long)]
    json: bool,
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
    let like = Like::read(args.like.as_deref())?;
    if let Some(like) = &like {
        like.complete(&mut args.model, &mut args.adapter, &mut args.device);
    }
    args.adapter.find(&mut args.model)?;
    let only = like.as_ref().filter(|_| !args.request.changes_number()).map(Like::index).transpose()?;
    let folder = args.request.folder();
    let mut request = args.request.request(like.as_ref().map(|like| &like.record))?;
    names::find_in(&mut request, &folder)?;
    request.complete(args.model.image_encoder.as_deref());
    let target = Target::new(args.output, if only.is_some() { 1 } else { request.num_images }, args.format.as_deref())?;
    let options = args.device.options()?;
    check_target(&target, args.save_latents.as_deref(), like.as_ref())?;
    args.attention_maps.as_deref().map_or(Ok(()), output::check_folder)?;
    let source = args.model.source()?;
    for named in request.image_prompts.iter_mut().filter_map(|spec| spec.adapter.as_mut()) {
        if named.file == Path::new(model::POCKET) {
            named.file =
                model::bundled()?.adapter.ok_or_else(|| usage("the pocket model in this program lacks its adapter"))?;
        }
    }
    let adapter = adapter_for(&args.adapter, &args.model, &request, &source)?;
    Pipeline::check(&source.files, &request)?;
    check_prompts(&source, adapter.as_ref(), &request)?;
    let provenance = provenance_of(&args.model, &source, adapter.as_ref(), &request, like.as_ref())?;

    let references = images::load(&request.images)?;
    let named = images::load_named(&request)?;
    warn_of_crops(&request, &references, &named);
    let init = images::load(request.init_image.as_slice())?.pop();
    let mask = images::load(request.mask.as_slice())?.pop();
    let mut pipeline = Pipeline::load_files(source.files.clone(), options)?.with_cuda_graphs(!args.no_cuda_graphs);
    for adapter in adapter.iter().chain(request.adapters()) {
        pipeline = match sees(&request, adapter) {
            true => pipeline.with_source(adapter)?,
            false => pipeline.with_source_for_embeds(adapter)?,
        };
    }
    warn_of_overflow(&pipeline, &request);

    let started = Instant::now();
    let pictures = Pictures { references: &references, init: init.as_ref(), mask: mask.as_ref(), named: Some(&named) };
    let maps = args.attention_maps.is_some().then(AttentionMaps::default);
    let generated = draw(&pipeline, &request, pictures, maps.as_ref(), args.json)?;
    let seconds = started.elapsed().as_secs_f64();
    let provenance = provenance().map_err(|error| {
        output::warn(format_args!("the pictures do not say which files drew them: {error}"));
    });
    let record = |index: usize| {
        let record = pipeline.record(&request, index, &generated.pictures[index]);
        provenance.iter().fold(record, |record, provenance| provenance.of(record))
    };
    // Of several pictures drawn together, the one that was shown.
    let chosen = (0..generated.pictures.len()).filter(|index| only.is_none_or(|only| only == *index));
    let drawn: Vec<(&RgbImage, Record)> = chosen.map(|index| (&generated.pictures[index], record(index))).collect();
    write(&drawn, &target)?;
    if let Some(file) = &args.save_latents {
        output::create_folder_of(file)?;
        save_tensors(file, [("latents".to_owned(), generated.latents.to_kind(Kind::Float))], None)?;
    }
    tell(&drawn, &target, seconds, args.json)?;
    if let (Some(folder), Some(maps)) = (&args.attention_maps, maps) {
        attention::write(folder, &generated, maps, args.json)?;
    }
    Ok(())
}

/// Checks, before anything is loaded, that the outputs can be written and are not each other's or an input.
fn check_target(target: &Target, latents: Option<&Path>, like: Option<&Like>) -> Result<()> {
    target.check()?;
    let is_target = |is_file: &dyn Fn(&Path) -> bool| (0..target.num()).any(|index| is_file(&target.file(index)));
    if let Some(latents) = latents {
        output::check_file(latents)?;
        if is_target(&|file| file == latents) {
            return Err(usage("`--save-latents` and `--output` are the same file: name two"));
        }
    }
    match like.filter(|like| is_target(&|file| output::is_same(file, &like.picture))) {
        Some(Like { picture, .. }) => {
            let picture = picture.display();
            Err(usage(&format!("{picture} would be overwritten by what is drawn like it: name another `--output`")))
        }
        None => Ok(()),
    }
}

/// The digests of all files: computed beside the drawing, but before it where they are to be compared.
fn provenance_of(
    args: &ModelArgs,
    source: &model::ModelSource,
    adapter: Option<&AdapterSource>,
    request: &GenerateRequest,
    like: Option<&Like>,
) -> Result<Box<dyn FnOnce() -> Result<Provenance>>> {
    let digests = Sources::new(args, source, adapter, request)?.digested(args);
    let Some(like) = like else { return Ok(Box::new(|| provenance::joined(digests))) };
    let known = provenance::joined(digests)?;
    like.check_same(&known.of(like.record.clone()))?;
    Ok(Box::new(|| Ok(known)))
}

fn draw(
    pipeline: &Pipeline,
    request: &GenerateRequest,
    pictures: Pictures,
    maps: Option<&AttentionMaps>,
    json: bool,
) -> Result<Generated> {
    let bar = progress::bar(request.num_denoising_steps() as u64, "drawing", json);
    let drawn = pipeline.generate_with(request, pictures, Extras { maps, ..Extras::default() }, |step| {
        bar.set_position(step as u64);
        interrupt::flow()
    });
    let generated = drawn.map_err(|error| interrupt::told(error, "nothing was written"))?;
    bar.finish_and_clear();
    interrupt::stop_if_requested("nothing was written");
    if generated.vae_in_f32 {
        output::warn("the VAE overflowed in half precision and was used in f32");
    }
    Ok(generated)
}

fn tell(drawn: &[(&RgbImage, Record)], target: &Target, seconds: f64, json: bool) -> Result<()> {
    for (number, (picture, record)) in drawn.iter().enumerate() {
        let ((width, height), file) = (picture.dimensions(), &target.file(number));
        let (seed, num_steps) = (record.request.seed, record.request.num_denoising_steps());
        if json {
            output::json_line(&Written { file, index: record.index, seed, width, height, num_steps, seconds })?;
        } else {
            output::line(format_args!("wrote {} ({width} x {height}, seed {seed})", file.display()))?;
        }
    }
    Ok(())
}

/// The adapter of references that name none, if there are any: the one named, or the one that comes with the model.
fn adapter_for(
    args: &AdapterArgs,
    model: &ModelArgs,
    request: &GenerateRequest,
    source: &model::ModelSource,
) -> Result<Option<AdapterSource>> {
    let is_needed = request.own_prompt().is_some() || request.image_prompts.iter().any(|spec| spec.adapter.is_none());
    match (is_needed, &args.adapter) {
        (true, _) => Ok(Some(args.source(model, source)?)),
        (false, Some(_)) => Err(usage("an adapter needs a reference: name one with `--image` or `--face`")),
        (false, None) if model.image_encoder.is_some() && !request.has_references() => {
            Err(usage("`--image-encoder` is of use with a reference image only: name one with `--image`"))
        }
        (false, None) => Ok(None),
    }
}

/// Checks every image prompt against its adapter, from headers alone.
fn check_prompts(
    source: &model::ModelSource,
    adapter: Option<&AdapterSource>,
    request: &GenerateRequest,
) -> Result<()> {
    if let (Some(spec), Some(adapter)) = (request.own_prompt(), adapter) {
        warn_of_faces(&check_adapter(&source.files, adapter, &spec)?, &spec)?;
    }
    for (index, spec) in request.image_prompts.iter().enumerate() {
        let Some(adapter) = spec.adapter.as_ref().or(adapter) else { continue };
        let info = check_adapter(&source.files, adapter, spec).map_err(|error| match error {
            PipelineError::Request(error) => PipelineError::Request(error.in_entry(index)),
            error => error,
        })?;
        warn_of_faces(&info, spec)?;
    }
    Ok(())
}

/// Whether pictures are seen for an adapter; stored embeddings need no encoder.
fn sees(request: &GenerateRequest, adapter: &AdapterSource) -> bool {
    let is_its = |spec: &ImagePromptSpec| spec.adapter.as_ref().is_none_or(|own| own == adapter);
    let own = request.own_prompt();
    let mut its = own.iter().chain(&request.image_prompts).filter(|spec| is_its(spec));
    its.any(|spec| spec.embeds.is_none() || spec.negative.is_some())
}

/// Tells of identity vectors that are not of unit length where the adapter was trained with such.
fn warn_of_faces(info: &AdapterInfo, spec: &ImagePromptSpec) -> Result<()> {
    if spec.faces.is_empty() || info.variant() == AdapterVariant::PortraitUnnorm {
        return Ok(());
    }
    let lengths = Vec::<f64>::try_from(read_faces(&spec.faces)?.norm_scalaropt_dim(2, 1, false).to_kind(Kind::Double))?;
    if let Some(length) = lengths.into_iter().find(|length| !(0.9..1.1).contains(length)) {
        output::warn(format_args!(
            "an identity vector has length {length:.1}, the adapter was trained with 1: InsightFace's `normed_embedding`"
        ));
    }
    Ok(())
}

/// Tells what encoders will not see of pictures that are not square.
fn warn_of_crops(request: &GenerateRequest, references: &[RgbImage], named: &BTreeMap<PathBuf, RgbImage>) {
    let own = request.images.iter().zip(references).map(|(file, picture)| (file, Crop::Center, picture));
    let others = request.image_prompts.iter().flat_map(|spec| {
        let shown = spec.images.iter().chain(&spec.negative);
        shown.filter_map(|image| Some((&image.file, image.crop.unwrap_or(spec.crop), named.get(&image.file)?)))
    });
    for (file, crop, picture) in own.chain(others) {
        images::warn_of_crop(file, crop, picture);
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
