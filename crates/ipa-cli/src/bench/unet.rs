//! `ipa bench unet`

use anyhow::{Result, ensure};
use clap::{Args, value_parser};
use ipa_adapter::{Composition, IpAdapter, Timing};
use ipa_core::layers::lay_out_for_drawing;
use ipa_core::noise::Draws;
use ipa_core::tch::{self, Device, Kind, Tensor};
use ipa_core::{CudaGraph, FewerProducts, Work};
use ipa_unet::{Unet, UnetConfig};
use serde_json::json;

use super::measure::timed_by_turns;
use super::memory::Before;
use super::models::{RandomUnet, TEXT_TOKENS, Variant, call_size, forward_work};
use super::preset::{Preset, Side};
use super::report::{Measured, tell};
use super::{CommonArgs, ConfigArgs};
use crate::failure::UsageError;

const VARIANT: Variant = Variant::Classic;

/// One denoising call: what a picture takes once a step
///
/// Of several sizes every combination is measured with the same weights, by turns, from the least work to the most, one JSON
/// object each.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    ipa bench unet --config sd15 --batch 2 --size 512 --runs 3\n  \
    ipa bench unet --batch 1,2,4,8 --json\n  \
    ipa bench unet --size 256,512,768,1024 --json\n  \
    ipa bench unet --adapters 0,1,2,3,4 --json\n  \
    ipa bench unet --references 1,2,4,8 --json")]
pub(super) struct UnetArgs {
    #[command(flatten)]
    model: ConfigArgs,
    /// Sides of the pictures in pixels, multiples of 8; without any, the one that the model is for
    #[arg(long, value_name = "PX", value_delimiter = ',', value_parser = value_parser!(i64).range(8..=4096))]
    size: Vec<i64>,
    /// Pictures at once; guidance takes two for each
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "2")]
    #[arg(value_parser = value_parser!(i64).range(1..=64))]
    batch: Vec<i64>,
    /// Adapters of four tokens a reference, with 0 none
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1")]
    #[arg(value_parser = value_parser!(i64).range(0..=4))]
    adapters: Vec<i64>,
    /// Reference images that each adapter sees
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1")]
    #[arg(value_parser = value_parser!(i64).range(1..=8))]
    references: Vec<i64>,
    /// Without an adapter, as `--adapters 0`
    #[arg(long, conflicts_with_all = ["adapters", "references"])]
    no_adapter: bool,
    /// Replay the call, recorded before, as drawing does on a CUDA card
    #[arg(long)]
    cuda_graph: bool,
    #[command(flatten)]
    common: CommonArgs,
}

pub(super) fn run(args: &UnetArgs) -> Result<()> {
    let (preset, common) = (args.model.config, &args.common);
    let sizes = sizes(args, &preset.unet()?)?;
    let options = common.device.options()?;
    let _no_grad = tch::no_grad_guard();
    let _fewer = FewerProducts::new(); // as in drawing
    let unet = RandomUnet::new(preset, options)?;
    lay_out_for_drawing(unet.variables.values());
    let cases = cases(&sizes, &unet, preset, options)?;
    let graphs = match options.0 {
        Device::Cuda(card) if args.cuda_graph => recorded(&cases, &unet.model, card)?,
        _ if args.cuda_graph => return Err(UsageError("there are CUDA graphs on a CUDA card only".to_owned()).into()),
        _ => Vec::new(),
    };
    let before = Before::now(options.0);
    let mut memory = vec![None; cases.len()];
    let call = |index: usize| {
        match graphs.get(index) {
            // SAFETY: the case and its prediction live, and no graph shares this one's memory.
            Some((graph, _)) => unsafe { graph.replay() }?,
            None => drop(cases[index].call(&unet.model)?),
        }
        // What larger calls leave behind would count for the smaller ones, were it told after them.
        if memory[index].is_none() || cases.len() == 1 {
            memory[index] = before.until_now();
        }
        Ok(())
    };
    let timings = timed_by_turns(options.0, common.runs, ("UNet", common.json), cases.len(), call)?;
    cases.iter().try_for_each(|case| case.check(&unet.model))?;
    for (case, (_, replayed)) in cases.iter().zip(&graphs) {
        ensure!(case.call(&unet.model)? == *replayed, "the replayed call gives other numbers");
    }
    let measured = |((size, timing), memory): ((&Size, _), _)| {
        let Size { batch, side, adapters, references } = *size;
        let (pixels, image_tokens) = (side.pixels, size.image_tokens());
        Measured {
            bench: "unet",
            title: format!("UNet of {}, batch {batch}, {pixels} px, {image_tokens} image tokens", preset.name()),
            call: json!({
                "config": preset, "batch": batch, "size": pixels, "adapters": adapters, "references": references,
                "image_tokens": image_tokens, "cuda_graph": args.cuda_graph
            }),
            found: Vec::new(),
            timing,
            work: Some(size.work(&unet.config)),
            memory,
        }
    };
    tell(sizes.iter().zip(timings).zip(memory).map(measured).collect(), options, common.json)
}

