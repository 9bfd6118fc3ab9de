//! Why a run stops.

use std::path::PathBuf;

use ipa_adapter::AdapterError;
use ipa_core::WeightsError;
use ipa_formats::FormatError;

use crate::models::EncodeError;
use crate::validation::ValidationError;

/// Why a run stopped.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// A setting is out of its range.
    #[error("`{field}` is {value}; {allowed}")]
    Field {
        /// Its name.
        field: &'static str,
        /// As given.
        value: String,
        /// What would be right.
        allowed: &'static str,
    },
    /// The file with settings is none.
    #[error("{path} is not a training configuration: {reason}")]
    Config {
        /// The file.
        path: PathBuf,
        /// Field, line, and what may stand there.
        reason: String,
    },
    /// The adapter does not fit or cannot be written.
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    /// A row cannot be encoded.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// A checkpoint cannot be read or written.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] FormatError),
    /// The adapter to begin with is of another kind than was asked for.
    #[error("the adapter to begin with has another `{field}`: leave that out, or begin with another adapter")]
    OtherKind {
        /// What differs.
        field: &'static str,
    },
    /// A validation failed.
    #[error(transparent)]
    Validation(#[from] ValidationError),
    /// Every row is held out.
    #[error("{path}: all {num} rows are held out, which leaves none to learn from: lower `held_out`")]
    NoRows {
        /// The dataset.
        path: PathBuf,
        /// Its rows.
        num: usize,
    },
    /// A run was to begin where another one left checkpoints.
    #[error("{checkpoint} is of an earlier run: go on with `--resume`, or start in another folder")]
    UsedFolder {
        /// Its latest checkpoint.
        checkpoint: PathBuf,
    },
    /// There is nothing to go on from.
    #[error("{folder} has no checkpoint to resume from: start without `--resume`")]
    NoCheckpoint {
        /// The output folder.
        folder: PathBuf,
    },
    /// The run to be resumed had other settings, data or models.
    #[error(
        "{path} is of another run, `{field}` differs: give its settings, data and models, or start in another folder"
    )]
    OtherRun {
        /// What the checkpoint notes of its run.
        path: PathBuf,
        /// The first field that differs.
        field: String,
    },
    /// The loss or its gradient is not a number.
    #[error(
        "step {step}: {tensor} is not a number: lower the learning rate, set `max_grad_norm`, or use `--dtype f32`; the last \
         checkpoint is kept"
    )]
    NotANumber {
        /// Counted from 1.
        step: u64,
        /// Where it begins.
        tensor: String,
    },
    /// Less room on the disk than the next checkpoints take.
    #[error(
        "{folder} has {free_mib} MiB free, and checkpoints of this run take {needed_mib} MiB: make room, or keep fewer"
    )]
    DiskFull {
        /// The output folder.
        folder: PathBuf,
        /// What is free.
        free_mib: u64,
        /// What is needed.
        needed_mib: u64,
    },
    /// Somebody asked to stop.
    #[error("interrupted at step {step}: go on with `--resume`")]
    Interrupted {
        /// Steps done.
        step: u64,
    },
}
