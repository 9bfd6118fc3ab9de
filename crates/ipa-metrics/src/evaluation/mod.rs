//! An evaluation: measurements of pictures, and the report that is computed from them alone.
//!
//! Whoever draws puts a [`Row`] for each picture into a [`MeasurementLog`], a file that can be gone on with after an
//! interruption. [`read_measurements`] merges those of several shards; [`Measurements::report`] is a pure function of the
//! rows, so any split and order of them gives the same bytes.
//!
//! ```
//! use std::collections::BTreeMap;
//! use ipa_metrics::evaluation::{Measurements, Method, MethodKind, Row, Set, Settings};
//!
//! let settings = Settings {
//!     title: "Mascot".into(), model: "pocket".into(), metric_model: "pocket/clip".into(),
//!     methods: vec![Method { name: "mascot".into(), kind: MethodKind::Adapter, num_parameters: None, sha256: None }],
//!     scale: 0.6, scales: vec![], sampler: "ddim".into(), num_steps: 50, guidance_scale: 7.5, size: [64, 64], protocol: None,
//!     calibration: None, choices: vec![],
//! };
//! let mut measurements = Measurements::new(settings)?;
//! measurements.add(Row {
//!     set: Set::Tests, case: "test 1".into(), method: "mascot".into(), prompt_index: 0, prompt: "a hat".into(),
//!     reference: "references/1.png".into(), seed: 0, scale: 0.6, file: "pictures/1.png".into(),
//!     image_cosine: 0.9, text_cosine: Some(0.3), caption_cosines: vec![], captions: vec![], nearest_training: None,
//!     judged: BTreeMap::new(), embedding: None,
//! })?;
//! let report = measurements.report()?;
//! assert_eq!(report.adapters[0].test_cases[0].score.unwrap().grade.to_string(), "A");
//! # Ok::<(), ipa_metrics::evaluation::EvaluationError>(())
//! ```

mod compute;
mod embedding;
mod error;
mod log;
mod measurements;
mod page;
mod published;
mod report;
mod row;
#[cfg(test)]
mod sample;
mod settings;
mod table;
mod verdict;

pub use embedding::Embedding;
pub use error::EvaluationError;
pub use log::{MeasurementLog, read_measurements};
pub use measurements::Measurements;
pub use page::ReportPictures;
pub use published::{PublishedRow, PublishedScores};
pub use report::{
    AtScale, BestScale, CaptionScores, Comparison, Copying, EvaluationReport, MethodReport, MissingPart, Remark,
    SCHEMA_VERSION, ScaleSensitivity, SeedsByPrompts, Summary, TestCase, Tone,
};
pub use row::{NearestTraining, PictureId, Row, Set, Skipped};
pub use settings::{Choice, DEFAULT_SCALES, Method, MethodKind, ProtocolSize, Settings};
