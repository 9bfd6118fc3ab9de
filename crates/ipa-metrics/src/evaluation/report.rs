//! The numbers of an evaluation, as they stand in `evaluation_report.json`.
//!
//! `docs/evaluation_report.schema.json` is the same in the language of JSON Schema, `docs/accuracy.md` in plain words.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{MethodKind, NearestTraining, PublishedScores, Row, Set, Settings, Skipped};
use crate::{CaseScore, Interval};

/// Changes whenever a key changes its meaning or disappears.
pub const SCHEMA_VERSION: u32 = 3;

/// All that an evaluation found. Equal measurements give equal bytes: it holds no clock and no random order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EvaluationReport {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The findings in words, most important first.
    pub verdict: Vec<Remark>,
    /// What was evaluated, and how.
    pub settings: Settings,
    /// How cosines become percentages and grades: [`crate::MAPPING`].
    pub mapping: String,
    /// The adapters, in the order of the settings.
    pub adapters: Vec<MethodReport>,
    /// What they are compared with.
    pub baselines: Vec<MethodReport>,
    /// Every adapter against every baseline and against the first adapter.
    pub comparisons: Vec<Comparison>,
    /// The paper's table, if there was a protocol run to set beside it.
    pub published: Option<PublishedScores>,
    /// How much there is of a protocol run of which parts are missing; nothing if it is whole.
    pub missing_part: Option<MissingPart>,
    /// What could not be evaluated, and why.
    pub skipped: Vec<Skipped>,
    /// Every picture with its raw cosines, from which all else can be computed again; without embeddings.
    pub pictures: Vec<Row>,
}

/// How much there is of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingPart {
    /// Images that were drawn after or skipped.
    pub num_images: usize,
    /// Images of the whole.
    pub of: usize,
}

/// A sentence of the verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remark {
    /// How to take it.
    pub tone: Tone,
    /// The sentence.
    pub text: String,
}

/// How to take a sentence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tone {
    /// Good news.
    Good,
    /// A finding.
    Plain,
    /// Something to look at, or to be careful with.
    Caution,
}

/// What was found of one method; a section that was not measured is missing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MethodReport {
    /// Its name in the settings.
    pub name: String,
    /// What it is.
    pub kind: MethodKind,
    /// Each test case; several pictures of one count as their mean.
    pub test_cases: Vec<TestCase>,
    /// Over the test cases.
    pub tests: Option<Summary>,
    /// Over the held-out references.
    pub held_out: Option<Summary>,
    /// Over the images of a protocol run.
    pub protocol: Option<Summary>,
    /// Over λ.
    pub scale_sensitivity: Option<ScaleSensitivity>,
    /// Mean `1 - cos` of the pictures of one case under several seeds, over cases.
    pub diversity: Option<Interval>,
    /// Mean `1 - cos` of pictures that differ in the prompt alone, over cases.
    pub prompt_sensitivity: Option<Interval>,
    /// How near its pictures come to those trained on.
    pub copying: Option<Copying>,
    /// The pictures of every case that was drawn with several seeds or prompts.
    pub seeds_by_prompts: Vec<SeedsByPrompts>,
}

/// A reference, a prompt, and how well both came through.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TestCase {
    /// Its name.
    pub case: String,
    /// The reference's file.
    pub reference: String,
    /// The prompt.
    pub prompt: String,
    /// The pictures drawn of it at the settings' strength.
    pub files: Vec<String>,
    /// Mean cosine of pictures and reference.
    pub clip_i: f64,
    /// Mean cosine of pictures and prompt; nothing without a prompt.
    pub clip_t: Option<f64>,
    /// Preservation, following, combined, grade, from the two; nothing without a prompt.
    pub score: Option<CaseScore>,
    /// `clip_i` on the metric model's own scale: 0 as alike as shuffled pictures, 100 as pictures of one thing.
    pub calibrated: Option<f64>,
}

/// Means over cases with 95 % intervals; several pictures of one case count as their mean.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Number of cases, over which the intervals are.
    pub num_cases: usize,
    /// Number of those that have a prompt, over which `clip_t` and `score` are.
    pub num_clip_t_cases: usize,
    /// Number of pictures.
    pub num_pictures: usize,
    /// Cosine of picture and reference.
    pub clip_i: Interval,
    /// Cosine of picture and prompt.
    pub clip_t: Option<Interval>,
    /// Cosine of picture and the reference's captions.
    pub captions: Option<CaptionScores>,
    /// Means over the cases' scores, graded by that of `combined`; nothing without prompts.
    pub score: Option<CaseScore>,
    /// `clip_i` on the metric model's own scale.
    pub calibrated: Option<Interval>,
    /// Share of pictures in which a judge of pixels found what it should, by what it judges.
    pub judged: BTreeMap<String, Interval>,
}

impl Summary {
    /// The tests that percentages and grade are over, in words.
    pub(super) fn graded_cases(&self) -> String {
        let tests = |num: usize| if num == 1 { "1 test".to_owned() } else { format!("{num} tests") };
        match self.num_clip_t_cases == self.num_cases {
            true => tests(self.num_cases),
            false => format!("{} of {} with a prompt", self.num_clip_t_cases, tests(self.num_cases)),
        }
    }
}

