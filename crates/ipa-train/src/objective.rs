//! What training minimises.

use ipa_adapter::{ImagePrompt, IpAdapter};
use ipa_core::tch::{Kind, Reduction, Tensor};
use ipa_sample::{NoiseSchedule, PredictionType};
use ipa_unet::Unet;

use crate::config::ObjectiveSettings;
use crate::{FrozenModels, TrainError};

/// Which conditions of a sample are dropped, so that guidance has something to lead away from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drops {
    /// What stands for no picture stands for it: zeros in place of an embedding.
    pub image: bool,
    /// The caption becomes empty.
    pub text: bool,
}

/// The reference's single draw (arXiv:2308.06721 §4.1), `draw` in `[0, 1)`, at rates of image, text and both; there 5 % each.
pub fn drops(draw: f64, [image, text, both]: [f64; 3]) -> Drops {
    // Parity: sums of floating-point numbers, compared as the reference compares them.
    let (image, text, both) = (image, image + text, image + text + both);
    match draw {
        _ if draw < image => Drops { image: true, text: false },
        _ if draw < text => Drops { image: false, text: true },
        _ if draw < both => Drops { image: true, text: true },
        _ => Drops { image: false, text: false },
    }
}

/// What one step is computed from; conditions already dropped where they are dropped.
#[derive(Debug)]
pub struct Batch {
    /// Scaled latents `[batch, 4, h, w]`.
    pub latents: Tensor,
    /// Standard normal, shaped as the latents.
    pub noise: Tensor,
    /// What the model sees beside the noise and is not to predict.
    pub perturbation: Option<Tensor>,
    /// `[batch]`, integers.
    pub timesteps: Tensor,
    /// `[batch, tokens, width]`.
    pub text_embeds: Tensor,
    /// `[batch, embed_dim]` or `[batch, patches, width]`.
    pub image_features: Tensor,
}

impl Batch {
    /// At most so many rows at a time, each part with its share of the rows.
    pub(crate) fn parts(&self, rows: i64) -> Vec<(Self, f64)> {
        let total = self.latents.size()[0];
        let part = |first: i64| {
            let num = rows.min(total - first);
            let cut = |tensor: &Tensor| tensor.narrow(0, first, num);
            let part = Self {
                latents: cut(&self.latents),
                noise: cut(&self.noise),
                perturbation: self.perturbation.as_ref().map(cut),
                timesteps: cut(&self.timesteps),
                text_embeds: cut(&self.text_embeds),
                image_features: cut(&self.image_features),
            };
            (part, num as f64 / total as f64)
        };
        (0..total).step_by(rows as usize).map(part).collect()
    }
}

/// What a run minimises.
#[derive(Debug)]
pub(crate) struct Objective {
    prediction: PredictionType,
    min_snr_gamma: Option<f64>,
    first_timestep: i64,
    num_timesteps: i64,
}

impl Objective {
    pub(crate) fn new(settings: &ObjectiveSettings, models: &FrozenModels) -> Result<Self, TrainError> {
        let last = settings.last_timestep.unwrap_or(models.schedule.len() - 1);
        if last >= models.schedule.len() || settings.first_timestep > last {
            let allowed = "choose one below the number of the model's timesteps, usually 1000";
            return Err(TrainError::Field { field: "last_timestep", value: last.to_string(), allowed });
        }
        Ok(Self {
            prediction: models.prediction(),
            min_snr_gamma: settings.min_snr_gamma,
            first_timestep: settings.first_timestep,
            num_timesteps: last - settings.first_timestep + 1,
        })
    }

    /// The first of the timesteps that are drawn, and how many they are.
    pub(crate) fn timesteps(&self) -> (i64, i64) {
        (self.first_timestep, self.num_timesteps)
    }

    /// The mean squared error of what the model predicts, weighted by timestep if the settings say so.
    pub(crate) fn loss(
        &self,
        unet: &Unet,
        adapter: &IpAdapter,
        schedule: &NoiseSchedule,
        batch: &Batch,
    ) -> Result<Tensor, ipa_adapter::AdapterError> {
        if (self.prediction, self.min_snr_gamma) == (PredictionType::Epsilon, None) {
            return training_loss(unet, adapter, schedule, batch); // the reference's
        }
        let (predicted, noise) = predicted(unet, adapter, schedule, batch)?;
        let target = match self.prediction {
            PredictionType::Epsilon => noise,
            PredictionType::VPrediction => {
                schedule.velocity(&batch.latents, &batch.noise, &batch.timesteps).to_device(predicted.device())
            }
            PredictionType::Sample => batch.latents.to_device(predicted.device()).to_kind(Kind::Float),
        };
        match self.min_snr_gamma {
            None => Ok(predicted.mse_loss(&target, Reduction::Mean)),
            Some(gamma) => {
                let errors = (predicted - target).square().mean_dim([1_i64, 2, 3].as_slice(), false, None::<Kind>);
                let weights = min_snr_weights(schedule, &batch.timesteps, gamma, self.prediction);
                Ok((errors * weights.to_device(batch.text_embeds.device())).mean(Kind::Float))
            }
        }
    }
}