/// Each call as a graph, with the prediction that it fills.
fn recorded(cases: &[Case], unet: &Unet, card: usize) -> Result<Vec<(CudaGraph, Tensor)>> {
    let record = |case: &Case| {
        drop(case.call(unet)?);
        let (graph, prediction) = CudaGraph::capture(card, None, || case.call(unet))?;
        Ok((graph, prediction?))
    };
    cases.iter().map(record).collect()
}

/// Every combination that is asked for, least work first: memory is told after the first call of each.
fn sizes(args: &UnetArgs, unet: &UnetConfig) -> Result<Vec<Size>> {
    let sides = match &args.size[..] {
        [] => vec![args.model.config.side(None)?],
        sizes => sizes.iter().map(|&size| args.model.config.side(Some(size))).collect::<Result<_, _>>()?,
    };
    let adapters = if args.no_adapter { &[0][..] } else { &args.adapters };
    let mut sizes = Vec::new();
    for &side in &sides {
        for &batch in &args.batch {
            for &adapters in adapters {
                let references = if adapters == 0 { &[0][..] } else { &args.references };
                sizes.extend(references.iter().map(|&references| Size { batch, side, adapters, references }));
            }
        }
    }
    sizes.sort_by(|a, b| a.work(unet).total().total_cmp(&b.work(unet).total()));
    Ok(sizes)
}

/// Sizes of one call.
#[derive(Debug, Clone, Copy)]
struct Size {
    batch: i64,
    side: Side,
    adapters: i64,
    references: i64,
}

impl Size {
    fn image_tokens(self) -> i64 {
        self.adapters * self.references * VARIANT.num_tokens()
    }

    fn work(self, unet: &UnetConfig) -> Work {
        forward_work(unet, call_size(self.batch, self.side, self.image_tokens()))
    }
}

/// What the UNet is called with.
struct Case {
    latents: Tensor,
    timestep: Tensor,
    context: Tensor,
    prompts: Composition,
}

fn cases(sizes: &[Size], unet: &RandomUnet, preset: Preset, options: (Device, Kind)) -> Result<Vec<Case>> {
    let most = sizes.iter().map(|size| size.adapters).max().unwrap_or_default();
    let adapters: Vec<IpAdapter> = (0..most).map(|_| unet.adapter(VARIANT, preset, options)).collect();
    sizes.iter().map(|&size| Case::new(size, unet, &adapters, (preset, options))).collect()
}

impl Case {
    fn new(
        Size { batch, side, adapters: num_adapters, references }: Size,
        unet: &RandomUnet,
        adapters: &[IpAdapter],
        (preset, (device, kind)): (Preset, (Device, Kind)),
    ) -> Result<Self> {
        let mut draws = Draws::seeded(1);
        let mut draw = |shape: &[i64]| draws.normal(shape).to_device(device).to_kind(kind);
        let row = [&[batch, references], &VARIANT.features(preset, 1)[1..]].concat();
        let prompt = |adapter: &IpAdapter| Ok((adapter.prompt(&draw(&row), 1.0)?, Timing::default()));
        let prompts = adapters[..num_adapters as usize].iter().map(prompt).collect::<Result<_>>()?;
        Ok(Self {
            latents: draw(&[batch, unet.config.in_channels, side.latents, side.latents]),
            timestep: Tensor::from(500.0_f32).to_device(device),
            context: draw(&[batch, TEXT_TOKENS, unet.config.cross_attention_dim]),
            prompts: Composition::new(prompts),
        })
    }

    fn call(&self, unet: &Unet) -> Result<Tensor> {
        let prediction = unet.forward(&self.latents, &self.timestep, &self.context, &self.prompts.at(0.0));
        ensure!(prediction.size() == self.latents.size(), "the prediction has another size");
        Ok(prediction)
    }

    fn check(&self, unet: &Unet) -> Result<()> {
        let is_finite = self.call(unet)?.isfinite().all().int64_value(&[]) == 1;
        ensure!(is_finite, "the random model gives no numbers in this precision: try another `--dtype`");
        Ok(())
    }
}
