//! Chores that are another package's program: libtorch first, then cargo builds and starts it.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, ExitCode, ExitStatus};

use anyhow::{Context, Result};

use crate::libtorch::{self, Parts};
use crate::report;

/// The root of the checkout this program was started in.
pub(crate) fn checkout() -> PathBuf {
    // `cargo run` says where it is; the compiled-in path serves a program that is started without cargo.
    let manifest = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    PathBuf::from(manifest).parent().expect("xtask lies in the checkout's root").to_owned()
}

/// Every test, documentation examples included.
pub(crate) fn test(args: &[OsString]) -> Result<ExitCode> {
    with_libtorch(&["test", "--release", "--workspace"], args)
}

/// The program with these arguments.
pub(crate) fn ipa(args: &[OsString]) -> Result<ExitCode> {
    with_libtorch(&["run", "--release", "--package", "ipa-cli", "--bin", "ipa", "--"], args)
}

/// `ipa demo`.
pub(crate) fn demo(args: &[OsString]) -> Result<ExitCode> {
    ipa(&[&["demo".into()], args].concat())
}

/// `ipa convert`, without arguments of what the reference's training scripts leave by default.
pub(crate) fn convert_checkpoint(args: &[OsString]) -> Result<ExitCode> {
    let by_default = [OsString::from("sd-ip_adapter")];
    let args = if args.is_empty() { &by_default } else { args };
    ipa(&[&["convert".into()], args].concat())
}

/// The training of the pocket model.
pub(crate) fn pocket(args: &[OsString]) -> Result<ExitCode> {
    training_example("pocket", args)
}

/// Adapters of the pocket model that differ in one thing each.
pub(crate) fn ablations(args: &[OsString]) -> Result<ExitCode> {
    training_example("ablations", args)
}

/// The allocator keeps freed memory: every step needs as much again, and getting it from the system took a third of the
/// time.
fn training_example(name: &str, args: &[OsString]) -> Result<ExitCode> {
    let cargo_args = ["run", "--release", "--package", "ipa", "--example", name, "--"];
    with_libtorch_and(&cargo_args, args, &[("MIMALLOC_PURGE_DELAY", "-1")])
}

/// Full-size models with random weights, here and in the Python references; `report`, or nothing, the cosines of a report.
pub(crate) fn parity(args: &[OsString]) -> Result<ExitCode> {
    let is_report = args == [OsString::from("report")];
    if !is_report {
        let compared = with_libtorch(&["run", "--release", "--package", "ipa", "--example", "parity", "--"], args)?;
        if !args.is_empty() || compared != ExitCode::SUCCESS {
            return Ok(compared);
        }
    }
    report::run()
}

/// Downloads of published weights, which need no libtorch.
pub(crate) fn fetch_weights(args: &[OsString]) -> Result<ExitCode> {
    run_cargo(&["run", "--release", "--quiet", "--package", "ipa-hub", "--"], args, &[])
}

fn with_libtorch(cargo_args: &[&str], args: &[OsString]) -> Result<ExitCode> {
    with_libtorch_and(cargo_args, args, &[])
}

fn with_libtorch_and(cargo_args: &[&str], args: &[OsString], variables: &[(&str, &str)]) -> Result<ExitCode> {
    libtorch::set_up(Parts::Cpu)?;
    run_cargo(cargo_args, args, variables)
}

fn run_cargo(cargo_args: &[&str], args: &[OsString], variables: &[(&str, &str)]) -> Result<ExitCode> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(cargo_args)
        .args(args)
        .envs(variables.iter().copied())
        .current_dir(checkout())
        .status()
        .context("cannot start cargo")?;
    Ok(exit_code(status))
}

/// The child's exit code; 1 if a signal ended it.
pub(crate) fn exit_code(status: ExitStatus) -> ExitCode {
    status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from)
}
