//! What was evaluated, and how: the same in every shard of a run.

use serde::{Deserialize, Serialize};

use super::{EvaluationError, Row};
use crate::Calibration;

/// What one evaluation measures. Shards and resumed runs must agree on it to the last field.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Heads the report.
    pub title: String,
    /// Base model that drew.
    pub model: String,
    /// CLIP model that scored; numbers of different ones are not comparable.
    pub metric_model: String,
    /// What drew the pictures, adapters and baselines, in the order of the report; names are unique.
    pub methods: Vec<Method>,
    /// λ at which adapters are scored.
    pub scale: f64,
    /// The λ of the sweep, in rising order; may be empty.
    pub scales: Vec<f64>,
    /// Sampler by its name.
    pub sampler: String,
    /// Denoising steps.
    pub num_steps: usize,
    /// 1 + w of arXiv:2207.12598; 1 is off.
    pub guidance_scale: f64,
    /// Width and height of the pictures in pixels.
    pub size: [u32; 2],
    /// How much a protocol run is to draw, all its parts together.
    #[serde(default)]
    pub protocol: Option<ProtocolSize>,
    /// Where the metric model's image cosines lie; without it there are no calibrated scores.
    pub calibration: Option<Calibration>,
    /// Everything else that was decided, such as what a published protocol leaves open.
    pub choices: Vec<Choice>,
}

/// How much a protocol run is to draw.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProtocolSize {
    /// Images, with those that have to be skipped.
    pub num_images: usize,
    /// Pictures that every adapter draws after each.
    pub num_samples: u32,
}

/// The λ that a sweep visits unless told otherwise.
pub const DEFAULT_SCALES: [f64; 4] = [0.5, 1.0, 1.5, 2.0];

/// Something that draws pictures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Method {
    /// What the report calls it.
    pub name: String,
    /// Whether it is judged or judged by.
    pub kind: MethodKind,
    /// Number of trained parameters, if known.
    pub num_parameters: Option<u64>,
    /// SHA-256 of its file, if it has one.
    pub sha256: Option<String>,
}

/// What a method is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MethodKind {
    /// An adapter under evaluation.
    Adapter,
    /// The base model with the prompt and without a reference: what an adapter must beat in likeness.
    TextOnly,
    /// The reference handed back as the result: perfect likeness, and as much of the prompt as the reference shows.
    ReferenceItself,
}

/// A decision, and what was decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Choice {
    /// What was open.
    pub question: String,
    /// What was chosen, and why if that helps.
    pub answer: String,
}

impl Settings {
    /// The method of that name, and its place in the report.
    pub fn method(&self, name: &str) -> Option<(usize, &Method)> {
        self.methods.iter().enumerate().find(|(_, method)| method.name == name)
    }

    /// Whether a picture counts where no strength is named; baselines have none.
    pub(super) fn counts(&self, row: &Row) -> bool {
        let is_adapter = self.method(&row.method).is_some_and(|(_, method)| method.kind == MethodKind::Adapter);
        !is_adapter || row.scale == self.scale
    }

    /// Checks what no type can.
    ///
    /// # Errors
    /// [`EvaluationError::Setting`] naming the field: no methods, a name twice, λ that is negative or no number, λ of the
    /// sweep that do not rise.
    pub fn check(&self) -> Result<(), EvaluationError> {
        let wrong = |field: &str, problem| Err(EvaluationError::Setting { field: field.to_owned(), problem });
        if self.methods.is_empty() {
            return wrong("methods", "is empty: name at least one adapter or baseline".to_owned());
        }
        for (index, Method { name, .. }) in self.methods.iter().enumerate() {
            if name.is_empty() {
                return wrong("methods", format!("has no name in entry {index}: give each method one"));
            }
            if self.method(name).is_some_and(|(first, _)| first != index) {
                return wrong("methods", format!("names `{name}` twice: give each method a name of its own"));
            }
        }
        let is_scale = |scale: f64| scale.is_finite() && scale >= 0.0;
        if !is_scale(self.scale) {
            return wrong("scale", format!("is {}: give a number from 0 up", self.scale));
        }
        if let Some(scale) = self.scales.iter().find(|scale| !is_scale(**scale)) {
            return wrong("scales", format!("holds {scale}: give numbers from 0 up"));
        }
        if !self.scales.is_sorted_by(|a, b| a < b) {
            return wrong("scales", "does not rise: sort it and name every strength once".to_owned());
        }
        if !self.guidance_scale.is_finite() {
            return wrong("guidance_scale", format!("is {}: give a number", self.guidance_scale));
        }
        match self.calibration {
            Some(Calibration { shuffled, real }) if !(shuffled.is_finite() && real.is_finite() && real > shuffled) => {
                wrong(
                    "calibration",
                    format!("has {real} for real pairs and {shuffled} for shuffled ones: measure it again"),
                )
            }
            _ => Ok(()),
        }
    }
}
