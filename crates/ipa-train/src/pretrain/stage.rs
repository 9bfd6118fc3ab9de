//! What every stage of pretraining does between two losses.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use ipa_core::tch::{self, Tensor};
use ipa_core::{Checkpoint, WeightsError, save_tensors};

use ipa_adapter::AdapterError;
use ipa_formats::METADATA_KEY;
use serde::Serialize;
use serde_json::{Value, json};

use super::halves;
use crate::gradients::Gradients;
use crate::identity::difference;
use crate::{AdamW, AdamWConfig, Ema};

const MAX_GRADIENT_NORM: f64 = 1.0;
const SAVE_EVERY: Duration = Duration::from_secs(60);
const NUM_AHEAD: usize = 4;

/// Why a stage stops.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// A file cannot be read or written.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The adapter does not fit.
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    /// A state that was begun otherwise.
    #[error("{} is of another run: its `{field}` differs; move the folder away to begin anew", path.display())]
    OtherRun {
        /// The state.
        path: PathBuf,
        /// What differs.
        field: String,
    },
    /// The loss is no number any more.
    #[error("the loss of step {step} is not a number; {} is as it was before: begin again with a lower rate", path.display())]
    NotANumber {
        /// Counted from 1.
        step: u64,
        /// The state.
        path: PathBuf,
    },
}

/// Length and speed of a stage.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct StageConfig {
    /// Samples a step.
    pub batch: u64,
    /// Steps in all.
    pub steps: u64,
    /// Peak learning rate; reached after `warmup` steps, then falling to zero along half a cosine.
    pub learning_rate: f64,
    /// Steps of linear warm-up.
    pub warmup: u64,
    /// Decay of the parameters' moving average.
    pub ema: f64,
}

/// A stage in progress: optimizer, averaged weights and losses, kept in one file.
#[derive(Debug)]
pub struct Stage {
    path: PathBuf,
    origin: Value,
    config: StageConfig,
    variables: Vec<(String, Tensor)>,
    optimizer: AdamW,
    ema: Ema,
    losses: Vec<f32>,
    saved: Instant,
}

