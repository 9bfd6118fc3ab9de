//! Checkpoints of a run: whole or not there.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use ipa_adapter::IpAdapter;
use ipa_core::tch::{self, Kind, Tensor};
use ipa_core::{Checkpoint, save_tensors};
use ipa_formats::{FormatError, write_atomically};
use serde_json::Value;

use crate::whole_unet::WholeUnet;
use crate::{AdamW, Ema, TrainError};

const ADAPTER: &str = "ip_adapter.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const UNET: &str = "unet.safetensors";
/// Before the names of averaged parameters, beside the optimizer's own.
const EMA: &str = "ema.";
/// Steps of the run: more than the optimizer's where some moved nothing.
const STEPS: &str = "run.steps";
/// The run's identity, for the check on resuming.
pub(crate) const CONFIG: &str = "training.json";

/// What a checkpoint is made of.
pub(crate) struct Parts<'a> {
    pub(crate) adapter: &'a IpAdapter,
    /// If it learns too.
    pub(crate) unet: Option<&'a WholeUnet>,
    pub(crate) optimizer: &'a AdamW,
    pub(crate) ema: Option<&'a Ema>,
    /// Where the factor on losses stands, by name.
    pub(crate) scale: Option<(String, Tensor)>,
    /// Steps done, those that moved nothing included.
    pub(crate) steps: u64,
    pub(crate) identity: &'a Value,
    /// What the adapter says of itself.
    pub(crate) metadata: Value,
}

/// Writes `folder/checkpoint-<step>`: first under another name, renamed when all of it is on the disk. One that is
/// there already is not replaced.
pub(crate) fn save(folder: &Path, parts: &Parts) -> Result<(), TrainError> {
    let name = format!("checkpoint-{}", parts.steps);
    if folder.join(&name).is_dir() {
        return Ok(()); // of this run, as all in the folder are, and so the same
    }
    let partial = folder.join(format!("{name}.tmp"));
    let saved = write(&partial, &folder.join(&name), parts);
    if saved.is_err() {
        // What remains of it is of no use; that it could not be written is what matters.
        let _ = fs::remove_dir_all(&partial);
    }
    saved?;
    // The rename is on the disk once the folder is.
    #[cfg(unix)]
    fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(|source| failed(folder, source))?;
    Ok(())
}

fn failed(path: &Path, source: std::io::Error) -> FormatError {
    FormatError::Write { path: path.into(), source }
}

fn write(partial: &Path, whole: &Path, parts: &Parts) -> Result<(), TrainError> {
    let Parts { adapter, unet, optimizer, ema, scale, steps, identity, metadata } = parts;
    let average = ema.map(|ema| ema.tensors(optimizer)).unwrap_or_default();
    let average = average.into_iter().map(|(name, tensor)| (format!("{EMA}{name}"), tensor));
    if partial.exists() {
        fs::remove_dir_all(partial).map_err(|source| failed(partial, source))?;
    }
    fs::create_dir_all(partial).map_err(|source| failed(partial, source))?;
    adapter.save(&partial.join(ADAPTER), Kind::Float, Some(metadata))?;
    if let Some(unet) = unet {
        unet.save(&partial.join(UNET))?;
    }
    let scale = scale.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone()));
    let steps = (STEPS.to_owned(), Tensor::from_slice(&[*steps as i64]));
    let state = optimizer.state().into_iter().chain(average).chain(scale).chain([steps]);
    save_tensors(&partial.join(OPTIMIZER), state, None)?;
    let text = format!("{identity:#}\n");
    write_atomically(&partial.join(CONFIG), |file: &mut dyn Write| file.write_all(text.as_bytes()))?;
    Ok(fs::rename(partial, whole).map_err(|source| failed(whole, source))?)
}

/// The checkpoint that a resumed run goes on from: that of most steps in `folder`.
///
/// # Errors
/// [`TrainError::NoCheckpoint`] if there is none, [`TrainError::File`] if the folder cannot be read.
pub fn latest_checkpoint(folder: &Path) -> Result<PathBuf, TrainError> {
    latest(folder)?.ok_or_else(|| TrainError::NoCheckpoint { folder: folder.into() })
}

