//! The training of an adapter.

mod batches;
mod error;
mod fault;
mod finish;
mod forecast;
mod report;
mod scale;
mod start;
mod step;
mod validate;

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use ipa_adapter::IpAdapter;
use ipa_formats::FormatError;
use ipa_sample::AdapterSource;
use serde_json::Value;

pub use error::TrainError;
pub use finish::{ADAPTER_FILE, CONFIG_FILE};
pub use forecast::Forecast;
pub use report::REPORT_FILE;
pub use validate::BEST;

use crate::checkpoint::{self, check_unused, latest_checkpoint};
use crate::config::TrainConfig;
use crate::dataset::Dataset;
use crate::encode::Reads;
use crate::losses::{self, StepLoss};
use crate::low_rank::LowRankUnet;
use crate::models::FrozenModels;
use crate::objective::Objective;
use crate::validation::{ValidationProgress, ValidationResult, read_results};
use crate::watch::{Events, Monitor, Progress};
use crate::whole_unet::WholeUnet;
use crate::{AdamW, AdamWConfig, Ema, identity, metadata};
use batches::Batches;
use scale::LossScale;
use validate::Judge;

/// A run: frozen models, data, the adapter and its optimizer.
#[derive(Debug)]
pub struct Trainer<'a> {
    models: &'a FrozenModels,
    batches: Batches<'a>,
    config: TrainConfig,
    identity: Value,
    adapter: IpAdapter,
    low_rank: Option<LowRankUnet>,
    whole_unet: Option<WholeUnet>,
    optimizer: AdamW,
    ema: Option<Ema>,
    objective: Objective,
    scale: Option<LossScale>,
    done: u64,
    losses: Vec<StepLoss>,
    num_held_out: usize,
    judge: Option<Judge<'a>>,
}

impl<'a> Trainer<'a> {
    /// Starts from `init_adapter`, or from the UNet's own K and V.
    ///
    /// # Errors
    /// [`TrainError`] if a setting, the data or the adapter is at fault.
    pub fn new(
        models: &'a FrozenModels,
        dataset: &'a Dataset,
        config: TrainConfig,
        init_adapter: Option<&AdapterSource>,
    ) -> Result<Self, TrainError> {
        config.check()?;
        let adapter = start::adapter(models, &config, init_adapter)?;
        let whole_unet = start::whole_unet(models, &adapter, &config)?;
        let split = start::split(dataset, &config)?;
        let mut batches = Batches::new(models, dataset, split.train, &config, Reads::of(&adapter))?;
        let judge = Judge::new(models, &mut batches, &split.held_out, &config)?;
        let identity = identity::of_run(models, dataset, &config, init_adapter)?;
        let low_rank = LowRankUnet::new(&models.unet, &adapter);
        let decay = AdamWConfig { weight_decay: config.optimizer.weight_decay, ..AdamWConfig::default() };
        let of_unet = whole_unet.iter().flat_map(WholeUnet::variables);
        let optimizer = AdamW::new(adapter.variables().into_iter().chain(of_unet), decay);
        let ema = config.optimizer.ema_decay.map(|decay| Ema::new(&optimizer, decay));
        let objective = Objective::new(&config.objective, models)?;
        let scale = start::loss_scale(models);
        let (done, losses) = (0, Vec::new());
        Ok(Self {
            models,
            batches,
            config,
            identity,
            adapter,
            low_rank,
            whole_unet,
            optimizer,
            ema,
            objective,
            scale,
            done,
            losses,
            num_held_out: split.held_out.len(),
            judge,
        })
    }

    /// Goes on from the latest checkpoint in `folder`.
    ///
    /// # Errors
    /// [`TrainError`] if there is none, or it belongs to a run with other settings, data, pictures, models or kind.
    pub fn resume(&mut self, folder: &Path) -> Result<(), TrainError> {
        let latest = latest_checkpoint(folder)?;
        if let Some(field) = identity::difference(&checkpoint::identity(&latest)?, &self.identity) {
            return Err(TrainError::OtherRun { path: latest.join(checkpoint::CONFIG), field });
        }
        self.load(folder, &latest)
    }

    /// As [`Trainer::resume`], whatever run the checkpoint is of.
    pub(crate) fn load(&mut self, folder: &Path, latest: &Path) -> Result<(), TrainError> {
        let models = (&self.adapter, self.whole_unet.as_ref());
        let state = checkpoint::load(latest, models, &mut self.optimizer, self.ema.as_mut())?;
        self.done = checkpoint::steps(&state)?;
        self.scale = self.scale.map(|_| LossScale::load(&state)).transpose()?;
        self.losses = losses::read(folder, self.done)?;
        if let Some(judge) = &mut self.judge {
            judge.restore(read_results(folder, self.done)?, &self.config.validation);
        }
        Ok(())
    }

    /// The adapter as it stands.
    pub fn adapter(&self) -> &IpAdapter {
        &self.adapter
    }

    /// How many numbers are trained.
    pub fn num_parameters(&self) -> usize {
        self.optimizer.parameters().numel()
    }

    /// The settings of the run.
    pub fn config(&self) -> &TrainConfig {
        &self.config
    }

    /// What the adapter says of itself where it is saved now: variant, tokens, encoder, base model, training, licence.
    pub fn metadata(&self) -> Value {
        metadata::of_run(&self.adapter, &self.config, self.done)
    }