/// CLIP-T against captions, by the two choices that arXiv:2308.06721 leaves open; raw, and times 2.5 as in its table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CaptionScores {
    /// The first caption alone.
    pub first: Interval,
    /// Every caption, averaged.
    pub mean: Interval,
    /// `2.5 · max(cos, 0)` with the first caption.
    pub first_clip_score: Interval,
    /// `2.5 · max(cos, 0)` averaged over captions.
    pub mean_clip_score: Interval,
}

/// How likeness and prompt following change with the strength of the reference.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScaleSensitivity {
    /// By rising λ, over the cases that were drawn at every one.
    pub scales: Vec<AtScale>,
    /// Kendall's τ of CLIP-I against λ, from -1 (falls at every step) to 1 (rises at every step).
    pub clip_i_trend: f64,
    /// The same of CLIP-T.
    pub clip_t_trend: Option<f64>,
    /// Where the combined score is highest; nothing without prompts.
    pub best: Option<BestScale>,
}

/// The strength with the highest combined score.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BestScale {
    /// λ.
    pub scale: f64,
    /// The score there.
    pub combined: f64,
    /// The λ whose combined scores, case by case, are not lower beyond chance.
    pub as_good: Vec<f64>,
}

/// One strength.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AtScale {
    /// λ.
    pub scale: f64,
    /// Number of cases.
    pub num_cases: usize,
    /// Number of those that have a prompt, over which `clip_t` and `score` are.
    pub num_clip_t_cases: usize,
    /// Cosine of picture and reference.
    pub clip_i: Interval,
    /// Cosine of picture and prompt.
    pub clip_t: Option<Interval>,
    /// Means over the cases' scores, graded by that of `combined`.
    pub score: Option<CaseScore>,
}

/// How near pictures come to those trained on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Copying {
    /// Number of pictures compared, at every strength and each once.
    pub num_pictures: usize,
    /// Cosine with the nearest training picture, over cases.
    pub nearest: Interval,
    /// From this cosine on a picture is called a likely copy.
    pub threshold: f64,
    /// How many are.
    pub num_likely_copies: usize,
    /// The picture nearest to one trained on.
    pub closest_picture: String,
    /// That training picture.
    pub closest_training: NearestTraining,
}

/// The pictures of one case by prompt and seed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SeedsByPrompts {
    /// The case.
    pub case: String,
    /// The prompts, the case's own first.
    pub prompts: Vec<String>,
    /// The seeds.
    pub seeds: Vec<u64>,
    /// Files by prompt and seed; nothing where none was drawn.
    pub files: Vec<Vec<Option<String>>>,
}

/// What an adapter has over another method, case by case.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Over which cases.
    pub set: Set,
    /// The adapter.
    pub method: String,
    /// What it is compared with.
    pub against: String,
    /// Number of cases that both have.
    pub num_cases: usize,
    /// Number of those with a prompt or captions, over which `clip_t` is.
    pub num_clip_t_cases: usize,
    /// CLIP-I of the adapter minus that of the other, paired.
    pub clip_i: Interval,
    /// The same of CLIP-T, with the prompt, or with the first caption in a protocol run.
    pub clip_t: Option<Interval>,
}

/// Whether so many cases can tell a difference from chance: fewer than six all lie on one side by chance in more than
/// 5 of 100 (2 · 0.5⁵ is 0.06, 2 · 0.5⁶ is 0.03).
pub(super) fn is_enough(num_cases: usize) -> bool {
    num_cases >= 6
}

impl Comparison {
    /// Whether there are too few cases to tell any difference from chance, whatever the intervals.
    pub fn has_few_cases(&self) -> bool {
        !is_enough(self.num_cases)
    }

    /// Whether the difference in CLIP-I is more than chance.
    pub fn is_likeness_beyond_chance(&self) -> bool {
        is_enough(self.num_cases) && self.clip_i.excludes_zero()
    }

    /// Whether the difference in CLIP-T is more than chance; nothing without one.
    pub fn is_following_beyond_chance(&self) -> Option<bool> {
        self.clip_t.map(|clip_t| is_enough(self.num_clip_t_cases) && clip_t.excludes_zero())
    }
}

impl EvaluationReport {
    /// What an adapter has over the prompt alone, over the tests.
    pub(super) fn over_text_only(&self, adapter: &str) -> Option<&Comparison> {
        let is_text =
            |name: &str| self.settings.method(name).is_some_and(|(_, method)| method.kind == MethodKind::TextOnly);
        self.comparisons
            .iter()
            .find(|found| found.set == Set::Tests && found.method == adapter && is_text(&found.against))
    }

    /// All methods, adapters first.
    pub fn methods(&self) -> impl Iterator<Item = &MethodReport> {
        self.adapters.iter().chain(&self.baselines)
    }

    /// The bytes of `evaluation_report.json`.
    pub fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("numbers and names become JSON");
        text.push('\n');
        text
    }
}
