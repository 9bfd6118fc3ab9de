//! One drawn picture and what was measured on it.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Embedding, EvaluationError};

/// What a case belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Set {
    /// The test cases, each a reference and a prompt.
    Tests,
    /// References that were not trained on.
    HeldOut,
    /// The pictures of a protocol run.
    Protocol,
    /// Pictures that were trained on, of which some may have been skipped; nothing is drawn after them.
    Training,
}

/// A picture and its raw measurements; everything in a report is computed from these.
///
/// Two rows are of the same picture if set, case, method, prompt number, seed and scale agree.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// What the case belongs to.
    pub set: Set,
    /// Name of the case; cases of a set are sorted by it, numbers in it by their value.
    pub case: String,
    /// What drew the picture, one of [`super::Settings::methods`].
    pub method: String,
    /// 0 for the case's own prompt, from 1 up for others tried with the same reference.
    #[serde(default)]
    pub prompt_index: usize,
    /// The prompt; empty if it was drawn from the reference alone.
    pub prompt: String,
    /// The reference's file, relative to the report; empty for none.
    pub reference: String,
    /// Seed of the noise.
    pub seed: u64,
    /// λ: strength of the reference, 0 for baselines.
    pub scale: f64,
    /// The picture's file, relative to the report.
    pub file: String,
    /// Cosine of the image embeddings of picture and reference, -1 to 1.
    pub image_cosine: f64,
    /// Cosine of the picture's image embedding and the prompt's text embedding; nothing for an empty prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text_cosine: Option<f64>,
    /// The same with every caption of the reference, in the captions' order; empty if it has none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub caption_cosines: Vec<f64>,
    /// The captions that `caption_cosines` are with, on one row of the case alone: they are the same for all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub captions: Vec<String>,
    /// The training picture that it is most like, where the training pictures are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nearest_training: Option<NearestTraining>,
    /// What judges of pixels found right, by what they judge, such as `color`; empty without judges.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub judged: BTreeMap<String, bool>,
    /// The picture's image embedding, needed for diversity and prompt sensitivity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embedding: Option<Embedding>,
}

/// A training picture and how like it a drawn one is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NearestTraining {
    /// The training picture's file, relative to the report.
    pub file: String,
    /// Cosine of the two image embeddings, -1 to 1.
    pub cosine: f64,
}

/// A case that could not be evaluated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Skipped {
    /// What the case belongs to.
    pub set: Set,
    /// Name of the case.
    pub case: String,
    /// The file at fault.
    pub file: String,
    /// Why, in one sentence.
    pub reason: String,
}

/// What tells a picture from all others, known before it is drawn. Its fields are those of [`Row`].
#[derive(Debug, Clone, Copy, PartialEq)]
#[allow(missing_docs)] // see `Row`
pub struct PictureId<'a> {
    pub set: Set,
    pub case: &'a str,
    pub method: &'a str,
    pub prompt_index: usize,
    pub scale: f64,
    pub seed: u64,
}

/// The same to sort by: pictures are in the order of their keys.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct RowKey {
    pub(super) set: Set,
    pub(super) case: String,
    /// Place of the method among [`super::Settings::methods`].
    pub(super) method: usize,
    pub(super) prompt_index: usize,
    pub(super) scale: f64,
    pub(super) seed: u64,
}

impl Ord for RowKey {
    fn cmp(&self, other: &Self) -> Ordering {
        let rest = |key: &Self| (key.method, key.prompt_index);
        self.set
            .cmp(&other.set)
            .then_with(|| by_number(&self.case, &other.case))
            .then_with(|| rest(self).cmp(&rest(other)))
            .then_with(|| self.scale.total_cmp(&other.scale))
            .then_with(|| self.seed.cmp(&other.seed))
    }
}

impl PartialOrd for RowKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Eq for RowKey {}

