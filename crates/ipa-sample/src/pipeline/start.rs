//! What the first call of the model sees.

use ipa_core::noise::Draws;
use ipa_core::tch::Tensor;
use ipa_formats::ModelTask;

use super::inpainting::Inpainting;
use super::{Pipeline, PipelineError};
use crate::pictures::{Pictures, init_pixels, mask_pixels};
use crate::{GenerateRequest, RequestError, Sampler};

/// What the first call of the model sees, which it is, and what a mask does to all of them.
pub(super) struct Start {
    pub(super) latents: Tensor,
    pub(super) first: usize,
    pub(super) inpainting: Option<Inpainting>,
}

impl Pipeline {
    /// Pure noise, or a picture with as much noise as `strength` says.
    ///
    /// Parity: the order of draws is that of diffusers' three pipelines.
    pub(super) fn start(
        &self,
        request: &GenerateRequest,
        pictures: Pictures,
        sampler: &dyn Sampler,
        draws: &mut Draws,
    ) -> Result<Start, PipelineError> {
        check_loaded("init_image", request.init_image.is_some(), pictures.init.is_some())?;
        check_loaded("mask", request.mask.is_some(), pictures.mask.is_some())?;
        let Some(picture) = pictures.init else {
            let latents = self.initial_noise(request, draws) * sampler.init_noise_sigma();
            return Ok(Start { latents, first: 0, inpainting: None });
        };
        let first = (request.num_steps - request.num_denoising_steps()) * sampler.order();
        let pixels = init_pixels(picture, request, self.vae.config().downsampling() as u32)?;
        let Some(mask) = pictures.mask else {
            let latents = self.encoded(&pixels, request, draws)?;
            let noise = self.noise(draws, &latents.size());
            return Ok(Start { latents: sampler.add_noise(first, &latents, &noise), first, inpainting: None });
        };
        let from_noise = request.strength() == 1.0;
        let is_original_needed = self.task != ModelTask::Inpainting || !from_noise;
        let original = is_original_needed.then(|| self.encoded(&pixels, request, draws)).transpose()?;
        let noise = self.noise(draws, &self.latents_shape(&pixels, request.num_images));
        let latents = match &original {
            Some(original) if !from_noise => sampler.add_noise(first, original, &noise),
            _ => &noise * sampler.init_noise_sigma(),
        };
        let mask_pixels = mask_pixels(mask, &pixels);
        let mask = self.as_model_wants(&self.at_latents_size(&mask_pixels));
        let masked = &pixels * (1.0 - mask_pixels); // grey where it is drawn anew
        let inpainting = match (self.task, original) {
            (ModelTask::Inpainting, _) | (_, None) => {
                Inpainting::Read { mask, masked: self.encoded(&masked, request, draws)? }
            }
            (_, Some(original)) => {
                // Parity: the reference encodes the masked picture here too; nothing reads it but the generator.
                drop(self.noise(draws, &self.latents_shape(&pixels, 1)));
                Inpainting::Restore { mask, original, noise }
            }
        };
        Ok(Start { latents, first, inpainting: Some(inpainting) })
    }

    /// A sample of the picture's latents, scaled, as often as pictures are drawn.
    fn encoded(&self, pixels: &Tensor, request: &GenerateRequest, draws: &mut Draws) -> Result<Tensor, PipelineError> {
        let posterior = self.posterior(pixels, request.vae_tiling)?;
        let latents = posterior.sample(&self.noise(draws, &posterior.mean.size())) * self.vae.config().scaling_factor;
        Ok(latents.repeat([i64::from(request.num_images), 1, 1, 1]))
    }

    fn initial_noise(&self, request: &GenerateRequest, draws: &mut Draws) -> Tensor {
        let factor = self.vae.config().downsampling();
        let side = |side: Option<u32>| i64::from(side.unwrap_or_else(|| self.native_side())) / factor;
        let (height, width) = (side(request.height), side(request.width));
        let shape = [i64::from(request.num_images), self.vae.config().latent_channels, height, width];
        self.noise(draws, &shape)
    }

    fn latents_shape(&self, pixels: &Tensor, num_images: u32) -> [i64; 4] {
        let (factor, size) = (self.vae.config().downsampling(), pixels.size());
        [i64::from(num_images), self.vae.config().latent_channels, size[2] / factor, size[3] / factor]
    }

    /// Parity: by nearest neighbour, so that a mask stays one.
    fn at_latents_size(&self, mask: &Tensor) -> Tensor {
        let shape = self.latents_shape(mask, 1);
        mask.upsample_nearest2d(&shape[2..], None, None)
    }
}

/// What the request names as a file has been loaded, and nothing else.
fn check_loaded(field: &'static str, is_named: bool, is_loaded: bool) -> Result<(), RequestError> {
    let named = if is_named { "a file" } else { "no file" };
    let loaded = if is_loaded { "a" } else { "no" };
    match is_named == is_loaded {
        true => Ok(()),
        false => Err(RequestError::Field {
            field,
            value: format!("{named} with {loaded} picture loaded"),
            allowed: "name a file in the request and hand over its picture, or neither",
        }),
    }
}
