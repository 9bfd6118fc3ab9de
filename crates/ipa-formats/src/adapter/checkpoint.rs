//! Where an adapter lies in what a trainer leaves behind.

use std::fs;
use std::path::{Path, PathBuf};

use crate::{FormatError, read_text, weights_file};

/// Files of a checkpoint that hold the adapter, in the order in which they are looked for before the usual ones of a
/// component: this project's own, DeepSpeed's, and where accelerate keeps that.
const NAMES: [&str; 3] =
    ["ip_adapter.safetensors", "mp_rank_00_model_states.pt", "pytorch_model/mp_rank_00_model_states.pt"];
/// File in which DeepSpeed says which of the folders beside it is the last.
const LATEST: &str = "latest";
/// Start of a checkpoint's name; the step follows.
const CHECKPOINT: &str = "checkpoint-";

/// Finds the file that holds the adapter: `path` itself, or in the folder of a checkpoint, or in the last checkpoint of
/// a trainer's output folder.
///
/// # Errors
/// [`FormatError::Read`], [`FormatError::NoWeights`].
pub fn adapter_file(path: &Path) -> Result<PathBuf, FormatError> {
    if !path.is_dir() {
        return Ok(path.to_owned());
    }
    if let Some(own) = NAMES.iter().map(|name| path.join(name)).find(|file| file.is_file()) {
        return Ok(own);
    }
    let latest = read_text(&path.join(LATEST)).ok().map(|name| path.join(name.trim()));
    if let Some(folder) = latest.filter(|folder| folder.parent() == Some(path) && folder.is_dir()) {
        return adapter_file(&folder);
    }
    match (weights_file(path), last_checkpoint(path)?) {
        (Err(FormatError::NoWeights { .. }), Some(checkpoint)) => adapter_file(&checkpoint),
        (found, _) => found,
    }
}

fn last_checkpoint(folder: &Path) -> Result<Option<PathBuf>, FormatError> {
    let read = |source| FormatError::Read { path: folder.to_owned(), source };
    let mut last = None;
    for entry in fs::read_dir(folder).map_err(read)? {
        let entry = entry.map_err(read)?;
        let name = entry.file_name();
        let step = name.to_str().and_then(|name| name.strip_prefix(CHECKPOINT)?.parse::<u64>().ok());
        if let Some(step) = step.filter(|_| entry.path().is_dir()) {
            last = last.max(Some((step, entry.path())));
        }
    }
    Ok(last.map(|(_, path)| path))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn made(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        folder
    }

    #[test]
    fn the_adapter_is_found_where_trainers_leave_it() {
        for (files, expected) in [
            (&["model.safetensors", "optimizer.bin", "random_states_0.pkl"][..], "model.safetensors"),
            (&["pytorch_model.bin", "optimizer.bin", "scaler.pt"], "pytorch_model.bin"),
            (&["ip_adapter.safetensors", "optimizer.safetensors"], "ip_adapter.safetensors"),
            (
                &["pytorch_model/mp_rank_00_model_states.pt", "latest", "zero_to_fp32.py"],
                "pytorch_model/mp_rank_00_model_states.pt",
            ),
            (
                &["checkpoint-900/model.safetensors", "checkpoint-10000/model.safetensors", "logs/a"],
                "checkpoint-10000/model.safetensors",
            ),
            (&["checkpoint-5/ip_adapter.safetensors", "ip_adapter.safetensors"], "ip_adapter.safetensors"),
        ] {
            let folder = made(files);
            assert_eq!(adapter_file(folder.path()).unwrap(), folder.path().join(expected));
        }
        let file = made(&["some.bin"]).path().join("some.bin");
        assert_eq!(adapter_file(&file).unwrap(), file);
    }

    #[test]
    fn a_folder_of_something_else_says_what_was_looked_for() {
        let folder = made(&["checkpoint-x/model.safetensors", "checkpoint-7"]);
        assert!(matches!(adapter_file(folder.path()), Err(FormatError::NoWeights { .. })));
        let folder = made(&["checkpoint-7/optimizer.bin"]);
        let error = adapter_file(folder.path()).unwrap_err().to_string();
        assert!(error.contains("checkpoint-7"), "{error}");
    }
}
