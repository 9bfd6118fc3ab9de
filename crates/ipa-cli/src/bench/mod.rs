//! `ipa bench`

mod measure;
mod memory;
mod models;
mod report;
mod train_step;
mod unet;

use anyhow::Result;
use clap::{Args, Subcommand, value_parser};

use crate::args::DeviceArgs;
use models::Preset;

/// Measure this machine: how long what you would wait for takes, and how near that is to what the machine can do
///
/// Models are of full size with random weights, so nothing need be downloaded. One call warms up and is not counted.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  ipa bench unet\n  ipa bench train-step --variant plus --recompute --json")]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    command: BenchCommand,
}

#[derive(Debug, Subcommand)]
enum BenchCommand {
    Unet(unet::UnetArgs),
    TrainStep(train_step::TrainStepArgs),
}

/// What is measured, how often, and where.
#[derive(Debug, Args)]
struct CommonArgs {
    /// Sizes of the model
    #[arg(long, value_name = "NAME", value_enum, default_value_t = Preset::Sd15)]
    config: Preset,
    /// Side of the pictures in pixels, a multiple of 8; without it, the one that the model is for
    #[arg(long, value_name = "PX", value_parser = value_parser!(i64).range(8..=4096))]
    size: Option<i64>,
    /// Calls that are counted
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = value_parser!(u64).range(1..=1000))]
    runs: u64,
    #[command(flatten)]
    device: DeviceArgs,
    /// Print one JSON object, as is done anyway where the output is no terminal
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &BenchArgs) -> Result<()> {
    match &args.command {
        BenchCommand::Unet(args) => unet::run(args),
        BenchCommand::TrainStep(args) => train_step::run(args),
    }
}
