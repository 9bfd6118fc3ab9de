//! A search over settings by successive halving (arXiv:1502.07943): many short runs, of which the best third goes on three
//! times as long, until one is left.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ipa_core::noise::Draws;
use ipa_formats::{FormatError, write_atomically};
use ipa_sample::AdapterSource;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::validation::{Metric, ValidationSettings};
use crate::{Dataset, FrozenModels, TrainConfig, TrainError, Trainer, identity, json_lines, latest_checkpoint};

/// Every round keeps one in so many, and gives it so many times the steps.
const ETA: u64 = 3;
/// Learning rates lie within this factor of the given one, either way.
const RATE_RANGE: f64 = 10.0;
/// Shares of captions and of pictures that are dropped.
const TEXT_DROPS: [f64; 4] = [0.05, 0.15, 0.3, 0.5];
const IMAGE_DROPS: [f64; 3] = [0.02, 0.05, 0.1];
/// Fewest steps of the first round.
const FEWEST_STEPS: u64 = 5;
/// Share of the rows that are held out if the settings hold nothing out.
const HELD_OUT: f64 = 0.2;
const RESULTS: &str = "tune.jsonl";
/// What a search is made from: nothing but the same goes on.
const IDENTITY: &str = "tune.json";
/// The settings that did best.
pub const BEST_CONFIG: &str = "best.toml";

/// How long to look.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TuneSettings {
    /// Time for the search. The first trial has all it takes; later ones are broken off and gone on with by the next search.
    pub time: Duration,
    /// Settings to begin with: 3, 9 or 27.
    pub candidates: u64,
    /// Decides which settings are tried.
    pub seed: u64,
}

/// What one candidate was worth after so many steps; a line of `tune.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// Counted from 0, which is the settings as given.
    pub candidate: u64,
    /// Steps.
    pub steps: u64,
    /// Its learning rate.
    pub learning_rate: f64,
    /// Share of captions dropped.
    pub text_drop: f64,
    /// Share of pictures dropped.
    pub image_drop: f64,
    /// The metric on held-out rows; none if the run ended in no numbers.
    pub value: Option<f64>,
}

/// What a search found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Tuned {
    /// The metric.
    pub metric: Metric,
    /// All trials, in the order in which they were made.
    pub trials: Vec<Trial>,
    /// The best after most steps.
    pub best: Trial,
    /// Likeness to reference and caption at several strengths of the best, where pictures are drawn.
    pub strengths: Vec<Strength>,
    /// Whether time ran out before one was left.
    pub is_cut_short: bool,
    /// The settings that did best.
    pub config: PathBuf,
}

/// What a strength λ is worth.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Strength {
    /// λ
    pub scale: f64,
    /// CLIP-I and CLIP-T, by name.
    pub scores: std::collections::BTreeMap<String, f64>,
}

/// What a search runs on.
#[derive(Debug)]
pub struct Search<'a> {
    /// Frozen models.
    pub models: &'a FrozenModels,
    /// Data.
    pub dataset: &'a Dataset,
    /// The settings around which to look; their steps are those of the last round.
    pub base: TrainConfig,
    /// The adapter to begin with.
    pub init: Option<&'a AdapterSource>,
    /// Where the runs go.
    pub folder: &'a Path,
}

