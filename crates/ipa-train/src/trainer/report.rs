//! The run as a page.

use std::path::Path;

use ipa_core::device::{device_name, kind_name};
use serde_json::json;

use super::validate::BEST;
use super::{ADAPTER_FILE, CONFIG_FILE, TrainError, Trainer};
use crate::validation::Metric;
use crate::variant::num_tokens;
use crate::watch::{BestStep, Fact, ReportInput, TrainedAdapter, write_report};

/// Its name in the output folder.
pub const REPORT_FILE: &str = "training_report.html";

impl Trainer<'_> {
    /// Writes the page of the run as it stands: without clocks and paths, so that equal runs write equal pages.
    ///
    /// # Errors
    /// [`TrainError::File`] if it cannot be written.
    pub(super) fn report(&self, folder: &Path) -> Result<(), TrainError> {
        let validations = self.judge.as_ref().map(|judge| judge.results.as_slice()).unwrap_or_default();
        let (settings, sizes) = (json!(self.config.recorded()), self.adapter.config());
        let model = &self.config.model;
        let adapter = TrainedAdapter {
            file: ADAPTER_FILE.to_owned(),
            variant: sizes.variant(),
            num_tokens: num_tokens(&sizes.projection),
            model: model.base.clone().unwrap_or_else(|| "MODEL".to_owned()),
            image_encoder: model.image_encoder.as_ref().map(|folder| folder.display().to_string()),
        };
        let input = ReportInput {
            title: "Training report",
            folder,
            steps: self.num_steps(),
            timesteps: self.objective.range(),
            losses: &self.losses,
            validations,
            best: self.best_step(),
            settings: &settings,
            data: &self.data_facts(),
            run: &self.run_facts(),
            files: &self.files(),
            adapter: Some(adapter),
        };
        Ok(write_report(&folder.join(REPORT_FILE), &input)?)
    }

    fn best_step(&self) -> Option<BestStep> {
        let judge = self.judge.as_ref()?;
        let (step, _) = judge.best.best()?;
        let has_own = judge.results.iter().any(|result| result.scores.contains_key("clip_i_own_encoder"));
        let metric = match self.config.validation.metric {
            Metric::Loss => "loss",
            Metric::ClipI if has_own => "clip_i_own_encoder",
            Metric::ClipI => "clip_i",
            Metric::ClipT => "clip_t",
        };
        Some(BestStep { step, metric: metric.to_owned() })
    }

    fn data_facts(&self) -> Vec<Fact> {
        let (learned, held_out) = (self.batches.num_rows(), self.num_held_out);
        [
            ("rows learned from", learned.to_string()),
            ("rows held out", held_out.to_string()),
            ("steps of an epoch", self.batches.steps_per_epoch().to_string()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }

    fn run_facts(&self) -> Vec<Fact> {
        let (device, kind) = self.models.options();
        let trained = self.optimizer.parameters().numel();
        [
            ("device", device_name(device)),
            ("precision of the frozen models", kind_name(kind).to_owned()),
            ("parameters learned", format!("{:.2} million", trained as f64 / 1e6)),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }

    fn files(&self) -> Vec<Fact> {
        let best = format!("{BEST}/{ADAPTER_FILE}");
        let all = [
            (ADAPTER_FILE, "the finished adapter", true),
            (&best, "the adapter that did best on held-out rows", self.best_step().is_some()),
            (CONFIG_FILE, "all settings, for `ipa train --config`", true),
            ("losses.jsonl", "the loss of every step", true),
            ("validation.jsonl", "what validations found", self.judge.is_some()),
            ("tensorboard/", "the same for TensorBoard", self.config.output.tensorboard),
        ];
        let there = all.into_iter().filter(|(_, _, is_there)| *is_there);
        there.map(|(path, what, _)| (path.to_owned(), what.to_owned())).collect()
    }
}
