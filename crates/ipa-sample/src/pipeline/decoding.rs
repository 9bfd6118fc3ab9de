//! Between pictures and latents, in f32 where half precision overflows.

use image::RgbImage;
use ipa_core::tch::{self, Kind, Tensor};
use ipa_core::{FewerProducts, picture};
use ipa_formats::Component;
use ipa_vae::{DiagonalGaussian, Vae};

use super::{Pipeline, PipelineError};

/// Pictures of sampled latents.
#[derive(Debug)]
pub struct Decoded {
    /// One a latent.
    pub pictures: Vec<RgbImage>,
    /// Whether half precision overflowed, so that f32 had to do.
    pub in_f32: bool,
}

impl Pipeline {
    /// Pictures of sampled latents, in tiles if `tiling` says so.
    ///
    /// Where half precision overflows, as in the VAE of Stable Diffusion 1.x it may, the VAE is loaded again in f32.
    ///
    /// # Errors
    /// [`PipelineError::NotANumber`] if the latents, or what the VAE makes of them in f32, are none.
    pub fn decode(&self, latents: &Tensor, tiling: bool) -> Result<Decoded, PipelineError> {
        let _no_grad = tch::no_grad_guard();
        if !is_finite(latents) {
            return Err(PipelineError::NotANumber);
        }
        let (_, kind) = self.options;
        match decode_each(&self.vae, latents, tiling) {
            Some(pictures) => Ok(Decoded { pictures, in_f32: false }),
            None if kind == Kind::Float => Err(PipelineError::NotANumber),
            None => {
                let pictures = decode_each(self.vae_f32()?, &latents.to_kind(Kind::Float), tiling);
                Ok(Decoded { pictures: pictures.ok_or(PipelineError::NotANumber)?, in_f32: true })
            }
        }
    }

    /// What the VAE says of pixels `[1, 3, height, width]`, in tiles if `tiling` says so.
    pub(super) fn posterior(&self, pixels: &Tensor, tiling: bool) -> Result<DiagonalGaussian, PipelineError> {
        let encode = |vae: &Vae, pixels: &Tensor| {
            let posterior = if tiling { vae.encode_tiled(pixels) } else { vae.encode(pixels) };
            is_finite(&posterior.mean).then_some(posterior)
        };
        let (device, kind) = self.options;
        match encode(&self.vae, &self.as_model_wants(pixels)) {
            Some(posterior) => Ok(posterior),
            None if kind == Kind::Float => Err(PipelineError::NotANumber),
            None => {
                let posterior = encode(self.vae_f32()?, &pixels.to_device(device).to_kind(Kind::Float));
                let DiagonalGaussian { mean, logvar } = posterior.ok_or(PipelineError::NotANumber)?;
                Ok(DiagonalGaussian { mean: mean.to_kind(kind), logvar: logvar.to_kind(kind) })
            }
        }
    }

    fn vae_f32(&self) -> Result<&Vae, PipelineError> {
        if let Some(vae) = self.vae_f32.get() {
            return Ok(vae);
        }
        let (device, _) = self.options;
        let loaded = Vae::load(&self.files.component(Component::Vae)?, (device, Kind::Float))?;
        Ok(self.vae_f32.get_or_init(|| loaded))
    }
}

/// Pictures of sampled latents, scaled as the UNet sees them; `None` if pixels are not numbers.
///
/// One picture at a time: the decoder's activations are the largest of all.
pub fn decode_each(vae: &Vae, latents: &Tensor, tiling: bool) -> Option<Vec<RgbImage>> {
    let _fewer = FewerProducts::new();
    let latents = latents / vae.config().scaling_factor;
    let decode = |index: i64| {
        let latents = latents.narrow(0, index, 1);
        let pixels = if tiling { vae.decode_tiled(&latents) } else { vae.decode(&latents) };
        is_finite(&pixels).then(|| picture::to_pictures(&pixels).swap_remove(0))
    };
    (0..latents.size()[0]).map(decode).collect()
}

fn is_finite(tensor: &Tensor) -> bool {
    tensor.isfinite().all().int64_value(&[]) != 0
}