impl Row {
    /// What tells its picture from all others.
    pub fn id(&self) -> PictureId<'_> {
        let Self { set, case, method, prompt_index, scale, seed, .. } = self;
        PictureId { set: *set, case, method, prompt_index: *prompt_index, scale: *scale, seed: *seed }
    }

    /// Checks every number.
    ///
    /// # Errors
    /// [`EvaluationError::Value`] naming picture and field.
    pub fn check(&self) -> Result<(), EvaluationError> {
        let wrong = |field, problem: String| Err(EvaluationError::Value { file: self.file.clone(), field, problem });
        let cosines = [("image_cosine", Some(self.image_cosine)), ("text_cosine", self.text_cosine)];
        let nearest = self.nearest_training.as_ref().map(|nearest| ("nearest_training", Some(nearest.cosine)));
        let captions = self.caption_cosines.iter().map(|cosine| ("caption_cosines", Some(*cosine)));
        for (field, cosine) in cosines.into_iter().chain(nearest).chain(captions) {
            if cosine.is_some_and(|cosine| !(-1.0..=1.0).contains(&cosine)) {
                let found = cosine.unwrap_or_default();
                return wrong(field, format!("is {found}, and a cosine lies between -1 and 1: measure it again"));
            }
        }
        if self.set == Set::Training {
            return wrong("set", "is `training`, and nothing is drawn after those: name another".to_owned());
        }
        if !(self.scale.is_finite() && self.scale >= 0.0) {
            return wrong("scale", format!("is {}: a strength is a number from 0 up", self.scale));
        }
        if self.embedding.as_ref().is_some_and(|embedding| !embedding.has_direction()) {
            return wrong("embedding", "has no direction: the model that scored is broken".to_owned());
        }
        if !self.captions.is_empty() && self.captions.len() != self.caption_cosines.len() {
            let (captions, cosines) = (self.captions.len(), self.caption_cosines.len());
            return wrong("captions", format!("are {captions} with {cosines} cosines: give one for each"));
        }
        if self.case.is_empty() || self.file.is_empty() {
            return wrong(if self.case.is_empty() { "case" } else { "file" }, "is empty: give it a name".to_owned());
        }
        Ok(())
    }

    /// -0 becomes 0: the two are equal, but would not be written alike.
    pub(super) fn without_negative_zeros(mut self) -> Self {
        let nearest = self.nearest_training.iter_mut().map(|nearest| &mut nearest.cosine);
        let cosines = self.caption_cosines.iter_mut().chain(self.text_cosine.iter_mut()).chain(nearest);
        for number in cosines.chain([&mut self.image_cosine, &mut self.scale]) {
            *number += 0.0;
        }
        self
    }
}

/// Texts in order, with the numbers in them compared by value: `test 2` before `test 10`. Equal only if identical.
pub(super) fn by_number(a: &str, b: &str) -> Ordering {
    let (mut left, mut right) = (a, b);
    loop {
        let ((first, left_rest), (second, right_rest)) = match (next_part(left), next_part(right)) {
            (Some(first), Some(second)) => (first, second),
            (first, second) => return first.is_some().cmp(&second.is_some()).then_with(|| a.cmp(b)),
        };
        let number = |part: &str| {
            part.bytes().all(|byte| byte.is_ascii_digit()).then(|| part.trim_start_matches('0').to_owned())
        };
        let order = match (number(first), number(second)) {
            (Some(first), Some(second)) => first.len().cmp(&second.len()).then_with(|| first.cmp(&second)),
            _ => first.cmp(second),
        };
        if order.is_ne() {
            return order;
        }
        (left, right) = (left_rest, right_rest);
    }
}

/// The digits or other characters that a text begins with, and what follows them.
fn next_part(text: &str) -> Option<(&str, &str)> {
    let is_digit = text.as_bytes().first()?.is_ascii_digit();
    let end = text.bytes().position(|byte| byte.is_ascii_digit() != is_digit).unwrap_or(text.len());
    Some(text.split_at(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_names_count_by_value() {
        let mut names = ["test 10", "test 2", "test 1", "b", "a9z", "a10", "a", "test 02", ""];
        names.sort_by(|a, b| by_number(a, b));
        assert_eq!(names, ["", "a", "a9z", "a10", "b", "test 1", "test 02", "test 2", "test 10"]);
    }

    #[test]
    fn long_numbers_are_compared_too() {
        assert_eq!(by_number("000000397133", "397133"), Ordering::Less, "equal by value, so by their characters");
        assert_eq!(by_number(&"9".repeat(50), &format!("1{}", "0".repeat(50))), Ordering::Less);
    }
}
