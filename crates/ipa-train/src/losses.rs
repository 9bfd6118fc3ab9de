//! The loss of every step beside the checkpoints: `losses.jsonl`, one line a step.

use std::path::Path;

use ipa_formats::FormatError;
use serde::{Deserialize, Serialize};

use crate::json_lines;
use crate::watch::{NUM_RANGES, Progress, Ranges};

const FILE: &str = "losses.jsonl";

/// One line: what the curves of a run are drawn from.
///
/// The loss is kept exactly; all else in single precision and in as many numbers as there are ranges of timesteps,
/// however many rows a step has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct StepLoss {
    /// Counted from 1.
    pub step: u64,
    /// What the step minimised.
    pub loss: f64,
    /// Mean squared error of the rows of each range of timesteps, without weights; none where there was no row.
    #[serde(default, skip_serializing_if = "is_empty")]
    pub ranges: [Option<f32>; NUM_RANGES],
    /// The optimizer's step size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f32>,
    /// Length of the gradient before it was shortened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grad_norm: Option<f32>,
}

impl StepLoss {
    /// The line of a step.
    pub fn new(progress: &Progress, ranges: &Ranges) -> Self {
        let single = |value: f64| value as f32;
        Self {
            step: progress.step,
            loss: progress.loss,
            ranges: ranges.means(&progress.rows).map(|loss| loss.map(single)),
            learning_rate: Some(single(progress.learning_rate)),
            grad_norm: progress.grad_norm.map(single),
        }
    }
}

fn is_empty(ranges: &[Option<f32>; NUM_RANGES]) -> bool {
    ranges.iter().all(Option::is_none)
}

/// Writes all lines anew: at any moment the file is that of a checkpoint.
pub(crate) fn write(folder: &Path, losses: &[StepLoss]) -> Result<(), FormatError> {
    json_lines::write(&folder.join(FILE), losses)
}

/// The lines up to `last_step`; none if there is no file.
pub(crate) fn read(folder: &Path, last_step: u64) -> Result<Vec<StepLoss>, FormatError> {
    let losses: Vec<StepLoss> = json_lines::read(&folder.join(FILE))?;
    Ok(losses.into_iter().filter(|line| line.step <= last_step).collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

    use super::*;
    use crate::watch::RowLoss;

    #[test]
    fn lines_after_the_checkpoint_are_left_out_and_the_others_kept_exactly() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read(folder.path(), 9).unwrap(), []);
        let losses =
            [(1, 0.1), (2, 1.0 / 3.0), (3, 0.5)].map(|(step, loss)| StepLoss { step, loss, ..StepLoss::default() });
        write(folder.path(), &losses).unwrap();
        let text = fs::read_to_string(folder.path().join(FILE)).unwrap();
        assert!(text.starts_with("{\"step\":1,\"loss\":0.1}\n"), "{text}");
        assert_eq!(read(folder.path(), 2).unwrap(), losses[..2]);
    }

    #[test]
    fn a_step_of_many_rows_takes_one_short_line() {
        let rows = (0..1000).map(|timestep| RowLoss { timestep, loss: 1.0 / 3.0 }).collect();
        let (learning_rate, grad_norm) = (1e-4 / 3.0, Some(0.7));
        let progress = Progress { step: 7, steps: 9, loss: 0.25, rows, learning_rate, grad_norm, loss_scale: None };
        let line = StepLoss::new(&progress, &Ranges::new(0..=999));
        let text = serde_json::to_string(&line).unwrap();
        assert!(text.len() < 150, "{text}");
        assert_eq!(serde_json::from_str::<StepLoss>(&text).unwrap(), line);
    }

    #[test]
    fn a_line_that_is_none_is_named() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(FILE), "{\"step\":1,\"loss\":0.1}\n{\"step\":2,\n").unwrap();
        assert!(read(folder.path(), 2).unwrap_err().to_string().contains("line 2"));
    }
}