/// Checks that a run can begin in `folder`: the checkpoints of another would be mistaken for its own.
///
/// # Errors
/// [`TrainError::UsedFolder`] if there are any, or a finished adapter; [`TrainError::File`] if the folder cannot be read.
pub fn check_unused(folder: &Path) -> Result<(), TrainError> {
    let finished = Some(folder.join(ADAPTER)).filter(|file| file.exists());
    match latest(folder)?.or(finished) {
        Some(checkpoint) => Err(TrainError::UsedFolder { checkpoint }),
        None => Ok(()),
    }
}

/// Removes what saves and removals that were cut off have left.
pub(crate) fn remove_partial(folder: &Path) -> Result<(), TrainError> {
    let failed = |source| FormatError::Write { path: folder.into(), source };
    for entry in fs::read_dir(folder).map_err(failed)?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("checkpoint-") && name.ends_with(".tmp") {
            fs::remove_dir_all(entry.path()).map_err(|source| self::failed(&entry.path(), source))?;
        }
    }
    Ok(())
}

/// Removes all checkpoints in `folder` but the latest `num`.
pub(crate) fn keep_latest(folder: &Path, num: usize) -> Result<(), TrainError> {
    let mut checkpoints = all(folder)?;
    checkpoints.truncate(checkpoints.len().saturating_sub(num));
    for (_, path) in checkpoints {
        // Renamed first: a checkpoint is whole or not there.
        let leaving = path.with_extension("tmp");
        fs::rename(&path, &leaving)
            .and_then(|()| fs::remove_dir_all(&leaving))
            .map_err(|source| failed(&path, source))?;
    }
    Ok(())
}

fn latest(folder: &Path) -> Result<Option<PathBuf>, TrainError> {
    Ok(all(folder)?.pop().map(|(_, path)| path))
}

/// The checkpoints in a folder by their steps, which need not be there.
fn all(folder: &Path) -> Result<Vec<(u64, PathBuf)>, TrainError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(FormatError::Read { path: folder.into(), source }.into()),
    };
    let step = |path: &PathBuf| path.file_name()?.to_str()?.strip_prefix("checkpoint-")?.parse::<u64>().ok();
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut found: Vec<(u64, PathBuf)> = paths.filter_map(|path| Some((step(&path)?, path))).collect();
    found.sort();
    Ok(found)
}

/// The run that a checkpoint belongs to.
pub(crate) fn identity(checkpoint: &Path) -> Result<Value, TrainError> {
    Ok(ipa_formats::read_json(&checkpoint.join(CONFIG))?)
}

/// Restores adapter, UNet and optimizer; the rest of the state is for the caller.
pub(crate) fn load(
    checkpoint: &Path,
    (adapter, unet): (&IpAdapter, Option<&WholeUnet>),
    optimizer: &mut AdamW,
    ema: Option<&mut Ema>,
) -> Result<Checkpoint, TrainError> {
    let weights = Checkpoint::open(&checkpoint.join(ADAPTER))?;
    let _no_grad = tch::no_grad_guard();
    for (name, mut variable) in adapter.variables() {
        let found = weights.tensor(&name)?;
        if found.size() != variable.size() {
            let (path, expected) = (weights.path().to_path_buf(), variable.size());
            return Err(ipa_core::WeightsError::Shape { path, name, found: found.size(), expected }.into());
        }
        variable.copy_(&found); // in place: the optimizer's buffer is behind it
    }
    if let Some(unet) = unet {
        unet.load(&checkpoint.join(UNET))?;
    }
    let state = Checkpoint::open(&checkpoint.join(OPTIMIZER))?;
    optimizer.load_state(&state)?;
    if let Some(ema) = ema {
        ema.load(optimizer, &state, EMA)?;
    }
    Ok(state)
}

/// Steps done when a state was saved.
pub(crate) fn steps(state: &Checkpoint) -> Result<u64, TrainError> {
    Ok(state.tensor(STEPS)?.int64_value(&[0]) as u64)
}
