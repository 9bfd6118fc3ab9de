//! `ipa bench clip`

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum, value_parser};
use ipa_clip::{TextConfig, TextTower, VisionConfig, VisionTower};
use ipa_core::Work;
use ipa_core::noise::Draws;
use ipa_core::tch::nn::Path;
use ipa_core::tch::{self, Device, Kind, Tensor};
use serde::Serialize;
use serde_json::json;

use super::CommonArgs;
use super::measure::timed;
use super::memory::Before;
use super::models::{TEXT_TOKENS, random};
use super::report::{Measured, tell};

/// The towers that turn reference images and prompts into features: what a request takes once, at the start
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  ipa bench clip\n  ipa bench clip --tower vit-h,vit-l,vit-bigg --batch 4 --json")]
pub(super) struct ClipArgs {
    /// Which of them, one after another
    #[arg(long, value_name = "NAME", value_enum, value_delimiter = ',', default_value = "vit-h,text")]
    tower: Vec<Tower>,
    /// Pictures, or prompts of 77 tokens, at once
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = value_parser!(i64).range(1..=256))]
    batch: i64,
    #[command(flatten)]
    common: CommonArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Tower {
    /// OpenCLIP ViT-H/14, which sees for most adapters
    VitH,
    /// OpenAI's ViT-L/14
    VitL,
    /// OpenCLIP ViT-bigG/14, which sees for some adapters for SDXL
    VitBigg,
    /// The text tower of Stable Diffusion 1.5
    Text,
}

impl Tower {
    fn vision(self) -> Option<VisionConfig> {
        match self {
            Self::VitH => Some(VisionConfig::vit_h()),
            Self::VitL => Some(VisionConfig::vit_l()),
            Self::VitBigg => Some(VisionConfig::vit_bigg()),
            Self::Text => None,
        }
    }
}

pub(super) fn run(args: &ClipArgs) -> Result<()> {
    let options = args.common.device.options()?;
    let _no_grad = tch::no_grad_guard();
    let measured = args.tower.iter().map(|&tower| match tower.vision() {
        Some(config) => {
            let picture = [args.batch, 3, config.image_size, config.image_size];
            let pixels = Draws::seeded(1).normal(&picture).to_device(options.0).to_kind(options.1);
            let build = |vs: &Path| {
                let model = VisionTower::new(vs, &config);
                move |pixels: &Tensor| model.forward(pixels).image_embeds
            };
            measured(args, tower, options, (build, pixels, config.work()))
        }
        None => {
            let config = TextConfig::clip_l();
            let ids = Draws::seeded(1).integers(config.vocab_size, &[args.batch, TEXT_TOKENS]);
            let build = |vs: &Path| {
                let model = TextTower::new(vs, &config);
                move |ids: &Tensor| model.forward(ids).last_hidden_state
            };
            measured(args, tower, options, (build, ids.to_device(options.0), config.work(TEXT_TOKENS)))
        }
    });
    tell(measured.collect::<Result<_>>()?, options, args.common.json)
}

/// Of a tower, given how to make it, what it sees, and its work for one picture or prompt.
fn measured<F: Fn(&Tensor) -> Tensor>(
    ClipArgs { batch, common, .. }: &ClipArgs,
    tower: Tower,
    options: (Device, Kind),
    (build, input, work): (impl FnOnce(&Path) -> F, Tensor, Work),
) -> Result<Measured> {
    let (forward, _vs) = random(options, build);
    let before = Before::now(options.0);
    let mut features = Tensor::new();
    let call = || {
        features = forward(&input);
        Ok(())
    };
    let timing = timed(options.0, common.runs, ("CLIP", common.json), call)?;
    let memory = before.until_now();
    let is_finite = features.isfinite().all().int64_value(&[]) == 1;
    ensure!(is_finite, "the random model gives no numbers in this precision: try another `--dtype`");
    let name = tower.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
    Ok(Measured {
        bench: "clip",
        title: format!("CLIP tower {name}, batch {batch}"),
        call: json!({ "tower": tower, "batch": batch }),
        found: Vec::new(),
        timing,
        work: Some(work * *batch as f64),
        memory,
    })
}
