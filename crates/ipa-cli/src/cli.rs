//! The commands, a line and a module each.

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::{
    bench, check, completions, convert, dataset, demo, doctor, embed, evaluate, fetch, generate, inspect, train, tune,
    verify,
};

/// Image prompts for Stable Diffusion: train, check and use IP-Adapters, without Python.
#[derive(Debug, Parser)]
#[command(
    name = "ipa",
    version,
    after_help = "Example:\n  ipa generate --model pocket --prompt \"a red circle\" --output red.png\n\n\
                  Every command has its own help: ipa generate --help"
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Generate(Box<generate::GenerateArgs>),
    Train(Box<train::TrainArgs>),
    Tune(Box<tune::TuneArgs>),
    Check(check::CheckArgs),
    Evaluate(Box<evaluate::EvaluateArgs>),
    Dataset(dataset::DatasetArgs),
    Demo(demo::DemoArgs),
    Embed(embed::EmbedArgs),
    Fetch(fetch::FetchArgs),
    Convert(Box<convert::ConvertArgs>),
    Inspect(inspect::InspectArgs),
    Verify(verify::VerifyArgs),
    Bench(bench::BenchArgs),
    Doctor(doctor::DoctorArgs),
    Completions(completions::CompletionsArgs),
}

impl Command {
    pub(crate) fn run(self) -> Result<()> {
        match self {
            Self::Generate(args) => generate::run(*args),
            Self::Train(args) => train::run(&args),
            Self::Tune(args) => tune::run(&args),
            Self::Check(args) => check::run(args),
            Self::Evaluate(args) => evaluate::run(&args),
            Self::Dataset(args) => dataset::run(&args),
            Self::Demo(args) => demo::run(&args),
            Self::Embed(args) => embed::run(args),
            Self::Fetch(args) => fetch::run(&args),
            Self::Convert(args) => convert::run(*args),
            Self::Inspect(args) => inspect::run(&args),
            Self::Verify(args) => verify::run(&args),
            Self::Bench(args) => bench::run(&args),
            Self::Doctor(args) => doctor::run(&args),
            Self::Completions(args) => completions::run(&args),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_arguments_hold_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_shows_an_example() {
        for command in Cli::command().get_subcommands() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains(&format!("  ipa {}", command.get_name())), "{}: {help}", command.get_name());
        }
    }
}
