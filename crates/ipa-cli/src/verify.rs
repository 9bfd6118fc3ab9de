//! `ipa verify`

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::{Args, ValueHint};
use ipa_formats::{Manifest, Verdict, Verified};

use crate::{output, progress};

/// Compare files with digests that were recorded
///
/// The list is what `ipa inspect --digest` or sha256sum printed: a SHA-256 and a path a line. Exit status 1 if any file is
/// missing or has changed.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  ipa verify stable-diffusion-v1-5.sha256 stable-diffusion-v1-5")]
pub(crate) struct VerifyArgs {
    /// List of digests
    #[arg(value_name = "LIST", value_hint = ValueHint::FilePath)]
    list: PathBuf,
    /// Folder that the paths in it are relative to; without it, that of the list
    #[arg(value_name = "FOLDER", value_hint = ValueHint::DirPath)]
    folder: Option<PathBuf>,
    /// Print one JSON object a file
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &VerifyArgs) -> Result<()> {
    let manifest = Manifest::read(&args.list)?;
    if manifest.is_empty() {
        bail!("{} lists no files; make one with `ipa inspect FOLDER --digest`", args.list.display());
    }
    let folder = args.folder.as_deref().or(args.list.parent()).unwrap_or(Path::new(""));
    let bar = progress::bar(manifest.len() as u64, "verifying", args.json);
    let files = manifest.verify(folder, |_| bar.inc(1));
    drop(bar);
    tell(&files, folder, args.json)
}

/// Says what changed, and fails if anything did.
fn tell(files: &[Verified], folder: &Path, json: bool) -> Result<()> {
    let wrong: Vec<&Verified> = files.iter().filter(|file| file.verdict != Verdict::Same).collect();
    if json {
        files.iter().try_for_each(output::json_line)?;
    } else {
        wrong.iter().try_for_each(|file| output::line(described(file)))?;
    }
    match (wrong.len(), files.len()) {
        (0, _) if json => Ok(()),
        (0, count) => Ok(output::line(format_args!("{count} files are what they were"))?),
        (wrong, count) => {
            let folder = if folder == Path::new("") { Path::new(".") } else { folder };
            bail!("{wrong} of {count} files in {} are not what they were; fetch or copy them again", folder.display())
        }
    }
}

fn described(Verified { file, verdict }: &Verified) -> String {
    let verdict = match verdict {
        Verdict::Same => "the same".to_owned(),
        Verdict::Differs { recorded, found } => format!("has the digest {found}, recorded was {recorded}"),
        Verdict::Missing => "is missing".to_owned(),
        Verdict::Unreadable { reason } => format!("cannot be read: {reason}"),
    };
    format!("{} {verdict}", file.display())
}
