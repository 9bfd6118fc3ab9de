//! The loss of every step beside the checkpoints: `losses.jsonl`, one line a step.

use std::fs;
use std::io;
use std::path::Path;

use ipa_formats::{FormatError, write_atomically};
use serde::{Deserialize, Serialize};

const FILE: &str = "losses.jsonl";

/// One line.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct StepLoss {
    pub(crate) step: u64,
    pub(crate) loss: f64,
}

/// Writes all lines anew: at any moment the file is that of a checkpoint.
pub(crate) fn write(folder: &Path, losses: &[StepLoss]) -> Result<(), FormatError> {
    write_atomically(&folder.join(FILE), |file| {
        losses.iter().try_for_each(|line| {
            serde_json::to_writer(&mut *file, line)?;
            file.write_all(b"\n")
        })
    })
}

/// The lines up to `last_step`; none if there is no file.
pub(crate) fn read(folder: &Path, last_step: u64) -> Result<Vec<StepLoss>, FormatError> {
    let path = folder.join(FILE);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(FormatError::Read { path, source }),
    };
    let line = |(index, line): (usize, &str)| {
        let failed = |source| FormatError::Json { path: path.clone(), field: format!("line {}", index + 1), source };
        serde_json::from_str::<StepLoss>(line).map_err(failed)
    };
    let losses = text.lines().enumerate().map(line).collect::<Result<Vec<_>, _>>()?;
    Ok(losses.into_iter().filter(|line| line.step <= last_step).collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn lines_after_the_checkpoint_are_left_out_and_the_others_kept_exactly() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read(folder.path(), 9).unwrap(), []);
        let losses = [(1, 0.1), (2, 1.0 / 3.0), (3, 0.5)].map(|(step, loss)| StepLoss { step, loss });
        write(folder.path(), &losses).unwrap();
        let text = fs::read_to_string(folder.path().join(FILE)).unwrap();
        assert!(text.starts_with("{\"step\":1,\"loss\":0.1}\n"), "{text}");
        assert_eq!(read(folder.path(), 2).unwrap(), losses[..2]);
    }

    #[test]
    fn a_line_that_is_none_is_named() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(FILE), "{\"step\":1,\"loss\":0.1}\n{\"step\":2,\n").unwrap();
        assert!(read(folder.path(), 2).unwrap_err().to_string().contains("line 2"));
    }
}
