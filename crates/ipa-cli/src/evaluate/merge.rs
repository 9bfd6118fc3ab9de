//! `ipa evaluate merge`

use std::fs::{self, File};
use std::io;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueHint};
use ipa_formats::write_atomically;
use ipa_metrics::evaluation::{MeasurementLog, Row, read_measurements};

use super::{MEASUREMENTS, page, told};
use crate::output;

/// Make one report of the parts of a run
///
/// The parts are the folders of `--report` of runs with `--shard`, in any order. The report has the same bytes as that
/// of one run. Every part is named once, and none may be missing but with `--partial`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  ipa evaluate merge out/shard-1 out/shard-2 out/shard-3 --report out/whole")]
pub(crate) struct MergeArgs {
    /// Folders with a measurements.jsonl and its pictures
    #[arg(value_name = "DIR", required = true, num_args = 1.., value_hint = ValueHint::DirPath)]
    shards: Vec<PathBuf>,
    /// Folder for the report
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    report: PathBuf,
    /// Make a report although parts are missing; it says so
    #[arg(long)]
    partial: bool,
    /// Print one JSON object with the means
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &MergeArgs) -> Result<()> {
    output::check_folder(&args.report)?;
    let files: Vec<PathBuf> = args.shards.iter().map(|shard| shard.join(MEASUREMENTS)).collect();
    let merged = read_measurements(&files)?;
    if let (Some((num, of)), false) = (merged.missing_part(), args.partial) {
        bail!(
            "these parts have {num} of {of} images: name the folders of the others too, or make a report of a part with \
             `--partial`"
        );
    }
    output::create_folder(&args.report)?;
    let mut log = MeasurementLog::open(&args.report.join(MEASUREMENTS), merged.settings().clone())?;
    for row in merged.rows() {
        take_pictures(row, args)?;
        log.add(row.clone())?;
    }
    merged.skipped().try_for_each(|skipped| log.skip(skipped.clone()))?;
    let report = page::write(log.measurements(), &args.report)?;
    told::tell(&report, &args.report, args.json)
}

/// Puts a row's files into the report's folder, without copying where the file system allows.
fn take_pictures(row: &Row, args: &MergeArgs) -> Result<()> {
    let nearest = row.nearest_training.as_ref().map(|nearest| &nearest.file);
    for file in [&row.file, &row.reference].into_iter().chain(nearest).filter(|file| !file.is_empty()) {
        let parts = || Path::new(file).components();
        if !parts().all(|part| matches!(part, Component::Normal(_))) {
            bail!(
                "the measurements name {file}, which lies outside their folder: merge folders that `ipa evaluate` wrote"
            );
        }
        let target = args.report.join(file);
        if target.is_file() {
            continue;
        }
        let found = args.shards.iter().map(|shard| shard.join(file)).find(|path| path.is_file());
        let found = found
            .with_context(|| format!("none of the folders has {file}: bring the pictures with the measurements"))?;
        output::create_folder_of(&target)?;
        if fs::hard_link(&found, &target).is_err() {
            write_atomically(&target, |out| io::copy(&mut File::open(&found)?, out).map(drop))?;
        }
    }
    Ok(())
}
