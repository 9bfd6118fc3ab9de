//! Trains, draws and judges the adapters that docs/ablations.md compares; `cargo xtask ablations` runs it.

mod arms;
mod command;
mod draw;
mod page;
mod plots;
mod results;
#[path = "../support/scenes.rs"]
mod scenes;
mod tables;
mod work;

use anyhow::Result;
use clap::Parser as _;

// libtorch allocates large activations anew at every operation; this keeps them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<()> {
    command::run(&command::Args::parse())
}
