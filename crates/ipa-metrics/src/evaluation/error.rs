//! What can be wrong with measurements.

use std::io;
use std::path::PathBuf;

use crate::MetricsError;

/// Why measurements cannot be taken in, kept or turned into a report.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages say what each field is
pub enum EvaluationError {
    /// Settings that describe no evaluation.
    #[error("the evaluation's setting `{field}` {problem}")]
    Setting { field: String, problem: String },
    /// A number outside its range, from a broken model or a broken file.
    #[error("picture `{file}`: `{field}` {problem}")]
    Value { file: String, field: &'static str, problem: String },
    /// Texts that no line of measurements holds.
    #[error("picture `{file}` has more than {max} bytes of prompt and captions: shorten them, CLIP reads 77 tokens")]
    LongText { file: String, max: usize },
    /// A method that the settings do not know.
    #[error("picture `{file}`: `method` is `{method}`, which the settings do not name; they name {known}")]
    UnknownMethod { file: String, method: String, known: String },
    /// The same picture measured with different results.
    #[error(
        "picture `{file}` was measured twice with different `{field}`: keep the measurements of one run and remove the other's"
    )]
    Conflict { file: String, field: String },
    /// Measurements of another evaluation.
    #[error(
        "{path} holds measurements of another evaluation: `{field}` is {there} there and {here} here; give this one a folder \
         of its own, or the same settings"
    )]
    OtherSettings { path: PathBuf, field: String, there: String, here: String },
    /// Parts of two evaluations.
    #[error(
        "{path} is no part of the same evaluation: `{field}` is {first} in the first part and {here} in this; name parts \
         of one run"
    )]
    OtherPart { path: PathBuf, field: String, first: String, here: String },
    /// A part that was named before, or is a copy of it.
    #[error("{path} has the same pictures as a part before it: name every part once")]
    SamePart { path: PathBuf },
    /// Nothing to read.
    #[error("{path} does not begin with the settings of an evaluation: evaluate into it first, or name another file")]
    NoSettings { path: PathBuf },
    /// A file of something else, or of a version that had other settings.
    #[error(
        "{path} does not begin with the settings of an evaluation, at field `{field}`: name another folder, or remove the \
         file to begin anew"
    )]
    FirstLine { path: PathBuf, field: String, source: serde_json::Error },
    /// A file that cannot be read.
    #[error("cannot read measurements from {path}; check that it exists and may be read")]
    Read { path: PathBuf, source: io::Error },
    /// A file that cannot be written.
    #[error("cannot write measurements to {path}; check that its folder exists, may be written to and has space left")]
    Write { path: PathBuf, source: io::Error },
    /// Someone else writes there.
    #[error("{path} is being written by another run: wait for it, or give this shard a file of its own")]
    InUse { path: PathBuf },
    /// A line that is none of ours.
    #[error("{path}, line {line}: field `{field}` is not as expected; remove the line to have its picture drawn again")]
    Line { path: PathBuf, line: usize, field: String, source: serde_json::Error },
    /// A line that is too long to be one.
    #[error("{path}, line {line} has more than {max} bytes: look whether the file is one of measurements")]
    LongLine { path: PathBuf, line: usize, max: u64 },
    /// A line whose values are refused.
    #[error("{path}, line {line}")]
    Refused { path: PathBuf, line: usize, source: Box<EvaluationError> },
    /// No shards to merge.
    #[error("there are no measurements to merge: name the file of every shard")]
    NothingToMerge,
    /// Numbers that cannot be summed up.
    #[error("the pictures of {what} cannot be summed up")]
    Metrics { what: String, source: MetricsError },
}
