//! Chores of this workspace, a line and a module each; `cargo xtask` lists them.
//!
//! This program builds in seconds and before libtorch is there. What needs libtorch lives in other packages,
//! which the chores build and start.

mod cargo;
mod fixtures;
mod fuzz;
mod libtorch;
mod python;
mod report;

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;

const HELP: &str = "\
Chores of this workspace. Each sets up what it needs first.

cargo xtask libtorch [--cuda]   find or get libtorch and link it from this checkout; --cuda: with its CUDA parts
cargo xtask demo [ARGS]         the main job on the bundled model: train, check, generate, report (ipa demo ARGS)
cargo xtask convert-checkpoint [CHECKPOINT [OUT]]
                                a trainer's checkpoint, or its output folder (sd-ip_adapter), as an adapter file
                                (trained_ip_adapter.safetensors); --help lists what else it converts
cargo xtask test [ARGS]         every test of the workspace (cargo test --release --workspace ARGS)
cargo xtask pocket [ARGS]       train the pocket model from nothing or another's weights, or go on; --help lists ARGS
cargo xtask ablations [ARGS]    train, draw and judge the adapters that docs/ablations.md compares; --help lists ARGS
cargo xtask fetch-weights ARGS  published weights by name, such as sd15 or ip-adapter-plus; --list shows all (ipa fetch ARGS)
cargo xtask parity [ARGS]       compare full-size models with the Python references, and a report's cosines (`report`: those alone)
cargo xtask fixtures            rebuild tests/fixtures from the Python references
cargo xtask fuzz [TARGET [SEC]] feed the readers of strangers' files with broken ones, each for 600 seconds

parity and fixtures need Python with torch 2.11.0, diffusers 0.42.1 and transformers 5.23.0, without torchvision (fixtures
also scipy and scikit-image):
the one named by IPA_PYTHON, else python3. fuzz needs cargo-fuzz and a nightly toolchain. docs/installing.md says where libtorch is looked for and kept.";

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let chore = args.next();
    match run(chore.as_ref().and_then(|chore| chore.to_str()), args.collect()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            error.chain().skip(1).for_each(|cause| eprintln!("  caused by: {cause}"));
            ExitCode::FAILURE
        }
    }
}

fn run(chore: Option<&str>, args: Vec<OsString>) -> Result<ExitCode> {
    match chore {
        Some("libtorch") => libtorch::run(&args),
        Some("demo") => cargo::demo(&args),
        Some("convert-checkpoint") => cargo::convert_checkpoint(&args),
        Some("test") => cargo::test(&args),
        Some("pocket") => cargo::pocket(&args),
        Some("ablations") => cargo::ablations(&args),
        Some("fetch-weights") => cargo::fetch_weights(&args),
        Some("parity") => cargo::parity(&args),
        Some("fixtures") => fixtures::run(&args),
        Some("fuzz") => fuzz::run(&args),
        None | Some("help" | "--help" | "-h") => {
            println!("{HELP}");
            Ok(ExitCode::SUCCESS)
        }
        Some(unknown) => {
            eprintln!("error: there is no chore `{unknown}`\n\n{HELP}");
            Ok(ExitCode::from(2))
        }
    }
}
