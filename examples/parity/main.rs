//! Compares models of Stable Diffusion 1.5's real sizes, with random weights, with the Python references, and what
//! diffusers draws with an adapter trained here with what is drawn here; `cargo xtask parity` runs it.
//!
//! Needs the reference Python (tests/parity/reference.py says which) as `IPA_PYTHON` or `python3`, 16 GB of memory, and
//! 3.5 GB of disk for the temporary files of one part at a time, for `files` 25 GB. Times are those of a first call, in f32 on the CPU.

mod adapter;
mod files;
mod models;
mod outcome;
mod reference;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use ipa_core::tch::{Device, Kind};

use outcome::Outcome;

/// What both sides compute in.
const F32: (Device, Kind) = (Device::Cpu, Kind::Float);

/// Compares full-size models, and pictures drawn with an adapter, with the Python references.
#[derive(Debug, Parser)]
#[command(name = "parity")]
struct Args {
    /// What to compare; everything if nothing is named
    parts: Vec<Part>,
    /// Adapter file to draw with; without one, an adapter is trained on the tests' tiny model
    #[arg(long, value_name = "FILE", requires = "model")]
    adapter: Option<PathBuf>,
    /// Folder of the model that the adapter belongs to
    #[arg(long, value_name = "FOLDER", requires = "adapter")]
    model: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Part {
    /// CLIP ViT-L/14's text tower
    Text,
    /// OpenAI's vision tower
    VitL,
    /// OpenCLIP's vision tower
    VitH,
    /// The autoencoder, both ways
    Vae,
    /// The UNet with a classic adapter
    Unet,
    /// A picture drawn with a trained adapter
    Adapter,
    /// One model in every form of files; needs 25 GB of disk
    Files,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("error: outputs marked `differs` lie beyond what is allowed");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("error: {error}");
            error.chain().skip(1).for_each(|cause| eprintln!("  caused by: {cause}"));
            ExitCode::FAILURE
        }
    }
}

/// Runs the parts one after another, each with the memory to itself; whether all of them passed.
fn run(args: &Args) -> Result<bool> {
    let parts = if args.parts.is_empty() { Part::value_variants() } else { &args.parts };
    println!("{}", outcome::HEADER);
    let mut all_pass = true;
    for part in parts {
        let outcome = compare(*part, args)?;
        print!("{outcome}");
        all_pass &= outcome.passes();
    }
    Ok(all_pass)
}

fn compare(part: Part, args: &Args) -> Result<Outcome> {
    match part {
        Part::Text => models::text(),
        Part::VitL => models::vision("vit-l"),
        Part::VitH => models::vision("vit-h"),
        Part::Vae => models::vae(),
        Part::Unet => models::unet(),
        Part::Files => files::forms(),
        Part::Adapter => adapter::picture(args.model.as_deref().zip(args.adapter.as_deref())),
    }
}