/// `min(SNR, γ)` (arXiv:2303.09556 Eq. 8) over what the target's own error already weighs: SNR for noise, SNR + 1 for the
/// velocity, 1 for the clean latents; `[batch]`.
fn min_snr_weights(schedule: &NoiseSchedule, timesteps: &Tensor, gamma: f64, prediction: PredictionType) -> Tensor {
    let acp = schedule.alphas_cumprod().to_kind(Kind::Double).index_select(0, timesteps);
    let noise_level: Tensor = 1.0 - &acp;
    let snr = acp / noise_level;
    let weights = match prediction {
        // Not as a quotient: without noise's end the ratio may be 0.
        PredictionType::Epsilon => (snr.reciprocal() * gamma).clamp_max(1.0),
        PredictionType::VPrediction => snr.clamp_max(gamma) / (snr + 1.0),
        PredictionType::Sample => snr.clamp_max(gamma),
    };
    weights.to_kind(Kind::Float)
}

/// The mean squared error of the predicted noise (arXiv:2308.06721 Eq. 6), in f32 whatever the models compute in.
///
/// # Errors
/// [`ipa_adapter::AdapterError::EmbedDim`] if the embeddings are another encoder's.
pub fn training_loss(
    unet: &Unet,
    adapter: &IpAdapter,
    schedule: &NoiseSchedule,
    batch: &Batch,
) -> Result<Tensor, ipa_adapter::AdapterError> {
    let (noise_pred, noise) = predicted(unet, adapter, schedule, batch)?;
    Ok(noise_pred.mse_loss(&noise, Reduction::Mean))
}

/// As [`training_loss`], where an error counts as much as its timestep weighs; `weights` is `[timesteps]`, one on
/// average.
///
/// # Errors
/// As [`training_loss`].
pub(crate) fn weighted_loss(
    unet: &Unet,
    adapter: &IpAdapter,
    schedule: &NoiseSchedule,
    weights: &Tensor,
    batch: &Batch,
) -> Result<Tensor, ipa_adapter::AdapterError> {
    let (noise_pred, noise) = predicted(unet, adapter, schedule, batch)?;
    let errors = (noise_pred - noise).square().mean_dim([1_i64, 2, 3].as_slice(), false, None::<Kind>);
    let weights = weights.index_select(0, &batch.timesteps).to_device(errors.device());
    Ok((errors * weights).mean(Kind::Float))
}

/// What the model says of the noise, and the noise, in f32.
fn predicted(
    unet: &Unet,
    adapter: &IpAdapter,
    schedule: &NoiseSchedule,
    batch: &Batch,
) -> Result<(Tensor, Tensor), ipa_adapter::AdapterError> {
    let UnetInputs { noisy, context, prompt } = unet_inputs(adapter, schedule, batch)?;
    let noise_pred = unet.forward(&noisy, &batch.timesteps, &context, &prompt);
    let device = batch.text_embeds.device();
    Ok((noise_pred.to_kind(Kind::Float), batch.noise.to_device(device).to_kind(Kind::Float)))
}

/// What the UNet reads in a step, beside the timesteps.
pub(crate) struct UnetInputs {
    pub(crate) noisy: Tensor,
    pub(crate) context: Tensor,
    pub(crate) prompt: ImagePrompt,
}

/// As the adapter makes it of a batch.
pub(crate) fn unet_inputs(
    adapter: &IpAdapter,
    schedule: &NoiseSchedule,
    batch: &Batch,
) -> Result<UnetInputs, ipa_adapter::AdapterError> {
    let kind = batch.text_embeds.kind(); // the frozen models' own
    let device = batch.text_embeds.device();
    let tokens = adapter.ip_tokens(&batch.image_features)?;
    let prompt = adapter.prompt_of(&adapter.fused(&tokens, &batch.text_embeds), 1.0).to_kind(kind);
    let context = prompt.context(&batch.text_embeds, 1.0);
    let seen = batch.perturbation.iter().fold(batch.noise.shallow_clone(), |noise, more| noise + more);
    let noisy = schedule.add_noise(&batch.latents, &seen, &batch.timesteps).to_device(device).to_kind(kind);
    Ok(UnetInputs { noisy, context, prompt })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use ipa_sample::SchedulerConfig;

    use super::*;

    /// Reference values: `diffusers.training_utils.compute_snr` of diffusers 0.42.1, weighted as its text-to-image
    /// training does, γ = 5.
    #[test]
    fn min_snr_weights_are_those_of_diffusers() {
        let schedule = NoiseSchedule::new(&SchedulerConfig::sd15_ddim());
        let timesteps = Tensor::from_slice(&[0_i64, 100, 500, 999]);
        for (prediction, expected) in [
            (PredictionType::Epsilon, [0.004_253_724, 0.591_445_5, 1.0, 1.0]),
            (PredictionType::VPrediction, [0.004_250_108_7, 0.528_884_3, 0.276_332_47, 0.004_660_094]),
            (PredictionType::Sample, [5.0, 5.0, 0.381_85, 0.004_681_912]),
        ] {
            let found = Vec::<f32>::try_from(min_snr_weights(&schedule, &timesteps, 5.0, prediction)).unwrap();
            let is_close = |(found, expected): (&f32, f32)| (found - expected).abs() < 1e-5 * expected;
            assert!(found.iter().zip(expected).all(is_close), "{prediction:?}: {found:?}");
        }
    }
}
