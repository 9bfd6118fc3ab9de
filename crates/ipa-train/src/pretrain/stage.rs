//! What every stage of pretraining does between two losses.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use ipa_core::tch::{self, Tensor};
use ipa_core::{Checkpoint, WeightsError, save_tensors};

use super::halves;
use crate::gradients::Gradients;
use crate::{AdamW, AdamWConfig, Ema};

const MAX_GRADIENT_NORM: f64 = 1.0;
const SAVE_EVERY: Duration = Duration::from_secs(60);
const NUM_AHEAD: usize = 4;

/// Length and speed of a stage.
#[derive(Debug, Clone, Copy, PartialEq)]
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
    config: StageConfig,
    variables: Vec<(String, Tensor)>,
    optimizer: AdamW,
    ema: Ema,
    losses: Vec<f32>,
    saved: Instant,
}

impl Stage {
    /// Begins, or goes on from `folder/state.safetensors` if that is there.
    ///
    /// # Errors
    /// [`WeightsError`] if the state belongs to another model.
    pub fn resume(
        folder: &Path,
        variables: HashMap<String, Tensor>,
        config: StageConfig,
    ) -> Result<Self, WeightsError> {
        let variables: Vec<(String, Tensor)> = variables.into_iter().collect();
        let shallow = variables.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone()));
        let optimizer = AdamW::new(shallow, AdamWConfig::default());
        let ema = Ema::new(&optimizer, config.ema);
        let path = folder.join("state.safetensors");
        let mut stage = Self { path, config, variables, optimizer, ema, losses: Vec::new(), saved: Instant::now() };
        if stage.path.exists() {
            stage.load()?;
        }
        Ok(stage)
    }

    fn load(&mut self) -> Result<(), WeightsError> {
        let checkpoint = Checkpoint::open(&self.path)?;
        tch::no_grad(|| {
            for (name, variable) in &mut self.variables {
                variable.copy_(&checkpoint.tensor(&format!("model.{name}"))?);
            }
            Ok::<(), WeightsError>(())
        })?;
        self.ema.load(&self.optimizer, &checkpoint, "ema.")?;
        self.losses = Vec::try_from(checkpoint.tensor("losses")?).expect("losses are a vector of f32");
        self.optimizer.load_state(&checkpoint)
    }

    /// Takes the steps that remain, and ends with the averaged weights in place of the last ones.
    ///
    /// `make` draws the batch of a step, some steps ahead on a thread of its own, so that models do not wait for pictures and
    /// captions; `learn` learns from it; `progress` follows every step.
    ///
    /// # Errors
    /// [`WeightsError`] if the state cannot be written.
    pub fn run<B: Send>(
        &mut self,
        make: impl Fn(u64) -> B + Send,
        learn: impl FnMut(&mut Self, B),
        progress: impl FnMut(&Self),
    ) -> Result<(), WeightsError> {
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
    ) -> Result<(), WeightsError> {
        let mut steps = self.optimizer.steps()..end;
        thread::scope(|scope| {
            let (sender, batches) = mpsc::sync_channel(NUM_AHEAD);
            // Nobody listens any more once a step has failed.
            scope.spawn(move || steps.try_for_each(|step| sender.send(make(step)).ok()));
            for batch in batches {
                learn(self, batch);
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
        save_tensors(&self.path, model.chain(ema).chain(self.optimizer.state()).chain(losses), None)
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

    /// Fits a random line up to step `end`; gives the last weights and their average.
    fn train(folder: &Path, end: u64) -> (Tensor, Tensor) {
        let weight = Draws::seeded(0).normal(&[3]);
        let mut stage = Stage::resume(folder, HashMap::from([("weight".to_owned(), weight)]), CONFIG).expect("a state");
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
    fn a_stage_stopped_and_resumed_ends_in_the_same_weights() {
        let (whole, parts) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        let expected = train(whole.path(), 8);
        let _stopped = train(parts.path(), 3);
        assert_eq!(train(parts.path(), 8), expected);
        assert_ne!(expected.0, expected.1);
    }
}
