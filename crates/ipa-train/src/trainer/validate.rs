//! Validations within a run.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use ipa_adapter::IpAdapter;
use ipa_formats::FormatError;
use ipa_unet::Unet;

use super::batches::Batches;
use super::finish::ADAPTER_FILE;
use super::{Event, TrainError, Trainer};
use crate::FrozenModels;
use crate::config::TrainConfig;
use crate::validation::{Best, Validation, ValidationError, ValidationResult, ValidationSettings, write_results};

/// Folder of the adapter that did best on held-out rows.
pub const BEST: &str = "best";

/// How a run does on held-out rows.
#[derive(Debug)]
pub(super) struct Judge<'a> {
    validation: Validation<'a>,
    pub(super) results: Vec<ValidationResult>,
    pub(super) best: Best,
}

impl<'a> Judge<'a> {
    /// Of a sample of the held-out rows; none if nothing is held out.
    pub(super) fn new(
        models: &'a FrozenModels,
        batches: &mut Batches,
        held_out: &[u32],
        config: &TrainConfig,
    ) -> Result<Option<Self>, TrainError> {
        let settings = &config.validation;
        if held_out.is_empty() {
            return Ok(None);
        }
        let held_out = batches.sampled(held_out);
        let looked_at = held_out.iter().take(settings.num_rows());
        let rows = looked_at.map(|row| batches.held_out(*row)).collect::<Result<Vec<_>, _>>()?;
        let validation = Validation::new(models, rows, settings.clone(), config.seed)?;
        Ok(Some(Self { validation, results: Vec::new(), best: Best::new(settings.metric) }))
    }

    /// What was found before a run was resumed.
    pub(super) fn restore(&mut self, results: Vec<ValidationResult>, settings: &ValidationSettings) {
        self.best = Best::of(settings.metric, &results);
        self.results = results;
    }
}

impl Trainer<'_> {
    /// Whether there is a validation after the step that was done last, and there was none yet.
    pub(super) fn is_to_be_validated(&self) -> bool {
        let every = self.config.validation.every;
        let is_due = every.is_some_and(|every| self.done.is_multiple_of(every)) || self.done == self.num_steps();
        let judged = self.judge.as_ref().map(|judge| judge.results.last().map(|result| result.step));
        is_due && self.done > 0 && judged.is_some_and(|last| last != Some(self.done))
    }

    /// What held-out rows say of the adapter as it stands, the average of its steps if there is one.
    ///
    /// # Errors
    /// [`TrainError::Validation`] if nothing is held out, or it cannot be judged.
    pub(crate) fn judged(
        &mut self,
        folder: &Path,
        heard: &mut impl FnMut(Event) -> ControlFlow<()>,
    ) -> Result<ValidationResult, TrainError> {
        let step = self.done;
        self.judge(folder, heard).map_err(|error| match error {
            ValidationError::NotANumber { what } => TrainError::NotANumber { step, tensor: what.to_owned() },
            ValidationError::Interrupted => TrainError::Interrupted { step },
            error => error.into(),
        })
    }

    /// As [`Trainer::judged`], the loss alone: nothing is drawn.
    ///
    /// # Errors
    /// As [`Trainer::judged`].
    pub(crate) fn judged_by_loss(&mut self) -> Result<f64, TrainError> {
        Ok(self.with_judge(|judge, unet, adapter| judge.validation.loss(unet, adapter))?)
    }

    fn judge(
        &mut self,
        folder: &Path,
        heard: &mut impl FnMut(Event) -> ControlFlow<()>,
    ) -> Result<ValidationResult, ValidationError> {
        let step = self.done;
        self.with_judge(|judge, unet, adapter| {
            judge.validation.run(unet, adapter, step, folder, |progress| heard(Event::Validating(progress)))
        })
    }

    /// The adapter to be judged, the average of its steps if there is one, in the UNet with its changes.
    fn with_judge<T>(
        &mut self,
        work: impl FnOnce(&Judge, &Unet, &IpAdapter) -> Result<T, ValidationError>,
    ) -> Result<T, ValidationError> {
        self.with_average(|this| {
            if let Some(low_rank) = &mut this.low_rank {
                low_rank.refresh();
            }
            work(this.judge.as_ref().ok_or(ValidationError::NoRows)?, this.learning_unet(), &this.adapter)
        })
    }

    /// Looks at the adapter, the average of its steps if there is one; writes down what it found, and the adapter if it is
    /// the best so far.
    ///
    /// # Errors
    /// [`TrainError`]; a request to stop leaves a checkpoint.
    pub(super) fn validate(
        &mut self,
        folder: &Path,
        heard: &mut impl FnMut(Event) -> ControlFlow<()>,
    ) -> Result<ValidationResult, TrainError> {
        let result = match self.judge(folder, heard) {
            Err(ValidationError::Interrupted) => {
                self.save(folder)?;
                return Err(TrainError::Interrupted { step: self.done });
            }
            judged => judged?,
        };
        let judge = self.judge.as_mut().expect("it has just judged");
        judge.results.push(result.clone());
        let is_best = judge.best.add(&result);
        if is_best {
            let best = folder.join(BEST);
            fs::create_dir_all(&best).map_err(|source| FormatError::Write { path: best.clone(), source })?;
            self.write_adapter(&best.join(ADAPTER_FILE))?;
        }
        // After the adapter: a result that stands there is not found again after a kill.
        if let Some(judge) = &self.judge {
            write_results(folder, &judge.results)?;
        }
        let _ = heard(Event::Validated(&result)); // whoever wants to stop is asked at the next step
        Ok(result)
    }
}
