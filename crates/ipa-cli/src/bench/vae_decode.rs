//! `ipa bench vae-decode`

use anyhow::{Context as _, Result};
use clap::{Args, value_parser};
use ipa_core::layers::lay_out_for_drawing;
use ipa_core::noise::Draws;
use ipa_core::tch::{self, Tensor};
use ipa_sample::decode_each;
use ipa_vae::Vae;
use serde_json::json;

use super::measure::timed;
use super::memory::Before;
use super::models::random;
use super::report::{Measured, tell};
use super::{CommonArgs, ConfigArgs, SizeArgs};

/// Latents to pictures with the autoencoder: what a picture takes once, at the end
///
/// Several are decoded one after another, as in drawing.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  ipa bench vae-decode --size 768\n  ipa bench vae-decode --encode --batch 4")]
pub(super) struct VaeDecodeArgs {
    #[command(flatten)]
    model: ConfigArgs,
    #[command(flatten)]
    size: SizeArgs,
    /// Pictures
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = value_parser!(i64).range(1..=64))]
    batch: i64,
    /// The way back: pictures to latents, as caches of a training are made
    #[arg(long)]
    encode: bool,
    #[command(flatten)]
    common: CommonArgs,
}

pub(super) fn run(args: &VaeDecodeArgs) -> Result<()> {
    let VaeDecodeArgs { model, size, batch, encode, common } = args;
    let (preset, batch) = (model.config, *batch);
    let side = preset.side(size.size)?;
    let options = common.device.options()?;
    let (device, kind) = options;
    let _no_grad = tch::no_grad_guard();
    let config = preset.vae()?;
    let (vae, vs) = random(options, |vs| Vae::new(vs, &config));
    lay_out_for_drawing(vs.variables().values());
    let (channels, length, work) = match encode {
        true => (config.in_channels, side.pixels, config.encode_work((side.pixels, side.pixels))),
        false => (config.latent_channels, side.latents, config.decode_work((side.latents, side.latents))),
    };
    let input = Draws::seeded(1).normal(&[batch, channels, length, length]).to_device(device).to_kind(kind);
    let before = Before::now(device);
    let call = || {
        let done = match encode {
            true => encode_each(&vae, &input),
            false => decode_each(&vae, &input, false).map(drop),
        };
        done.context("the random model gives no numbers in this precision: try another `--dtype`")
    };
    let name = if *encode { "encoding" } else { "decoding" };
    let timing = timed(device, common.runs, (name, common.json), call)?;
    let measured = Measured {
        bench: "vae-decode",
        title: format!("{name} with the VAE of {}, {batch} of {} px", preset.name(), side.pixels),
        call: json!({ "config": preset, "batch": batch, "size": side.pixels, "encode": encode }),
        found: Vec::new(),
        timing,
        work: Some(work * batch as f64),
        memory: before.until_now(),
    };
    tell(vec![measured], options, common.json)
}

/// One picture at a time; `None` if latents are not numbers.
fn encode_each(vae: &Vae, pixels: &Tensor) -> Option<()> {
    (0..pixels.size()[0]).try_for_each(|index| {
        let mean = vae.encode(&pixels.narrow(0, index, 1)).mean;
        (mean.isfinite().all().int64_value(&[]) == 1).then_some(())
    })
}
