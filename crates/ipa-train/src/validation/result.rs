//! What validations found, and the file they are noted in.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ipa_formats::FormatError;
use serde::{Deserialize, Serialize};

use super::Metric;
use crate::json_lines;

const FILE: &str = "validation.jsonl";

/// What one validation found; one line of `validation.jsonl`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ValidationResult {
    /// Steps done.
    pub step: u64,
    /// Held-out loss.
    pub loss: Option<f64>,
    /// Means over the drawn pictures, by name: `clip_i`, `clip_t`, `prompt_sensitivity`, `copy`; those of the adapter's
    /// own encoder end in `_own_encoder`.
    #[serde(default)]
    pub scores: BTreeMap<String, f64>,
    /// Their standard errors, where there are two pictures or more.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub errors: BTreeMap<String, f64>,
    /// References that the scores are over.
    #[serde(default)]
    pub num_references: usize,
    /// The sample grid, relative to the output folder.
    pub grid: Option<PathBuf>,
}

impl ValidationResult {
    /// The value that `metric` judges by, if it was found.
    pub fn value(&self, metric: Metric) -> Option<f64> {
        let score = |name: &str| self.scores.get(name).copied();
        match metric {
            Metric::Loss => self.loss,
            Metric::ClipI => score("clip_i").or_else(|| score("clip_i_own_encoder")),
            Metric::ClipT => score("clip_t"),
        }
    }
}

/// Writes `validation.jsonl` in an output folder anew.
///
/// # Errors
/// [`FormatError`] if it cannot be written.
pub fn write_results(folder: &Path, results: &[ValidationResult]) -> Result<(), FormatError> {
    json_lines::write(&folder.join(FILE), results)
}

/// The results in an output folder up to `last_step`: those after a checkpoint are found again. None if there is no file.
///
/// # Errors
/// [`FormatError`] naming the line at fault.
pub fn read_results(folder: &Path, last_step: u64) -> Result<Vec<ValidationResult>, FormatError> {
    let results: Vec<ValidationResult> = json_lines::read(&folder.join(FILE))?;
    Ok(results.into_iter().filter(|result| result.step <= last_step).collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn results_after_the_checkpoint_are_left_out_and_the_others_kept_exactly() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read_results(folder.path(), 9).unwrap(), []);
        let result = |step: u64| ValidationResult {
            step,
            loss: Some(1.0 / step as f64),
            scores: [("clip_i".to_owned(), 1.0 / 3.0)].into(),
            errors: [("clip_i".to_owned(), 0.1)].into(),
            num_references: 4,
            grid: Some(format!("samples/step-{step:06}.png").into()),
        };
        let results = [result(10), result(20), result(30)];
        write_results(folder.path(), &results).unwrap();
        assert_eq!(read_results(folder.path(), 25).unwrap(), results[..2]);
    }

    #[test]
    fn a_loss_that_is_no_number_is_read_as_none() {
        let folder = tempfile::tempdir().unwrap();
        let result = ValidationResult { step: 1, loss: Some(f64::NAN), ..Default::default() };
        write_results(folder.path(), &[result]).unwrap();
        assert_eq!(read_results(folder.path(), 1).unwrap()[0].loss, None);
    }
}
