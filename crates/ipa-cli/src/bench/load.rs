//! `ipa bench load`

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::Args;
use ipa_core::Checkpoint;
use ipa_core::tch::{Device, Kind, nn::VarStore};
use ipa_unet::{Unet, UnetConfig};
use serde_json::json;

use super::measure::timed_by_turns;
use super::memory::Before;
use super::model_folder::write_unet;
use super::report::{Measured, seconds, tell};
use super::{CommonArgs, ConfigArgs};
use crate::interrupt;

/// Loading a UNet, beside a plain read of the same file
///
/// Both by turns, and both from the system's cache of files, if the file fits into it. The plain read goes into one piece of
/// memory that is used again, so that it is as fast as can be.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    ipa bench load\n  \
    ipa bench load --file model/unet/diffusion_pytorch_model.safetensors --runs 5 --json")]
pub(super) struct LoadArgs {
    #[command(flatten)]
    model: ConfigArgs,
    /// Weights of a UNet of these sizes; without it, random ones are written to a temporary folder, in the precision that
    /// is computed in: 3.4 GB for Stable Diffusion 1.5 in f32
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    common: CommonArgs,
}

pub(super) fn run(args: &LoadArgs) -> Result<()> {
    interrupt::listen()?;
    let LoadArgs { model, file, common } = args;
    let options = common.device.options()?;
    let config = model.config.unet()?;
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let file = match file {
        Some(file) => file.clone(),
        None => write_unet(folder.path(), &config, options.1)?,
    };
    let bytes = file.metadata().with_context(|| format!("cannot read {}", file.display()))?.len();
    let mut buffer = vec![0; usize::try_from(bytes)?];
    let before = Before::now(options.0);
    let mut memory = None;
    let turn = |index| match index {
        0 => read(&file, &mut buffer),
        _ => {
            let loaded = load(&file, &config, options)?;
            memory = before.until_now();
            drop(loaded);
            Ok(())
        }
    };
    let timings = timed_by_turns(options.0, common.runs, ("loading", common.json), 2, turn)?;
    let [read, load] = <[_; 2]>::try_from(timings).ok().context("two kinds of call were timed")?;
    let (ratio, read_s) = (load.median_s / read.median_s, read.median_s);
    let gib = bytes as f64 / f64::from(1 << 30);
    let measured = Measured {
        bench: "load",
        title: format!("loading a UNet of {}, {gib:.2} GiB", model.config.name()),
        call: json!({ "config": model.config, "bytes": bytes, "read": read, "ratio": ratio }),
        found: vec![("read", format!("{}: loading takes {ratio:.2} times a plain read", seconds(read_s)))],
        timing: load,
        work: None,
        memory,
    };
    tell(vec![measured], options, common.json)
}

fn read(file: &Path, buffer: &mut [u8]) -> Result<()> {
    let read = File::open(file).and_then(|mut file| file.read_exact(buffer));
    read.with_context(|| format!("cannot read {}", file.display()))
}

/// As a model folder's UNet is loaded.
fn load(file: &Path, config: &UnetConfig, (device, kind): (Device, Kind)) -> Result<VarStore> {
    let mut vs = VarStore::new(device);
    vs.set_kind(kind);
    let _unet = Unet::new(&vs.root(), config);
    Checkpoint::open(file)?.load_into(&vs)?;
    Ok(vs)
}
