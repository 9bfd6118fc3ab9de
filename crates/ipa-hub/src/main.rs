//! The `ipa-hub` program: `ipa fetch` by itself, for a machine without libtorch.

use std::error::Error as _;
use std::io;
use std::process::ExitCode;

use clap::Parser;
use ipa_hub::HubError;
use ipa_hub::command::{FetchArgs, run};

/// Download published weights by name, verified, into the cache that Python's huggingface_hub uses too.
#[derive(Debug, Parser)]
#[command(name = "fetch", version)]
struct Cli {
    #[command(flatten)]
    args: FetchArgs,
}

fn main() -> ExitCode {
    let cli = Cli::parse(); // leaves with 2 if the arguments are wrong
    match run(&cli.args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

/// One sentence, then its cause. A reader of standard output that went away ends the program without a word.
fn failed(error: &HubError) -> ExitCode {
    let is_broken_pipe = matches!(error, HubError::Output { source } if source.kind() == io::ErrorKind::BrokenPipe);
    if !is_broken_pipe {
        eprintln!("error: {error}");
        if let Some(cause) = error.source() {
            eprintln!("  caused by: {cause}");
        }
    }
    if error.is_usage() { ExitCode::from(2) } else { ExitCode::FAILURE }
}
