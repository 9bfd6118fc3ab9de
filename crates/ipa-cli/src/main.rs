//! The `ipa` program: flags become requests, requests go to the libraries, and what comes back is written and told.
//!
//! Nothing here is worth reusing; every command is a module of its own. Exit status: 0 done, 1 it failed, 2 the
//! arguments were wrong.

mod args;
mod bench;
mod check;
mod cli;
mod completions;
mod convert;
mod dataset;
mod demo;
mod doctor;
mod embed;
mod evaluate;
mod failure;
mod fetch;
mod generate;
mod images;
mod inspect;
mod interrupt;
mod model;
mod names;
mod output;
mod progress;
mod provenance;
mod scores;
mod thumbnails;
mod train;
mod tune;
mod verify;

use std::process::ExitCode;

use clap::Parser as _;

use ipa_core::allocator::{Allocator, keep_memory};

// libtorch maps and unmaps large activations at every operation; this keeps them (a fifth of a UNet call).
#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

fn main() -> ExitCode {
    keep_memory();
    let cli = cli::Cli::parse(); // leaves with 2 if the arguments are wrong
    failure::reported(|| cli.command.run())
}
