//! `ipa embed`

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use image::RgbImage;
use ipa_adapter::{AdapterFile, Features, ImageFeatures, IpAdapter};
use ipa_core::tch::{self, Device, Kind, Tensor};
use ipa_core::{read_config, save_tensors};
use ipa_formats::Component;
use ipa_sample::{Crop, ImageEncoder, ImagePromptSpec, Reference, check_adapter, read_faces};
use ipa_unet::UnetConfig;
use serde_json::json;

use crate::args::{AdapterArgs, DeviceArgs, ModelArgs};
use crate::failure::UsageError;
use crate::model::ModelSource;
use crate::{images, interrupt, output};

/// Write what an adapter makes of images or faces: embeddings and prompt tokens
///
/// The file holds, in f32, `image_embeds` [n, e], `ip_tokens` [n, t, c] and `uncond_ip_tokens` [1, t, c]; of adapters that
/// read fine-grained features also `uncond_image_embeds`, of those that read faces `face_embeds` [n, f]. A request takes it
/// as `embeds` in place of images, without an image encoder.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    ipa generate --model pocket --prompt \"a red circle\" --output red.png\n  \
    ipa embed --model pocket --image red.png --output red.safetensors\n  \
    ipa generate --model pocket --image-prompt '{ embeds = \"red.safetensors\" }' --prompt \"a star\" --output star.png\n  \
    ipa embed --model sd15 --adapter ip-adapter-faceid_sd15.bin --face me.npy --output me.safetensors")]
pub(crate) struct EmbedArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    adapter: AdapterArgs,
    /// Images, one or several
    #[arg(long = "image", value_name = "FILE", num_args = 1.., required_unless_present = "faces")]
    images: Vec<PathBuf>,
    /// Files of identity vectors (.npy or .safetensors), for adapters that read faces
    #[arg(long = "face", value_name = "FILE", num_args = 1..)]
    faces: Vec<PathBuf>,
    /// What the image encoder, which sees squares, is to see of images that are none: center, pad, squash, or tiles for
    /// several squares, each a row
    #[arg(long, value_name = "NAME", default_value = "center", value_parser = crop)]
    crop: Crop,
    /// Show images to the encoder with red and blue exchanged
    #[arg(long)]
    bgr: bool,
    /// The safetensors file to write
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    device: DeviceArgs,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

fn crop(name: &str) -> Result<Crop, &'static str> {
    match name {
        "center" => Ok(Crop::Center),
        "pad" => Ok(Crop::Pad),
        "squash" => Ok(Crop::Squash),
        "tiles" => Ok(Crop::Tiles),
        _ => Err("choose center, pad, squash or tiles"),
    }
}

pub(crate) fn run(mut args: EmbedArgs) -> Result<()> {
    interrupt::listen()?;
    args.adapter.find(&mut args.model)?;
    let args = &args;
    let options = args.device.options()?;
    output::check_file(&args.output)?;
    if let Some(input) = args.images.iter().chain(&args.faces).find(|input| output::is_same(input, &args.output)) {
        return Err(UsageError(format!("{} would be overwritten: name another `--output`", input.display())).into());
    }
    let source = args.model.source()?;
    let adapter = args.adapter.source(&args.model, &source)?;
    let images = args.images.iter().cloned().map(Reference::from).collect();
    // Tokens need no changes to the model.
    let spec = ImagePromptSpec { images, faces: args.faces.clone(), lora_scale: 0.0, ..ImagePromptSpec::default() };
    check_adapter(&source.files, &adapter, &spec)?;
    let pictures = images::load(&args.images)?;
    for (file, picture) in args.images.iter().zip(&pictures) {
        images::warn_of_crop(file, args.crop, picture);
    }

    let unet: UnetConfig = read_config(&source.files.component(Component::Unet)?)?;
    let file = AdapterFile::open(&adapter.file, &adapter.options())?;
    let adapter = IpAdapter::load_file(file, &unet, options)?;
    interrupt::stop_if_requested("nothing was written");
    let tensors = embedded(args, &source, &adapter, &pictures, options)?;
    interrupt::stop_if_requested("nothing was written");
    let sizes: Vec<(&str, Vec<i64>)> = tensors.iter().map(|(name, tensor)| (*name, tensor.size())).collect();
    output::create_folder_of(&args.output)?;
    let f32s = tensors.into_iter().map(|(name, tensor)| (name.to_owned(), tensor.to_kind(Kind::Float)));
    let metadata = json!({ "variant": adapter.config().variant().name() });
    save_tensors(&args.output, f32s, Some(&metadata))?;

    if args.json {
        let mut line = serde_json::Map::from_iter([("file".to_owned(), json!(args.output))]);
        line.extend(sizes.into_iter().map(|(name, size)| (name.to_owned(), json!(size))));
        output::json_line(&line)?;
        return Ok(());
    }
    output::line(format_args!("wrote {}", args.output.display()))?;
    for (name, size) in sizes {
        output::line(format_args!("  {name} {size:?}"))?;
    }
    Ok(())
}

/// What the file holds, by name.
fn embedded(
    args: &EmbedArgs,
    source: &ModelSource,
    adapter: &IpAdapter,
    pictures: &[RgbImage],
    options: (Device, Kind),
) -> Result<Vec<(&'static str, Tensor)>> {
    let _no_grad = tch::no_grad_guard();
    let mut tensors = Vec::new();
    let [mut features, mut nothing] = [(); 2].map(|()| Features { image: None, face: None, structure: 1.0 });
    if let Some(kind) = adapter.image_features() {
        let encoder = ImageEncoder::of_model(&source.files, args.model.image_encoder.as_deref(), options)?;
        adapter.check_width(encoder.width(kind))?;
        let squares = pictures.iter().map(|picture| encoder.squares(picture, args.crop, args.bgr));
        let squares = squares.collect::<Result<Vec<_>, _>>()?.concat();
        let (image, none) = (encoder.features(&squares, kind), encoder.unconditional(kind));
        tensors.push(("image_embeds", image.shallow_clone()));
        if kind == ImageFeatures::Penultimate {
            tensors.push(("uncond_image_embeds", none.shallow_clone()));
        }
        (features.image, nothing.image) = (Some(image), Some(none));
    }
    if adapter.config().projection.face_width().is_some() {
        let face = read_faces(&args.faces)?;
        tensors.push(("face_embeds", face.shallow_clone()));
        (features.face, nothing.face) = (Some(face.shallow_clone()), Some(face.narrow(0, 0, 1).zeros_like()));
    }
    tensors.push(("ip_tokens", adapter.ip_tokens(features)?));
    tensors.push(("uncond_ip_tokens", adapter.ip_tokens(nothing)?));
    Ok(tensors)
}
