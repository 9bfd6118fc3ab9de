//! What training minimises.

use ipa_adapter::IpAdapter;
use ipa_core::tch::{Kind, Reduction, Tensor};
use ipa_sample::NoiseSchedule;
use ipa_unet::Unet;

/// Which conditions of a sample are dropped, so that guidance has something to lead away from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drops {
    /// What stands for no picture stands for it: zeros in place of an embedding.
    pub image: bool,
    /// The caption becomes empty.
    pub text: bool,
}

/// The reference's single draw (arXiv:2308.06721 §4.1): 5 % image, 5 % text, 5 % both; `draw` in `[0, 1)`.
pub fn drops(draw: f64) -> Drops {
    const RATE: f64 = 0.05;
    // Parity: sums of floating-point numbers, compared as the reference compares them.
    let (image, text, both) = (RATE, RATE + RATE, RATE + RATE + RATE);
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
    /// `[batch]`, integers.
    pub timesteps: Tensor,
    /// `[batch, tokens, width]`.
    pub text_embeds: Tensor,
    /// `[batch, embed_dim]` or `[batch, patches, width]`.
    pub image_features: Tensor,
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
    let kind = batch.text_embeds.kind(); // the frozen models' own
    let device = batch.text_embeds.device();
    let tokens = adapter.ip_tokens(&batch.image_features)?;
    let prompt = adapter.prompt_of(&adapter.fused(&tokens, &batch.text_embeds), 1.0).to_kind(kind);
    let context = prompt.context(&batch.text_embeds, 1.0);
    let noisy = schedule.add_noise(&batch.latents, &batch.noise, &batch.timesteps).to_device(device).to_kind(kind);
    let noise_pred = unet.forward(&noisy, &batch.timesteps, &context, &prompt);
    Ok((noise_pred.to_kind(Kind::Float), batch.noise.to_device(device).to_kind(Kind::Float)))
}
