//! What training minimises.

use std::ops::RangeInclusive;

use ipa_adapter::{AdapterError, Features, ImagePrompt, IpAdapter};
use ipa_core::FewerProducts;
use ipa_core::tch::{Device, Kind, Reduction, Tensor};
use ipa_sample::{NoiseSchedule, PredictionType};
use ipa_unet::Unet;

use crate::config::ObjectiveSettings;
use crate::{FrozenModels, TrainError};

/// Which conditions of a sample are dropped, so that guidance has something to lead away from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drops {
    /// What stands for no reference stands for it: zeros in place of an embedding or an identity vector; in place of
    /// features before the encoder's last layer those of a picture of zeros, after normalisation.
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
    /// For adapters that read pictures: `[batch, embed_dim]` or `[batch, patches, width]`.
    pub image_features: Option<Tensor>,
    /// For adapters that read identity vectors: `[batch, width]` or `[batch, faces, width]`; with several, each has
    /// image features of its own, if the adapter reads those too.
    pub face: Option<Tensor>,
    /// How much each row's loss counts, `[batch]`; without them all count once.
    pub weights: Option<Tensor>,
    /// Where errors count, `[batch, 1, h, w]` from 0 to 1: a row's loss is the mean over what counts, 0 if nothing does.
    /// Without it everything counts.
    pub mask: Option<Tensor>,
}

impl Batch {
    /// At most so many rows at a time, each part with its share of the rows.
    ///
    /// Losses of the parts times their shares add up to that of the whole.
    pub fn parts(&self, rows: i64) -> Vec<(Self, f64)> {
        let total = self.latents.size()[0];
        let part = |first: i64| {
            let num = rows.min(total - first);
            (self.narrow(first, num), num as f64 / total as f64)
        };
        (0..total).step_by(rows as usize).map(part).collect()
    }

    /// So many rows from the first given.
    pub(crate) fn narrow(&self, first: i64, num: i64) -> Self {
        let cut = |tensor: &Tensor| tensor.narrow(0, first, num);
        Self {
            latents: cut(&self.latents),
            noise: cut(&self.noise),
            perturbation: self.perturbation.as_ref().map(cut),
            timesteps: cut(&self.timesteps),
            text_embeds: cut(&self.text_embeds),
            image_features: self.image_features.as_ref().map(cut),
            face: self.face.as_ref().map(cut),
            weights: self.weights.as_ref().map(cut),
            mask: self.mask.as_ref().map(cut),
        }
    }

    /// What the adapter reads; a structure of 1 is what FaceID-Plus v2 is trained at.
    fn features(&self) -> Features {
        let shared = |tensor: &Option<Tensor>| tensor.as_ref().map(Tensor::shallow_clone);
        Features { image: shared(&self.image_features), face: shared(&self.face), structure: 1.0 }
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
        let allowed =
            "choose one below the number of the model's timesteps, usually 1000, the first not after the last";
        for (field, timestep) in [("first_timestep", settings.first_timestep), ("last_timestep", last)] {
            if timestep >= models.schedule.len() {
                return Err(TrainError::Field { field, value: timestep.to_string(), allowed });
            }
        }
        Ok(Self {
            prediction: models.prediction(),
            min_snr_gamma: settings.min_snr_gamma,
            first_timestep: settings.first_timestep,
            num_timesteps: last - settings.first_timestep + 1,
        })
    }

    /// The timesteps that are drawn.
    pub(crate) fn range(&self) -> RangeInclusive<i64> {
        self.first_timestep..=self.first_timestep + self.num_timesteps - 1
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
    ) -> Result<Tensor, AdapterError> {
        Ok(self.loss_of(&predicted(unet, adapter, schedule, batch)?, schedule, batch))
    }

    /// The same of what a model has predicted, f32.
    pub(crate) fn loss_of(&self, predicted: &Tensor, schedule: &NoiseSchedule, batch: &Batch) -> Tensor {
        let target = self.target(schedule, batch);
        let weights = |gamma| min_snr_weights(schedule, &batch.timesteps, gamma, self.prediction);
        mean_error(predicted, &target, self.min_snr_gamma.map(weights), batch)
    }

    /// The squared error of every row, without weights.
    pub(crate) fn row_errors(&self, predicted: &Tensor, schedule: &NoiseSchedule, batch: &Batch) -> Vec<f64> {
        let target = self.target(schedule, batch).to_device(predicted.device()).to_kind(Kind::Float);
        let errors = (predicted.detach() - target).square().mean_dim([1_i64, 2, 3].as_slice(), false, Kind::Float);
        Vec::<f64>::try_from(errors.to_kind(Kind::Double).to_device(Device::Cpu)).expect("an error a row")
    }

