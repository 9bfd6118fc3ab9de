//! `ipa bench unet`

use anyhow::{Result, ensure};
use clap::{Args, value_parser};
use ipa_core::FewerProducts;
use ipa_core::noise::Draws;
use ipa_core::tch::{self, Tensor};
use ipa_unet::{CrossAttentionHook, NoHook};
use serde_json::json;

use super::CommonArgs;
use super::measure::timed;
use super::memory::Before;
use super::models::{RandomUnet, TEXT_TOKENS, Variant, call_size};
use super::report::{Measured, Parts, tell};

/// One denoising call: what a picture takes once a step
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  ipa bench unet --config sd15 --batch 2 --size 512 --runs 3")]
pub(super) struct UnetArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Pictures at once; guidance takes two for each
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = value_parser!(i64).range(1..=64))]
    batch: i64,
    /// Without the adapter of four tokens
    #[arg(long)]
    no_adapter: bool,
}

pub(super) fn run(args: &UnetArgs) -> Result<()> {
    let UnetArgs { common, batch, no_adapter } = args;
    let (preset, batch) = (common.config, *batch);
    let side = preset.side(common.size)?;
    let options = common.device.options()?;
    let (device, kind) = options;
    let _no_grad = tch::no_grad_guard();
    let _fewer = FewerProducts::new(); // as in drawing
    let unet = RandomUnet::new(preset, options)?;
    let mut draws = Draws::seeded(1);
    let mut draw = |shape: &[i64]| draws.normal(shape).to_device(device).to_kind(kind);
    let latents = draw(&[batch, unet.config.in_channels, side.latents, side.latents]);
    let context = draw(&[batch, TEXT_TOKENS, unet.config.cross_attention_dim]);
    let variant = Variant::Classic;
    let features = draw(&variant.features(preset, batch));
    drop(draws);
    let prompt = match no_adapter {
        true => None,
        false => Some(unet.adapter(variant, preset, options).prompt(&features, 1.0)?),
    };
    let hook: &dyn CrossAttentionHook = prompt.as_ref().map_or(&NoHook, |prompt| prompt);
    let timestep = Tensor::from(500.0);
    let call = || {
        let prediction = unet.model.forward(&latents, &timestep, &context, hook);
        ensure!(prediction.size()[0] == batch, "the prediction has another size");
        Ok(())
    };
    let before = Before::now(device);
    let timing = timed(device, common.runs, ("UNet", common.json), call)?;
    let memory = before.until_now();
    let prediction = unet.model.forward(&latents, &timestep, &context, hook);
    let is_finite = prediction.isfinite().all().int64_value(&[]) == 1;
    ensure!(is_finite, "the random model gives no numbers in this precision: try another `--dtype`");
    let image_tokens = if *no_adapter { 0 } else { variant.num_tokens() };
    let operations = unet.config.operations(call_size(batch, side, image_tokens));
    let measured = Measured {
        bench: "unet",
        title: format!("UNet of {}, batch {batch}, {} px, {image_tokens} image tokens", preset.name(), side.pixels),
        call: json!({ "config": preset, "batch": batch, "size": side.pixels, "image_tokens": image_tokens }),
        timing,
        parts: operations.iter().fold(Parts::default(), |parts, operation| parts.and(operation, 1.0)),
        memory,
    };
    tell(measured, options, common.json)
}
