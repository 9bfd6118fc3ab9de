//! `ipa bench`

mod clip;
mod generate;
mod load;
mod measure;
mod memory;
mod model_folder;
mod models;
mod preset;
mod report;
mod train_step;
mod unet;
mod vae_decode;

use anyhow::Result;
use clap::{Args, Subcommand, value_parser};

use crate::args::DeviceArgs;
use preset::Preset;

/// Measure this machine: how long what you would wait for takes, and how near that is to what the machine can do
///
/// Models are of full size with random weights, so nothing need be downloaded. One call warms up and is not counted.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    ipa bench unet\n  \
    ipa bench unet --batch 1,2,4,8 --size 256,512 --json\n  \
    ipa bench generate --references 2 --runs 1\n  \
    ipa bench train-step --variant plus --recompute --json")]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    command: BenchCommand,
}

#[derive(Debug, Subcommand)]
enum BenchCommand {
    Unet(unet::UnetArgs),
    TrainStep(train_step::TrainStepArgs),
    VaeDecode(vae_decode::VaeDecodeArgs),
    Clip(clip::ClipArgs),
    Load(load::LoadArgs),
    Generate(generate::GenerateArgs),
}

/// How often, where, and how it is told.
#[derive(Debug, Args)]
struct CommonArgs {
    /// Calls that are counted
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = value_parser!(u64).range(1..=1000))]
    runs: u64,
    #[command(flatten)]
    device: DeviceArgs,
    /// Print one JSON object for each measurement, as is done anyway where the output is no terminal
    #[arg(long)]
    json: bool,
}

/// Which model.
#[derive(Debug, Args)]
struct ConfigArgs {
    /// Sizes of the model
    #[arg(long, value_name = "NAME", value_enum, default_value_t = Preset::Sd15)]
    config: Preset,
}

/// Pictures of one size.
#[derive(Debug, Args)]
struct SizeArgs {
    /// Side of the pictures in pixels, a multiple of 8; without it, the one that the model is for
    #[arg(long, value_name = "PX", value_parser = value_parser!(i64).range(8..=4096))]
    size: Option<i64>,
}

pub(crate) fn run(args: &BenchArgs) -> Result<()> {
    match &args.command {
        BenchCommand::Unet(args) => unet::run(args),
        BenchCommand::TrainStep(args) => train_step::run(args),
        BenchCommand::VaeDecode(args) => vae_decode::run(args),
        BenchCommand::Clip(args) => clip::run(args),
        BenchCommand::Load(args) => load::run(args),
        BenchCommand::Generate(args) => generate::run(args),
    }
}