impl Stage {
    /// Begins, or goes on from `folder/state.safetensors` if that is there. `origin` is what the run learns from and
    /// with, beside `config`.
    ///
    /// # Errors
    /// [`StageError::OtherRun`] if the state was begun with another `origin`, `config` or model,
    /// [`StageError::Weights`] if it cannot be read.
    pub fn resume(
        folder: &Path,
        variables: HashMap<String, Tensor>,
        config: StageConfig,
        origin: Value,
    ) -> Result<Self, StageError> {
        let variables: Vec<(String, Tensor)> = variables.into_iter().collect();
        let shallow = variables.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone()));
        let optimizer = AdamW::new(shallow, AdamWConfig::default());
        let ema = Ema::new(&optimizer, config.ema);
        let path = folder.join("state.safetensors");
        let sizes: BTreeMap<&String, Vec<i64>> = variables.iter().map(|(name, tensor)| (name, tensor.size())).collect();
        let origin = json!({ "stage": config, "variables": sizes, "origin": origin });
        let mut stage =
            Self { path, origin, config, variables, optimizer, ema, losses: Vec::new(), saved: Instant::now() };
        if stage.path.exists() {
            stage.load()?;
        }
        Ok(stage)
    }

    fn load(&mut self) -> Result<(), StageError> {
        let checkpoint = Checkpoint::open(&self.path)?;
        let found = checkpoint.metadata().get(METADATA_KEY).and_then(|text| serde_json::from_str(text).ok());
        if let Some(field) = difference(&found.unwrap_or_default(), &self.origin) {
            return Err(StageError::OtherRun { path: self.path.clone(), field });
        }
        tch::no_grad(|| {
            for (name, variable) in &mut self.variables {
                variable.copy_(&checkpoint.tensor(&format!("model.{name}"))?);
            }
            Ok::<(), WeightsError>(())
        })?;
        self.ema.load(&self.optimizer, &checkpoint, "ema.")?;
        self.losses = Vec::try_from(checkpoint.tensor("losses")?).expect("losses are a vector of f32");
        Ok(self.optimizer.load_state(&checkpoint)?)
    }

    /// Takes the steps that remain, and ends with the averaged weights in place of the last ones.
    ///
    /// `make` draws the batch of a step, some steps ahead on a thread of its own, so that models do not wait for
    /// pictures and captions; `learn` learns from it; `progress` follows every step.
    ///
    /// # Errors
    /// [`StageError::NotANumber`], or [`StageError::Weights`] if the state cannot be written.
    pub fn run<B: Send>(
        &mut self,
        make: impl Fn(u64) -> B + Send,
        learn: impl FnMut(&mut Self, B),
        progress: impl FnMut(&Self),
    ) -> Result<(), StageError> {
        self.run_until(self.config.steps, make, learn, progress)?;
        self.use_average();
        Ok(())
    }

    fn run_until<B: Send>(
        &mut self,
        end: u64,
        make: impl Fn(u64) -> B + Send,
        mut learn: impl FnMut(&mut Self, B),
        mut progress: impl FnMut(&Self),
    ) -> Result<(), StageError> {
        let mut steps = self.optimizer.steps()..end;
        thread::scope(|scope| {
            let (sender, batches) = mpsc::sync_channel(NUM_AHEAD);
            // Nobody listens any more once a step has failed.
            scope.spawn(move || steps.try_for_each(|step| sender.send(make(step)).ok()));
            for batch in batches {
                learn(self, batch);
                if self.losses.last().is_some_and(|loss| !loss.is_finite()) {
                    return Err(StageError::NotANumber { step: self.losses.len() as u64, path: self.path.clone() });
                }
                self.save_if_due()?;
                progress(self);
            }
            Ok(())
        })
    }

    /// Saves at the stage's end, and a minute after the last time.
    fn save_if_due(&mut self) -> Result<(), WeightsError> {
        if self.optimizer.steps() == self.config.steps || self.saved.elapsed() >= SAVE_EVERY {
            self.save()?;
            self.saved = Instant::now();
        }
        Ok(())
    }

    /// Writes the state; a crash leaves the one before.
    ///
    /// # Errors
    /// [`WeightsError`] if it cannot be written.
    pub fn save(&self) -> Result<(), WeightsError> {
        let model = self.variables.iter().map(|(name, tensor)| (format!("model.{name}"), tensor.shallow_clone()));
        let ema = self.ema.tensors(&self.optimizer).into_iter().map(|(name, tensor)| (format!("ema.{name}"), tensor));
        let losses = [("losses".to_owned(), Tensor::from_slice(&self.losses))];
        save_tensors(&self.path, model.chain(ema).chain(self.optimizer.state()).chain(losses), Some(&self.origin))
    }

    /// Learns from the loss of one step.
    pub fn learn(&mut self, loss: &Tensor) {
        loss.backward();
        self.take_step(loss.double_value(&[]));
    }

    /// Learns from the losses of a batch's halves, `far` that of the twin whose variables share this model's memory.
    pub(super) fn learn_halves(
        &mut self,
        twin: &mut Gradients,
        near: impl FnOnce() -> Tensor,
        far: impl FnOnce() -> Tensor + Send,
    ) {
        let loss = halves::backward(near, far);
        let _ = tch::no_grad(|| self.optimizer.gradient().g_add_(twin.collect()));
        twin.clear();
        self.take_step(loss);
    }

    fn take_step(&mut self, loss: f64) {
        self.losses.push(loss as f32);
        if !loss.is_finite() {
            return; // where it ends
        }
        self.optimizer.step_clipped(self.learning_rate(), MAX_GRADIENT_NORM);
        self.ema.update(&self.optimizer);
    }

    fn learning_rate(&self) -> f64 {
        let StageConfig { learning_rate, warmup, steps, .. } = self.config;
        let step = self.optimizer.steps();
        if step < warmup {
            return learning_rate * (step + 1) as f64 / warmup as f64;
        }
        let progress = (step - warmup) as f64 / (steps.max(warmup + 1) - warmup) as f64;
        learning_rate * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos())
    }

    /// The losses so far, one a step.
    pub fn losses(&self) -> &[f32] {
        &self.losses
    }

    /// Mean loss of the last `num` steps.
    pub fn recent_loss(&self, num: usize) -> f32 {
        let recent = &self.losses[self.losses.len().saturating_sub(num)..];
        recent.iter().sum::<f32>() / recent.len().max(1) as f32
    }

    /// For export, not for going on.
    fn use_average(&mut self) {
        let _no_grad = tch::no_grad_guard();
        let average: HashMap<String, Tensor> = self.ema.tensors(&self.optimizer).into_iter().collect();
        for (name, variable) in &mut self.variables {
            variable.copy_(&average[name.as_str()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use ipa_core::noise::Draws;
    use ipa_core::tch::{Device, Kind};

    use super::*;

    const CONFIG: StageConfig = StageConfig { batch: 4, steps: 8, learning_rate: 1e-2, warmup: 2, ema: 0.9 };

    fn begin(folder: &Path, config: StageConfig, weight: Tensor) -> Result<Stage, StageError> {
        Stage::resume(folder, HashMap::from([("weight".to_owned(), weight)]), config, json!({ "seed": 1 }))
    }

    /// Fits a random line up to step `end`; gives the last weights and their average.
    fn train(folder: &Path, end: u64) -> (Tensor, Tensor) {
        let weight = Draws::seeded(0).normal(&[3]);
        let mut stage = begin(folder, CONFIG, weight).expect("a state");
        let make = |step| Draws::counted(1, "inputs", step).normal(&[CONFIG.batch as i64, 3]);
        let learn = |stage: &mut Stage, inputs: Tensor| {
            let outputs = inputs.matmul(&stage.variables[0].1);
            stage.learn(&(outputs - inputs.sum_dim_intlist(-1, false, Kind::Float)).square().mean(Kind::Float));
        };
        stage.run_until(end, make, learn, |_| {}).expect("a writable folder");
        stage.save().expect("a writable folder");
        let last = stage.variables[0].1.detach().copy();
        stage.use_average();
        (last, stage.variables[0].1.detach().to_device(Device::Cpu))
    }

    #[test]
    fn a_state_that_was_begun_otherwise_is_refused_by_what_differs() {
        let folder = tempfile::tempdir().expect("a folder");
        let _state = train(folder.path(), 2);
        let refused = |config, size| {
            let weight = Draws::seeded(0).normal(&[size]);
            begin(folder.path(), config, weight).expect_err("another run").to_string()
        };
        let faster = refused(StageConfig { learning_rate: 2e-2, ..CONFIG }, 3);
        assert!(faster.contains("`stage.learning_rate`"), "{faster}");
        let larger = refused(CONFIG, 4);
        assert!(larger.contains("`variables.weight`"), "{larger}");
    }

    #[test]
    fn two_halves_teach_what_the_whole_batch_does() {
        let (whole, halved) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        let weight = || Draws::seeded(0).normal(&[3, 2]);
        let inputs = Draws::seeded(1).normal(&[4, 3]);
        let loss = |weight: &Tensor, inputs: &Tensor| inputs.matmul(weight).tanh().square().mean(Kind::Float);

        let mut stage = begin(whole.path(), CONFIG, weight()).expect("a new state");
        let mut twins = begin(halved.path(), CONFIG, weight()).expect("a new state");
        let twin = weight();
        let original: HashMap<String, Tensor> =
            twins.variables.iter().map(|(n, t)| (n.clone(), t.shallow_clone())).collect();
        let mut gradients = halves::share(&original, HashMap::from([("weight".to_owned(), twin.shallow_clone())]));
        for _ in 0..3 {
            stage.learn(&loss(&stage.variables[0].1, &inputs));
            let (near, far) = (twins.variables[0].1.shallow_clone(), twin.shallow_clone());
            let (first, second) = (inputs.narrow(0, 0, 2), inputs.narrow(0, 2, 2));
            twins.learn_halves(&mut gradients, || loss(&near, &first), move || loss(&far, &second));
        }
        let difference = (&stage.variables[0].1 - &twins.variables[0].1).abs().max().double_value(&[]);
        assert!(difference < 1e-6, "{difference}");
        assert!((stage.losses()[2] - twins.losses()[2]).abs() < 1e-6);
        assert!(stage.losses()[2] < stage.losses()[0]);
    }

    #[test]
    fn a_loss_that_is_no_number_ends_the_stage_and_leaves_the_state() {
        let folder = tempfile::tempdir().expect("a folder");
        let _state = train(folder.path(), 2);
        let before = std::fs::read(folder.path().join("state.safetensors")).expect("a state");
        let mut stage = begin(folder.path(), CONFIG, Draws::seeded(0).normal(&[3])).expect("the same run");
        let learn = |stage: &mut Stage, step: u64| {
            let factor = if step == 4 { f64::NAN } else { 1.0 };
            stage.learn(&(stage.variables[0].1.sum(Kind::Float) * factor));
        };
        let error = stage.run(|step| step, learn, |_| {}).expect_err("step 5 has no loss");
        assert!(matches!(error, StageError::NotANumber { step: 5, .. }), "{error}");
        assert!(std::fs::read(folder.path().join("state.safetensors")).expect("a state") == before);
    }

    #[test]
    fn a_stage_stopped_and_resumed_ends_in_the_same_weights() {
        let (whole, parts) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        let expected = train(whole.path(), 8);
        let _stopped = train(parts.path(), 3);
        assert_eq!(train(parts.path(), 8), expected);
        assert_ne!(expected.0, expected.1);
    }
}
