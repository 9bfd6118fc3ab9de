//! The cosines of a report, computed again by transformers from its saved pictures.

use std::ffi::OsString;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::cargo::{checkout, exit_code, ipa};
use crate::fixtures::reference_python;

/// Checks the pocket model, and computes the cosines of that again.
pub(crate) fn run() -> Result<ExitCode> {
    let python = reference_python()?;
    let folder = checkout().join("target/parity-report");
    let words = ["check", "--model", "pocket", "--report", "--output"].map(OsString::from);
    let checked = ipa(&[&words[..], &[folder.clone().into()]].concat())?;
    if checked != ExitCode::SUCCESS {
        return Ok(checked);
    }
    let status = Command::new(python)
        .arg(checkout().join("tests/parity/recompute_cosines.py"))
        .args([folder, checkout().join("assets/pocket/clip")])
        .status()
        .context("cannot start Python")?;
    Ok(exit_code(status))
}
