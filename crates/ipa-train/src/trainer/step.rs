//! One step.

use std::cell::RefCell;

use ipa_core::tch::{self, Tensor};
use ipa_unet::Unet;

use super::{TrainError, Trainer, fault};
use crate::objective::{Batch, predicted};
use crate::recompute::backward_by_segments;
use crate::watch::{Progress, RowLoss};

impl Trainer<'_> {
    /// One step; what it found.
    ///
    /// # Errors
    /// [`TrainError::NotANumber`] if loss or gradient is none; the adapter then is as it was.
    pub(super) fn step(&mut self) -> Result<Progress, TrainError> {
        let batch = self.batches.batch(self.done, &self.objective)?;
        self.learn(&batch)
    }

    /// The same of a batch that is there.
    pub(super) fn learn(&mut self, batch: &Batch) -> Result<Progress, TrainError> {
        let (step, steps) = (self.done, self.num_steps());
        if let Some(low_rank) = &mut self.low_rank {
            low_rank.refresh();
        }
        let (mut loss, mut rows) = (0.0, Vec::new());
        for (part, share) in batch.parts(self.config.schedule.batch as i64) {
            let (part_loss, of_rows) = self.backward(&part, share)?;
            loss += part_loss;
            let timesteps = Vec::<i64>::try_from(&part.timesteps).expect("a timestep a row");
            rows.extend(timesteps.into_iter().zip(of_rows).map(|(timestep, loss)| RowLoss { timestep, loss }));
        }
        if let Some(low_rank) = &mut self.low_rank {
            low_rank.pass_gradients();
        }
        let learning_rate = self.config.optimizer.learning_rate * self.config.schedule.factor(step, steps);
        let grad_norm = self.update(learning_rate)?;
        self.done += 1;
        let loss_scale = self.scale.map(|scale| scale.factor());
        Ok(Progress { step: self.done, steps, loss, rows, learning_rate, grad_norm, loss_scale })
    }

    /// The UNet that the adapter learns in.
    pub(super) fn learning_unet(&self) -> &Unet {
        match (&self.low_rank, &self.whole_unet) {
            (Some(low_rank), _) => low_rank.unet(),
            (None, Some(whole)) => &whole.model,
            (None, None) => &self.models.unet.model,
        }
    }

    /// Adds the gradient of a part; its share of the loss, and the errors of its rows.
    fn backward(&self, part: &Batch, share: f64) -> Result<(f64, Vec<f64>), TrainError> {
        let unet = self.learning_unet();
        let (adapter, schedule, objective) = (&self.adapter, &self.models.schedule, &self.objective);
        let factor = share * self.scale.map_or(1.0, |scale| scale.factor());
        let row_errors = RefCell::new(Vec::new());
        let loss_of = |predicted: &Tensor| {
            *row_errors.borrow_mut() = objective.row_errors(predicted, schedule, part);
            let loss = objective.loss_of(predicted, schedule, part);
            if factor == 1.0 { loss } else { loss * factor }
        };
        let scaled = match self.config.model.recompute {
            true => backward_by_segments(unet, adapter, schedule, part, loss_of)?,
            false => {
                let loss = loss_of(&predicted(unet, adapter, schedule, part)?);
                loss.backward();
                loss.double_value(&[])
            }
        };
        if !scaled.is_finite() {
            let tensor = fault::of_batch(part, adapter).unwrap_or_else(|| "the loss".to_owned());
            return Err(TrainError::NotANumber { step: self.done + 1, tensor });
        }
        Ok((scaled * share / factor, row_errors.into_inner()))
    }

    /// Moves the adapter; the length of its gradient, none after an overflow, which moves nothing.
    fn update(&mut self, learning_rate: f64) -> Result<Option<f64>, TrainError> {
        let _no_grad = tch::no_grad_guard();
        if let Some(scale) = self.scale {
            let _ = self.optimizer.gradient().g_mul_scalar_(1.0 / scale.factor());
        }
        let norm = self.optimizer.gradient().norm().double_value(&[]);
        if let Some(scale) = &mut self.scale {
            scale.update(norm.is_finite());
            if !norm.is_finite() && !scale.is_exhausted() {
                self.optimizer.clear_gradient();
                return Ok(None);
            }
        }
        if !norm.is_finite() {
            let tensor = fault::of_gradient(&self.adapter);
            return Err(TrainError::NotANumber { step: self.done + 1, tensor });
        }
        if let Some(max_norm) = self.config.optimizer.max_grad_norm.filter(|max_norm| norm > *max_norm) {
            let _ = self.optimizer.gradient().g_mul_scalar_(max_norm / norm);
        }
        self.optimizer.step(learning_rate);
        if let Some(ema) = &mut self.ema {
            ema.update(&self.optimizer);
        }
        Ok(Some(norm))
    }
}
