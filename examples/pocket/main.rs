//! Trains the pocket model; `cargo xtask pocket` runs it.

mod curves;
mod workshop;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use ipa_core::device::parse_device;
use ipa_train::pretrain::Recipe;

use workshop::Workshop;

// libtorch allocates large activations anew at every operation; this keeps them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Trains the pocket model from nothing, stage by stage; each goes on where it was interrupted.
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask pocket",
    after_help = "Examples:\n  cargo xtask pocket --short unet adapter\n  \
    cargo xtask pocket --from assets/pocket unet adapter scores"
)]
struct Args {
    /// Stages to run; all of them in this order if none is named
    stages: Vec<StageName>,
    /// A few steps of everything, to see that it works
    #[arg(long)]
    short: bool,
    /// A finished model, such as assets/pocket, that vae, unet and adapter begin with instead of nothing; without named
    /// stages, these, the scores and the curves
    #[arg(long, value_name = "DIR", conflicts_with = "short")]
    from: Option<PathBuf>,
    /// Steps of the named stages, in place of the recipe's
    #[arg(long, value_name = "N", requires = "stages", conflicts_with = "short")]
    steps: Option<u64>,
    /// Where to train: auto, cpu, cuda, cuda:N or mps
    #[arg(long, default_value = "auto")]
    device: String,
    /// Folder for the states of the stages and the model [default: ipa/pocket in the user's cache folder]
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum StageName {
    /// Autoencoder
    Vae,
    /// Text tower and vision tower; of a finished model the vision tower alone, after which its adapter begins anew
    Clip,
    /// The second pair of towers, for scores
    Scorer,
    /// UNet
    Unet,
    /// Base adapter
    Adapter,
    /// Scores of all of it on held-out scenes, scores.json and samples.png
    Scores,
    /// The losses of all stages, losses.svg
    Curves,
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            error.chain().skip(1).for_each(|cause| eprintln!("  caused by: {cause}"));
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> Result<()> {
    let recipe = match &args.from {
        Some(_) => Recipe::continued(),
        None if args.short => Recipe::short(),
        None => Recipe::full(),
    };
    let recipe = Recipe { device: parse_device(&args.device)?, ..recipe };
    let recipe = args.steps.map_or(recipe.clone(), |steps| recipe.with_steps(steps));
    let default_folder = || default_folder(args.short, args.from.is_some());
    let folder = args.folder.map_or_else(default_folder, Ok)?;
    let workshop = Workshop { folder, recipe, from: args.from };
    workshop.adopt()?;
    let stages = match (args.stages.is_empty(), &workshop.from) {
        (false, _) => args.stages,
        (true, None) => StageName::value_variants().to_vec(),
        (true, Some(_)) => {
            vec![StageName::Vae, StageName::Unet, StageName::Adapter, StageName::Scores, StageName::Curves]
        }
    };
    stages.into_iter().try_for_each(|stage| match stage {
        StageName::Vae => workshop.vae(),
        StageName::Clip => workshop.clip(),
        StageName::Scorer => workshop.scorer(),
        StageName::Unet => workshop.unet(),
        StageName::Adapter => workshop.adapter(),
        StageName::Scores => workshop.scores(),
        StageName::Curves => workshop.curves(),
    })
}

/// A short model is not continued by a full one, nor a model from nothing by one from another's weights.
fn default_folder(short: bool, continued: bool) -> Result<PathBuf> {
    let cache = dirs::cache_dir().context("this user has no cache folder: name one with --folder")?;
    Ok(cache.join(match (short, continued) {
        (true, _) => "ipa/pocket-short",
        (_, true) => "ipa/pocket-continued",
        _ => "ipa/pocket",
    }))
}
