//! What an evaluation states of itself; what differs here is another evaluation.

use std::path::Path;

use anyhow::Result;
use ipa_core::device::kind_name;
use ipa_core::read_config;
use ipa_core::tch::Kind;
use ipa_formats::{Component, sha256_text};
use ipa_metrics::evaluation::{Choice, Method, ProtocolSize, Settings};
use ipa_sample::{GenerateRequest, SchedulerFile, native_side};

use super::calibration::Calibrated;
use super::cases::Case;
use super::training::digest_of;
use crate::args::ModelArgs;
use crate::model::{ModelSource, POCKET};
use crate::scores;

/// What is evaluated, before it is said how.
#[derive(Debug)]
pub(crate) struct Stated<'a> {
    pub(crate) model: (&'a ModelArgs, &'a ModelSource),
    pub(crate) request: &'a GenerateRequest,
    /// As named by the user.
    pub(crate) metric_model: Option<&'a Path>,
    pub(crate) calibrated: Calibrated,
    pub(crate) methods: Vec<Method>,
    pub(crate) kind: Kind,
    /// How much a protocol run is to draw.
    pub(crate) protocol: Option<ProtocolSize>,
}

impl Stated<'_> {
    /// The settings, with choices after those that all evaluations have.
    ///
    /// # Errors
    /// If a file of the model cannot be read.
    pub(crate) fn settings(self, title: String, scales: Vec<f64>, choices: Vec<Choice>) -> Result<Settings> {
        let (args, source) = self.model;
        let model = short_name(args.name()?);
        let metric_model = match self.metric_model {
            Some(folder) => short_name(&folder.display().to_string()),
            None => format!("{model}/clip"),
        };
        let own = || Ok::<_, anyhow::Error>(SchedulerFile::of_model(&source.files)?.kind()?.name().to_owned());
        let side = native_side(
            &read_config(&source.files.component(Component::Unet)?)?,
            &read_config(&source.files.component(Component::Vae)?)?,
        );
        let clip = scores::clip_folder(self.metric_model, source)?;
        let common = [
            choice("Negative prompt", "empty"),
            choice("Calibration", self.calibrated.origin),
            choice("Drawn in", kind_name(self.kind)),
            choice("Scored in", "f32, from the pictures as saved"),
            choice("Files of the scoring model", shortened(&crate::provenance::folder_digest(&clip)?)),
        ];
        Ok(Settings {
            title,
            model,
            metric_model,
            methods: self.methods,
            scale: self.request.scale,
            scales,
            sampler: self.request.scheduler.clone().map_or_else(own, Ok)?,
            num_steps: self.request.num_steps,
            guidance_scale: self.request.guidance_scale,
            size: [side; 2],
            protocol: self.protocol,
            calibration: self.calibrated.calibration,
            choices: choices.into_iter().chain(common).collect(),
        })
    }
}

pub(crate) fn choice(question: &str, answer: impl Into<String>) -> Choice {
    Choice { question: question.to_owned(), answer: answer.into() }
}

/// How many cases of where, and a digest of their names, prompts and references.
pub(crate) fn described(cases: &[Case], origin: &str) -> String {
    let lines = cases.iter().map(|case| format!("{}\n{}\n{}\n", case.name, case.prompt, digest_of(&case.reference)));
    format!("{} {origin}, {}", cases.len(), shortened(&sha256_text(&lines.collect::<String>())))
}

/// The beginning of a digest.
pub(super) fn shortened(digest: &str) -> String {
    format!("SHA-256 {}…", &digest[..16])
}

/// The last part of a path: wherever files lie, an evaluation of them is the same.
pub(crate) fn short_name(path: &str) -> String {
    let last = Path::new(path).file_name().filter(|_| path != POCKET);
    last.map_or_else(|| path.to_owned(), |name| name.to_string_lossy().into_owned())
}
