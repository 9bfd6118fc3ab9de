//! The held-out loss.

use ipa_adapter::Features;
use ipa_adapter::IpAdapter;
use ipa_core::noise::Draws;
use ipa_core::tch;
use ipa_unet::Unet;
use ipa_vae::DiagonalGaussian;

use super::rows::{batches, features, noise, stack};
use super::{ValidationError, Work};
use crate::config::ObjectiveSettings;
use crate::objective::{Batch, Objective};
use crate::{EncodedRow, FrozenModels};

/// Timesteps that a loss is over at least: with fewer rows, each is seen at several.
const MIN_TIMESTEPS: usize = 32;

/// The mean error over rows, each at timesteps and with noise of its own that stay the same from one validation to the
/// next, so that what changes is the adapter's doing.
///
/// The error is that of the model's own target, over the whole schedule and unweighted, whatever a run learns from:
/// losses of different runs can be compared.
#[derive(Debug)]
pub(super) struct HeldOutLoss {
    objective: Objective,
    seed: u64,
    num_rows: usize,
    /// Of row `index % num_rows` each; one in every equal part of the schedule.
    timesteps: Vec<i64>,
}

impl HeldOutLoss {
    pub(super) fn new(models: &FrozenModels, num_rows: usize, seed: u64) -> Self {
        let objective =
            Objective::new(&ObjectiveSettings::default(), models).expect("every schedule has all its timesteps");
        Self { objective, seed, num_rows, timesteps: stratified(models.schedule.len(), num_rows, seed) }
    }

    /// Calls of the model that it takes.
    pub(super) fn num_calls(&self, rows: &[EncodedRow]) -> u64 {
        batches(&self.rows(rows)).len() as u64
    }

    /// The loss of an adapter; not a number if the model says none.
    pub(super) fn of(
        &self,
        models: &FrozenModels,
        rows: &[EncodedRow],
        (unet, adapter): (&Unet, &IpAdapter),
        work: &mut Work,
    ) -> Result<f64, ValidationError> {
        let _no_grad = tch::no_grad_guard();
        let rows = self.rows(rows);
        let mut sum = 0.0;
        for batch in batches(&rows) {
            let loss = self.objective.loss(unet, adapter, &models.schedule, &self.batch(models, &rows, &batch))?;
            sum += loss.double_value(&[]) * batch.len() as f64;
            work.done()?;
        }
        Ok(sum / rows.len() as f64)
    }

    /// The row of every timestep.
    fn rows<'a>(&self, rows: &'a [EncodedRow]) -> Vec<&'a EncodedRow> {
        rows[..self.num_rows].iter().cycle().take(self.timesteps.len()).collect()
    }

    fn batch(&self, models: &FrozenModels, rows: &[&EncodedRow], positions: &[usize]) -> Batch {
        let numbered: Vec<(u64, &EncodedRow)> = positions.iter().map(|&index| (index as u64, rows[index])).collect();
        let rows: Vec<&EncodedRow> = positions.iter().map(|&index| rows[index]).collect();
        let timesteps: Vec<i64> = positions.iter().map(|&index| self.timesteps[index]).collect();
        let mean = stack(&rows, |row| &row.posterior.mean);
        let posterior = DiagonalGaussian { mean, logvar: stack(&rows, |row| &row.posterior.logvar) };
        let latents = posterior.sample(&noise(self.seed, "validation_posterior", &numbered)) * models.scaling_factor();
        let (device, kind) = models.options();
        let Features { image, face, .. } = features(&rows, device);
        Batch {
            latents,
            noise: noise(self.seed, "validation_noise", &numbered),
            perturbation: None,
            timesteps: tch::Tensor::from_slice(&timesteps),
            text_embeds: stack(&rows, |row| &row.text_embeds).to_device(device).to_kind(kind),
            image_features: image,
            face,
            weights: None,
            mask: None,
        }
    }
}

/// A timestep in each of as many equal parts of the schedule as rows, times the rounds it takes to have enough of them;
/// which row has which part is drawn for every round.
fn stratified(len: i64, num_rows: usize, seed: u64) -> Vec<i64> {
    let num_rounds = MIN_TIMESTEPS.div_ceil(num_rows.max(1));
    let num = (num_rows * num_rounds) as f64;
    let within = Vec::<f32>::try_from(Draws::counted(seed, "validation_timesteps", 0).uniform(&[num as i64]));
    let within = within.expect("a vector of numbers");
    let round = |round: usize| {
        let order = Draws::counted(seed, "validation_order", round as u64).permutation(num_rows);
        // Neighbouring parts go to different rounds, so that each round is over the whole schedule.
        order.into_iter().map(move |part| part * num_rounds + round)
    };
    let parts = (0..num_rounds).flat_map(round);
    let timestep = |(part, within): (usize, f32)| ((part as f64 + f64::from(within)) / num * len as f64) as i64;
    parts.zip(within).map(timestep).map(|timestep| timestep.min(len - 1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_the_schedule_has_one_timestep() {
        for num_rows in [1, 5, 64] {
            let mut timesteps = stratified(1000, num_rows, 3);
            assert_eq!(timesteps, stratified(1000, num_rows, 3));
            assert_ne!(timesteps, stratified(1000, num_rows, 4));
            assert!(timesteps.len() >= MIN_TIMESTEPS && timesteps.len().is_multiple_of(num_rows));
            timesteps.sort_unstable();
            let part = 1000.0 / timesteps.len() as f64;
            let is_within = |(index, &timestep): (usize, &i64)| {
                let first = index as f64 * part;
                ((first - 1.0)..=(first + part)).contains(&(timestep as f64))
            };
            assert!(timesteps.iter().enumerate().all(is_within), "{timesteps:?}");
        }
    }
}