impl Search<'_> {
    /// The settings with rows held out, as a search needs them: a fifth unless they say how many.
    pub fn holding_out(mut base: TrainConfig) -> TrainConfig {
        if base.validation.held_out == 0.0 {
            base.validation.held_out = HELD_OUT;
        }
        base
    }

    /// Looks for better settings; goes on where an earlier search in the folder was ended.
    ///
    /// `heard` hears of every trial and may stop.
    ///
    /// # Errors
    /// [`TrainError`]; what was tried before remains.
    pub fn run(
        &self,
        settings: TuneSettings,
        mut heard: impl FnMut(TuneEvent) -> ControlFlow<()>,
    ) -> Result<Tuned, TrainError> {
        let path = self.folder.join(RESULTS);
        let last = self.prepare(settings)?;
        let mut trials: Vec<Trial> = json_lines::read(&path)?;
        let deadline = Instant::now() + settings.time;
        let mut alive: Vec<u64> = (0..settings.candidates).collect();
        let mut steps = (last / settings.candidates).max(FEWEST_STEPS.min(last));
        let mut is_cut_short = false;
        while !is_cut_short {
            for &candidate in &alive {
                if trials.iter().any(|trial| (trial.candidate, trial.steps) == (candidate, steps)) {
                    continue;
                }
                // The first trial has all the time it takes: without one there is nothing to tell.
                let deadline = Some(deadline).filter(|_| !trials.is_empty());
                let Some(trial) = self.trial((candidate, steps), settings.seed, deadline, &mut heard)? else {
                    is_cut_short = true;
                    break;
                };
                trials.push(trial);
                json_lines::write(&path, &trials)?;
                if let Some(trial) = trials.last().filter(|trial| heard(TuneEvent::Trial(trial)).is_break()) {
                    return Err(TrainError::Interrupted { step: trial.steps });
                }
            }
            if steps >= last {
                break;
            }
            if !is_cut_short {
                alive = self.best_of(&trials, &alive, steps);
                steps = (steps * ETA).min(last);
            }
        }
        let best = self.best(&trials).clone();
        let config = self.write_best(&best)?;
        let strengths = if is_cut_short { Vec::new() } else { self.strengths(&best, settings.seed, &mut heard)? };
        Ok(Tuned { metric: self.base.validation.metric, trials, best, strengths, is_cut_short, config })
    }

    /// Makes the folder, or checks that it is of the same search; steps of a whole run.
    fn prepare(&self, settings: TuneSettings) -> Result<u64, TrainError> {
        fs::create_dir_all(self.folder).map_err(|source| FormatError::Write { path: self.folder.into(), source })?;
        let trainer = self.trainer(&self.base)?;
        let own = json!({
            "candidates": settings.candidates,
            "seed": settings.seed,
            "run": trainer.identity(),
        });
        let path = self.folder.join(IDENTITY);
        if path.exists() {
            let found = ipa_formats::read_json(&path)?;
            if let Some(field) = identity::difference(&found, &own) {
                return Err(TrainError::OtherRun { path, field });
            }
        }
        let text = format!("{own:#}\n");
        write_atomically(&path, |file| file.write_all(text.as_bytes()))?;
        Ok(trainer.num_steps())
    }

    /// The best third of those that were tried with so many steps, at least one.
    fn best_of(&self, trials: &[Trial], alive: &[u64], steps: u64) -> Vec<u64> {
        let mut ranked: Vec<&Trial> =
            trials.iter().filter(|trial| trial.steps == steps && alive.contains(&trial.candidate)).collect();
        ranked.sort_by(|a, b| self.worth(b).total_cmp(&self.worth(a)).then(a.candidate.cmp(&b.candidate)));
        ranked.iter().take((alive.len() / ETA as usize).max(1)).map(|trial| trial.candidate).collect()
    }

    /// The best of those with most steps.
    fn best<'t>(&self, trials: &'t [Trial]) -> &'t Trial {
        let most = trials.iter().map(|trial| trial.steps).max().unwrap_or_default();
        let longest = trials.iter().filter(|trial| trial.steps == most);
        longest.max_by(|a, b| self.worth(a).total_cmp(&self.worth(b))).expect("one at least was tried")
    }

    /// Higher is better.
    fn worth(&self, trial: &Trial) -> f64 {
        let value = trial.value.filter(|value| value.is_finite());
        match self.base.validation.metric {
            Metric::Loss => value.map_or(f64::NEG_INFINITY, |loss| -loss),
            Metric::ClipI | Metric::ClipT => value.unwrap_or(f64::NEG_INFINITY),
        }
    }

    /// The settings of a candidate: drawn around the given ones, the first being those themselves.
    fn config(&self, candidate: u64, seed: u64) -> TrainConfig {
        let mut config = self.base.clone();
        config.validation = ValidationSettings { every: None, patience: None, ..config.validation };
        config.output.save_steps = i64::MAX as u64; // a trial is saved where it ends
        config.output.report = false;
        config.output.keep_checkpoints = 1;
        if candidate > 0 {
            let drawn = Draws::counted(seed, "tune", candidate).uniform(&[3]);
            let drawn = |index: i64| drawn.double_value(&[index]);
            let rate = self.base.optimizer.learning_rate * RATE_RANGE.powf(2.0 * drawn(0) - 1.0);
            config.optimizer.learning_rate = rounded(rate).min(1.0);
            let rest = 1.0 - config.data.both_drop;
            config.data.text_drop = TEXT_DROPS[(drawn(1) * TEXT_DROPS.len() as f64) as usize].min(rest);
            let rest = rest - config.data.text_drop;
            config.data.image_drop = IMAGE_DROPS[(drawn(2) * IMAGE_DROPS.len() as f64) as usize].min(rest);
        }
        config
    }

    fn trainer(&self, config: &TrainConfig) -> Result<Trainer<'_>, TrainError> {
        Trainer::new(self.models, self.dataset, config.clone(), self.init)
    }

    fn folder_of(&self, candidate: u64) -> PathBuf {
        self.folder.join(format!("candidate-{candidate:02}"))
    }

    /// Trains a candidate up to so many steps, going on where it was, and judges it; nothing if time is over.
    fn trial(
        &self,
        (candidate, steps): (u64, u64),
        seed: u64,
        deadline: Option<Instant>,
        heard: &mut impl FnMut(TuneEvent) -> ControlFlow<()>,
    ) -> Result<Option<Trial>, TrainError> {
        let (config, folder) = (self.config(candidate, seed), self.folder_of(candidate));
        let mut trainer = self.trainer(&config)?;
        match trainer.resume(&folder) {
            Ok(()) | Err(TrainError::NoCheckpoint { .. }) => {}
            Err(error) => return Err(error),
        }
        let is_over = || deadline.is_some_and(|deadline| Instant::now() > deadline);
        let mut asked = false;
        let mut going_on = |event: TuneEvent| {
            asked = heard(event).is_break();
            if asked || is_over() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let trained = trainer.run_until(steps, &folder, |step| going_on(TuneEvent::Step { candidate, step, steps }));
        let value = trained.and_then(|()| match config.validation.metric {
            Metric::Loss => Ok(Some(trainer.judged_by_loss()?).filter(|loss| loss.is_finite())),
            metric => Ok(trainer.judged(&folder, &mut |_| going_on(TuneEvent::Judging { candidate }))?.value(metric)),
        });
        let value = match value {
            Err(TrainError::Interrupted { .. }) if !asked => return Ok(None),
            Err(TrainError::NotANumber { .. }) => None,
            value => value?,
        };
        let learning_rate = config.optimizer.learning_rate;
        let (text_drop, image_drop) = (config.data.text_drop, config.data.image_drop);
        Ok(Some(Trial { candidate, steps, learning_rate, text_drop, image_drop, value }))
    }

    fn write_best(&self, best: &Trial) -> Result<PathBuf, TrainError> {
        let mut config = self.base.clone();
        config.optimizer.learning_rate = best.learning_rate;
        (config.data.text_drop, config.data.image_drop) = (best.text_drop, best.image_drop);
        config.output.folder = None;
        let path = self.folder.join(BEST_CONFIG);
        write_atomically(&path, |file| file.write_all(config.to_toml().as_bytes()))?;
        Ok(path)
    }

    /// Scores of the best at several strengths, one validation each.
    fn strengths(
        &self,
        best: &Trial,
        seed: u64,
        heard: &mut impl FnMut(TuneEvent) -> ControlFlow<()>,
    ) -> Result<Vec<Strength>, TrainError> {
        const SCALES: [f64; 5] = [0.25, 0.5, 0.75, 1.0, 1.25];
        if self.base.validation.num_references == 0 || best.value.is_none() {
            return Ok(Vec::new());
        }
        let folder = self.folder_of(best.candidate);
        let candidate = best.candidate;
        let strength = |scale: f64| {
            let mut config = self.config(candidate, seed);
            config.validation.scales = vec![scale];
            let mut trainer = self.trainer(&config)?;
            trainer.load(&folder, &latest_checkpoint(&folder)?)?; // judged by other strengths, and else the same run
            let scores = trainer.judged(&folder, &mut |_| heard(TuneEvent::Judging { candidate }))?.scores;
            Ok(Strength { scale, scores })
        };
        SCALES.into_iter().map(strength).collect()
    }
}

/// What a search tells while it goes on.
#[derive(Debug)]
pub enum TuneEvent<'a> {
    /// A candidate has done a step.
    Step {
        /// Its number.
        candidate: u64,
        /// Steps done.
        step: u64,
        /// Steps of this round.
        steps: u64,
    },
    /// A candidate is being judged.
    Judging {
        /// Its number.
        candidate: u64,
    },
    /// A candidate was judged.
    Trial(&'a Trial),
}

/// To two digits: settings are to be written down.
fn rounded(value: f64) -> f64 {
    format!("{value:.1e}").parse().expect("a number as it was printed")
}