    /// Steps done, those before a resume included.
    pub fn steps_done(&self) -> u64 {
        self.done
    }

    /// Steps of the whole run.
    pub fn num_steps(&self) -> u64 {
        let steps = self.config.schedule.epochs * self.batches.steps_per_epoch();
        self.config.schedule.max_steps.map_or(steps, |most| steps.min(most))
    }

    /// Trains to the end, writing `checkpoint-<step>/` into `folder` and at the end `ip_adapter.safetensors`.
    ///
    /// Beside them: `config.toml`, `losses.jsonl` with every step up to the latest checkpoint whether the run was resumed or
    /// not, and as the settings have it `validation.jsonl`, `samples/`, `best/`, `tensorboard/` and `training_report.html`.
    /// `heard` hears of a step before it is saved; a request to stop is a checkpoint more.
    ///
    /// # Errors
    /// [`TrainError::UsedFolder`] if the run is a new one and `folder` has checkpoints; any other [`TrainError`], and
    /// what was saved before remains.
    pub fn run(&mut self, folder: &Path, mut heard: impl FnMut(Event) -> ControlFlow<()>) -> Result<(), TrainError> {
        let mut watch = self.begin(folder)?;
        loop {
            if self.is_to_be_validated() {
                let result = self.validate(folder, &mut heard)?;
                watch.validation(&result, folder)?;
            }
            if self.is_done() {
                break;
            }
            let progress = self.step()?;
            self.losses.push(watch.step(&progress)?);
            let stop = heard(Event::Step { progress: &progress, monitor: &watch.monitor }).is_break();
            if stop || self.done.is_multiple_of(self.config.output.save_steps) {
                self.save(folder)?;
            }
            if stop {
                return Err(TrainError::Interrupted { step: self.done });
            }
        }
        losses::write(folder, &self.losses)?;
        self.finish(folder)
    }

    /// What tells this run from others.
    pub(crate) fn identity(&self) -> &Value {
        &self.identity
    }

    /// Trains up to a step, to be gone on from, and saves.
    ///
    /// # Errors
    /// As [`Trainer::run`].
    pub(crate) fn run_until(
        &mut self,
        last: u64,
        folder: &Path,
        mut heard: impl FnMut(u64) -> ControlFlow<()>,
    ) -> Result<(), TrainError> {
        let mut watch = self.begin(folder)?;
        while self.done < last.min(self.num_steps()) {
            let progress = self.step()?;
            self.losses.push(watch.step(&progress)?);
            if heard(self.done).is_break() {
                self.save(folder)?;
                return Err(TrainError::Interrupted { step: self.done });
            }
        }
        self.save(folder)
    }

    /// Whether all steps are done, or no more are worth while.
    fn is_done(&self) -> bool {
        let patience = self.config.validation.patience;
        self.done == self.num_steps() || self.judge.as_ref().is_some_and(|judge| judge.best.should_stop(patience))
    }

    /// A folder that takes no files, or not enough, is found before the work.
    fn begin(&mut self, folder: &Path) -> Result<Watch, TrainError> {
        if self.done == 0 {
            check_unused(folder)?;
        }
        fs::create_dir_all(folder).map_err(|source| FormatError::Write { path: folder.into(), source })?;
        checkpoint::remove_partial(folder)?;
        self.check_room(folder)?;
        losses::write(folder, &self.losses)?;
        self.write_config(folder)?;
        let events = self.config.output.tensorboard.then(|| Events::open(folder, self.done + 1)).transpose()?;
        Ok(Watch { monitor: Monitor::new(self.objective.range(), &self.losses), events })
    }

    /// Losses first: after a crash in between, resuming leaves out those that are ahead of the checkpoint.
    pub(super) fn save(&self, folder: &Path) -> Result<(), TrainError> {
        losses::write(folder, &self.losses)?;
        let parts = checkpoint::Parts {
            adapter: &self.adapter,
            unet: self.whole_unet.as_ref(),
            optimizer: &self.optimizer,
            ema: self.ema.as_ref(),
            scale: self.scale.map(|scale| scale.state()),
            steps: self.done,
            identity: &self.identity,
            metadata: self.metadata(),
        };
        checkpoint::save(folder, &parts)?;
        checkpoint::keep_latest(folder, self.config.output.keep_checkpoints)
    }
}

/// What a run tells while it goes on.
#[derive(Debug)]
pub enum Event<'a> {
    /// A step is done.
    Step {
        /// What it found.
        progress: &'a Progress,
        /// How the run goes.
        monitor: &'a Monitor,
    },
    /// A validation goes on, in calls of the UNet.
    Validating(ValidationProgress),
    /// One is done.
    Validated(&'a ValidationResult),
}

/// What follows a run.
#[derive(Debug)]
struct Watch {
    monitor: Monitor,
    events: Option<Events>,
}

impl Watch {
    fn step(&mut self, progress: &Progress) -> Result<StepLoss, FormatError> {
        let line = self.monitor.add(progress);
        if let Some(events) = &mut self.events {
            events.step(&self.monitor.status())?;
        }
        Ok(line)
    }

    fn validation(&mut self, result: &ValidationResult, folder: &Path) -> Result<(), FormatError> {
        self.events.as_mut().map_or(Ok(()), |events| events.validation(result, folder))
    }
}
