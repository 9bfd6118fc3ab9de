//! Drawing anew what a mask shows of a picture, and nothing else.

use ipa_core::tch::Tensor;

use crate::Sampler;

/// What a mask does at every step; `mask` is `[1, 1, h, w]`, 1 where the picture is drawn anew.
pub(super) enum Inpainting {
    /// An ordinary model: outside the mask, every step is followed by the picture itself, as noisy as the sample then
    /// is.
    Restore {
        mask: Tensor,
        /// Clean latents of the picture, one for each that is drawn.
        original: Tensor,
        noise: Tensor,
    },
    /// A model of 9 channels, which reads the mask and the latents of the masked picture.
    Read { mask: Tensor, masked: Tensor },
}

impl Inpainting {
    /// What the model reads: beside the scaled sample, for a model that does, mask and masked picture.
    pub(super) fn model_input(&self, scaled: Tensor) -> Tensor {
        match self {
            Self::Restore { .. } => scaled,
            Self::Read { mask, masked } => {
                let size = scaled.size();
                let mask = mask.expand([size[0], 1, size[2], size[3]], false);
                Tensor::cat(&[&scaled, &mask, masked], 1)
            }
        }
    }

    /// The sample after a step that `next` follows, or none.
    pub(super) fn restored(&self, latents: Tensor, next: Option<usize>, sampler: &dyn Sampler) -> Tensor {
        match self {
            Self::Restore { mask, original, noise } => {
                let original = match next {
                    Some(next) => sampler.add_noise(next, original, noise),
                    None => original.shallow_clone(),
                };
                (1.0 - mask) * original + mask * latents
            }
            Self::Read { .. } => latents,
        }
    }
}
