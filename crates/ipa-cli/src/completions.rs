//! `ipa completions`

use std::io::{self, Write as _};

use anyhow::Result;
use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use crate::cli::Cli;

/// Print a script that completes commands and flags in your shell
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  ipa completions bash > ipa.bash && source ipa.bash")]
pub(crate) struct CompletionsArgs {
    /// Your shell
    shell: Shell,
}

pub(crate) fn run(args: &CompletionsArgs) -> Result<()> {
    let mut script = Vec::new(); // the generator panics where it cannot write
    clap_complete::generate(args.shell, &mut Cli::command(), "ipa", &mut script);
    Ok(io::stdout().write_all(&script)?)
}
