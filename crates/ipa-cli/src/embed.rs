//! `ipa embed`

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use ipa_adapter::IpAdapter;
use ipa_core::tch::{self, Kind, Tensor};
use ipa_core::{read_config, save_tensors};
use ipa_formats::Component;
use ipa_sample::ImageEncoder;
use ipa_unet::UnetConfig;
use serde_json::json;

use crate::args::{AdapterArgs, DeviceArgs, ModelArgs};
use crate::{images, interrupt, output};

/// Write what an adapter makes of images: CLIP embeddings and prompt tokens
///
/// The file holds, in f32, `image_embeds` [n, e], `ip_tokens` [n, t, c] and `uncond_ip_tokens` [1, t, c].
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  \
    ipa generate --model pocket --prompt \"a red circle\" --output red.png\n  \
    ipa embed --model pocket --image red.png --output red.safetensors")]
pub(crate) struct EmbedArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    adapter: AdapterArgs,
    /// Images, one or several
    #[arg(long = "image", value_name = "FILE", required = true, num_args = 1..)]
    images: Vec<PathBuf>,
    /// The safetensors file to write
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    device: DeviceArgs,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &EmbedArgs) -> Result<()> {
    interrupt::listen()?;
    let options = args.device.options()?;
    output::check_file(&args.output)?;
    let source = args.model.source()?;
    let adapter = args.adapter.file(&source)?;
    let pictures = images::load(&args.images)?;

    let unet: UnetConfig = read_config(&source.files.component(Component::Unet)?)?;
    let adapter = IpAdapter::load(adapter, &unet, options)?;
    let encoder = ImageEncoder::of_model(&source.files, args.model.image_encoder.as_deref(), options)?;
    interrupt::stop_if_requested("nothing was written");

    let _no_grad = tch::no_grad_guard();
    adapter.check_width(encoder.width(adapter.features()))?;
    let image_embeds = encoder.features(&pictures, adapter.features());
    let tensors = [
        ("ip_tokens", adapter.ip_tokens(&image_embeds)?),
        ("uncond_ip_tokens", adapter.ip_tokens(&encoder.unconditional(adapter.features()))?),
        ("image_embeds", image_embeds),
    ];
    let sizes = tensors.each_ref().map(|(name, tensor)| (*name, tensor.size()));
    interrupt::stop_if_requested("nothing was written");
    output::create_folder_of(&args.output)?;
    let f32s = tensors.map(|(name, tensor): (&str, Tensor)| (name.to_owned(), tensor.to_kind(Kind::Float)));
    save_tensors(&args.output, f32s, None)?;

    if args.json {
        let [ip_tokens, uncond_ip_tokens, image_embeds] = sizes.map(|(_, size)| size);
        output::json_line(&json!({
            "file": args.output,
            "image_embeds": image_embeds, "ip_tokens": ip_tokens, "uncond_ip_tokens": uncond_ip_tokens,
        }))?;
        return Ok(());
    }
    output::line(format_args!("wrote {}", args.output.display()))?;
    for (name, size) in sizes {
        output::line(format_args!("  {name} {size:?}"))?;
    }
    Ok(())
}
