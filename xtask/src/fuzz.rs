//! `cargo xtask fuzz`: what reads strangers' files, fed with files that nobody would write.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::cargo::{checkout, exit_code};
use crate::libtorch::{self, Parts};

const SECONDS: u64 = 600;
/// Every target with the fixtures that it starts from.
const TARGETS: [(&str, &[&str]); 5] = [
    ("pickle", &["torch_files"]),
    ("safetensors", &["models", "training", "tiny_sd/text_encoder"]),
    ("single_file", &["single_file"]),
    ("adapter", &["tiny_sd", "faces", "research"]),
    ("image", &["preprocess/files", "preprocess/refused", "pictures"]),
];
/// Larger ones would only make every run slower.
const MAX_SEED_BYTES: u64 = 200_000;

/// Runs one target or all, each for so many seconds.
pub(crate) fn run(args: &[OsString]) -> Result<ExitCode> {
    let args: Vec<&str> = args.iter().filter_map(|arg| arg.to_str()).collect();
    let (only, seconds) = match args[..] {
        [] => (None, SECONDS),
        [target] => (Some(target), SECONDS),
        [target, seconds] => (Some(target), seconds.parse().context("the second argument is a number of seconds")?),
        _ => bail!("give a target and a number of seconds, or nothing"),
    };
    let chosen: Vec<_> = TARGETS.into_iter().filter(|(name, _)| only.is_none_or(|only| only == *name)).collect();
    if chosen.is_empty() {
        bail!("there is no such target: {}", TARGETS.map(|(name, _)| name).join(", "));
    }
    libtorch::set_up(Parts::Cpu)?;
    for (name, fixtures) in chosen {
        let corpus = checkout().join("fuzz/corpus").join(name);
        seed(&corpus, fixtures)?;
        let status = Command::new("cargo")
            .args(["+nightly", "fuzz", "run", "--sanitizer", "none", name, "--"])
            .args([&format!("-max_total_time={seconds}"), "-timeout=10", "-rss_limit_mb=4096", "-max_len=300000"])
            .arg("-print_final_stats=1")
            .current_dir(checkout())
            .status()
            .context("cannot start cargo fuzz: `cargo install cargo-fuzz`, and a nightly toolchain")?;
        if !status.success() {
            return Ok(exit_code(status));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Puts fixtures where a target looks for inputs; those found earlier stay.
fn seed(corpus: &Path, fixtures: &[&str]) -> Result<()> {
    fs::create_dir_all(corpus).with_context(|| format!("cannot make {}", corpus.display()))?;
    for folder in fixtures {
        let folder = checkout().join("tests/fixtures").join(folder);
        for file in files(&folder)? {
            let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let is_names = corpus.ends_with("single_file");
            match (is_names, file.extension().is_some_and(|ending| ending == "json")) {
                (true, true) => fs::write(corpus.join(name), lines(&serde_json::from_slice(&fs::read(&file)?)?))?,
                (false, false) => drop(fs::copy(&file, corpus.join(name))?),
                _ => {}
            }
        }
    }
    Ok(())
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let paths = entries.flatten().map(|entry| entry.path());
    Ok(paths.filter(|path| fs::metadata(path).is_ok_and(|it| it.is_file() && it.len() <= MAX_SEED_BYTES)).collect())
}

/// Names and sizes of a nested listing as the target reads them.
fn lines(listing: &Value) -> String {
    let mut lines = Vec::new();
    add_lines("", listing, &mut lines);
    lines.join("\n")
}

fn add_lines(name: &str, value: &Value, lines: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            for (member, value) in members {
                let name = if name.is_empty() { member.clone() } else { format!("{name}.{member}") };
                add_lines(&name, value, lines);
            }
        }
        Value::Array(sizes) => {
            let sizes: Vec<String> = sizes.iter().map(Value::to_string).collect();
            lines.push(format!("{name} {}", sizes.join(" ")).replace("model.diffusion_model.", "*"));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listings_become_lines() {
        let listing = serde_json::json!({ "model": { "diffusion_model": { "out.2.bias": [4] } }, "betas": [1, 2] });
        assert_eq!(lines(&listing), "betas 1 2\n*out.2.bias 4");
    }
}
