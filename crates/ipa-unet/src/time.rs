//! The timestep as a vector.

use ipa_core::layers::{Linear, linear};
use ipa_core::tch::{Kind, Tensor, nn::Path};

/// Sinusoids of the timesteps, `[batch, width]` in f32: cosines first, `freq_i = 10000^(-i / half)`.
///
/// Arxiv:1706.03762 §3.5 with diffusers' `flip_sin_to_cos` and `downscale_freq_shift = 0`.
pub fn timestep_embedding(timesteps: &Tensor, width: i64) -> Tensor {
    let half = width / 2;
    let exponent = Tensor::arange(half, (Kind::Float, timesteps.device())) * (-f64::ln(10_000.0) / half as f64);
    let angles = timesteps.to_kind(Kind::Float).view([-1, 1]) * exponent.exp().unsqueeze(0);
    Tensor::cat(&[angles.cos(), angles.sin()], -1)
}

/// Two linear layers over the sinusoids.
#[derive(Debug)]
pub(crate) struct TimeEmbedding {
    linear_1: Linear,
    linear_2: Linear,
    width: i64,
}

impl TimeEmbedding {
    pub(crate) fn new(vs: &Path, width: i64, outputs: i64) -> Self {
        Self {
            linear_1: linear(&(vs / "linear_1"), width, outputs),
            linear_2: linear(&(vs / "linear_2"), outputs, outputs),
            width,
        }
    }

    /// `timesteps`: one for the whole batch or one per sample; result `[batch or 1, outputs]` in `kind`.
    pub(crate) fn forward(&self, timesteps: &Tensor, kind: Kind) -> Tensor {
        let sinusoids = timestep_embedding(timesteps, self.width).to_kind(kind);
        sinusoids.apply(&self.linear_1).silu().apply(&self.linear_2)
    }
}