    /// What the model is to predict.
    fn target(&self, schedule: &NoiseSchedule, batch: &Batch) -> Tensor {
        match self.prediction {
            PredictionType::Epsilon => batch.noise.shallow_clone(),
            PredictionType::VPrediction => schedule.velocity(&batch.latents, &batch.noise, &batch.timesteps),
            PredictionType::Sample => batch.latents.shallow_clone(),
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
/// As [`IpAdapter::ip_tokens`], if what the adapter reads is not there or another encoder's.
pub fn training_loss(
    unet: &Unet,
    adapter: &IpAdapter,
    schedule: &NoiseSchedule,
    batch: &Batch,
) -> Result<Tensor, AdapterError> {
    Ok(mean_error(&predicted(unet, adapter, schedule, batch)?, &batch.noise, None, batch))
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
) -> Result<Tensor, AdapterError> {
    let noise_pred = predicted(unet, adapter, schedule, batch)?;
    Ok(mean_error(&noise_pred, &batch.noise, Some(weights.index_select(0, &batch.timesteps)), batch))
}

/// The mean squared error of a prediction, rows and places counting as the batch says; `timestep_weights` is `[batch]`.
fn mean_error(predicted: &Tensor, target: &Tensor, timestep_weights: Option<Tensor>, batch: &Batch) -> Tensor {
    let here = |tensor: &Tensor| tensor.to_device(predicted.device()).to_kind(Kind::Float);
    let target = here(target);
    let weights = timestep_weights.iter().chain(&batch.weights);
    if timestep_weights.is_none() && batch.weights.is_none() && batch.mask.is_none() {
        return predicted.mse_loss(&target, Reduction::Mean); // the reference's
    }
    let row_mean = |tensor: Tensor| tensor.mean_dim([1_i64, 2, 3].as_slice(), false, None::<Kind>);
    let errors = (predicted - target).square();
    let rows = match &batch.mask {
        None => row_mean(errors),
        Some(mask) => {
            let mask = here(mask);
            let counted = row_mean(mask.shallow_clone()).clamp_min(f64::from(f32::MIN_POSITIVE)); // not 0 / 0
            row_mean(errors * mask) / counted
        }
    };
    weights.fold(rows, |rows, weights| rows * here(weights)).mean(Kind::Float)
}

/// What the model predicts, in f32.
pub(crate) fn predicted(
    unet: &Unet,
    adapter: &IpAdapter,
    schedule: &NoiseSchedule,
    batch: &Batch,
) -> Result<Tensor, AdapterError> {
    let _fewer = FewerProducts::new();
    let UnetInputs { noisy, context, prompt } = unet_inputs(adapter, schedule, batch)?;
    Ok(unet.forward(&noisy, &batch.timesteps, &context, &prompt).to_kind(Kind::Float))
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
) -> Result<UnetInputs, AdapterError> {
    let kind = batch.text_embeds.kind(); // the frozen models' own
    let device = batch.text_embeds.device();
    let tokens = adapter.ip_tokens(batch.features())?;
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

    fn batch(errors: &Tensor) -> Batch {
        Batch {
            latents: errors.zeros_like(),
            noise: errors.zeros_like(),
            perturbation: None,
            timesteps: Tensor::zeros([errors.size()[0]], (Kind::Int64, Device::Cpu)),
            text_embeds: Tensor::zeros([errors.size()[0], 1, 1], (Kind::Float, Device::Cpu)),
            image_features: None,
            face: None,
            weights: None,
            mask: None,
        }
    }

    /// Two pictures of 2 × 2 in one channel; their squared errors are 1, 4, 9, 16 and four times 4.
    fn errors() -> Tensor {
        Tensor::from_slice(&[1_f32, 2.0, 3.0, 4.0, 2.0, 2.0, 2.0, 2.0]).view([2, 1, 2, 2])
    }

    fn loss(batch: &Batch) -> f64 {
        mean_error(&errors(), &batch.noise, None, batch).double_value(&[])
    }

    #[test]
    fn a_rows_weight_is_a_factor_on_its_loss() {
        let weights = Tensor::from_slice(&[2_f32, 0.5]);
        let weighted = Batch { weights: Some(weights), ..batch(&errors()) };
        assert_eq!(loss(&batch(&errors())), (7.5 + 4.0) / 2.0);
        assert_eq!(loss(&weighted), (2.0 * 7.5 + 0.5 * 4.0) / 2.0);
        let parts = weighted.parts(1);
        let sum = parts.iter().enumerate().map(|(row, (part, share))| {
            let errors = errors().narrow(0, row as i64, 1);
            share * mean_error(&errors, &part.noise, None, part).double_value(&[])
        });
        assert_eq!(sum.sum::<f64>(), loss(&weighted));
    }

    #[test]
    fn a_row_is_the_mean_over_what_its_mask_shows() {
        let mask = Tensor::from_slice(&[1_f32, 0.0, 0.0, 0.5, 0.0, 0.0, 0.0, 0.0]).view([2, 1, 2, 2]);
        let masked = Batch { mask: Some(mask), ..batch(&errors()) };
        assert_eq!(loss(&masked), (1.0 + 0.5 * 16.0) / 1.5 / 2.0); // the second row shows nothing
        let mask = Some(Tensor::full([2, 1, 2, 2], 0.25, (Kind::Float, Device::Cpu)));
        assert_eq!(loss(&Batch { mask, ..batch(&errors()) }), loss(&batch(&errors())));
    }
}
