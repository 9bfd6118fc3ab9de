//! Encoder, decoder, and the Gaussian between them.

use ipa_core::layers::{Conv2d, GroupNorm, conv2d, group_norm, lay_out_for_drawing};
use ipa_core::tch::{Device, Kind, Tensor, nn::Path};
use ipa_core::{Component, WeightsError, load_component};

use ipa_formats::ComponentFiles;

use crate::VaeConfig;
use crate::blocks::{DownBlock, MidBlock, NORM_EPS, UpBlock};
use crate::norms::Norms;

/// Pictures to features of the latents' size.
#[derive(Debug)]
pub struct Encoder {
    conv_in: Conv2d,
    down_blocks: Vec<DownBlock>,
    mid_block: MidBlock,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Encoder {
    /// Declares the encoder's variables under `vs`.
    pub fn new(vs: &Path, config: &VaeConfig) -> Self {
        let (channels, groups) = (&config.block_out_channels, config.norm_num_groups);
        let (first, last) = (channels[0], channels[channels.len() - 1]);
        let down_block = |level: usize| {
            let inputs = channels[level.saturating_sub(1)];
            let is_last = level + 1 == channels.len();
            let vs = vs / "down_blocks" / level;
            DownBlock::new(&vs, inputs, channels[level], config.layers_per_block, groups, is_last)
        };
        Self {
            conv_in: conv2d(&(vs / "conv_in"), config.in_channels, first, 3),
            down_blocks: (0..channels.len()).map(down_block).collect(),
            mid_block: MidBlock::new(&(vs / "mid_block"), last, groups),
            conv_norm_out: group_norm(&(vs / "conv_norm_out"), groups, last, NORM_EPS),
            conv_out: conv2d(&(vs / "conv_out"), last, 2 * config.latent_channels, 3),
        }
    }

    fn forward(&self, pixels: &Tensor, norms: &Norms) -> Tensor {
        let hidden = pixels.apply(&self.conv_in);
        let hidden = self.down_blocks.iter().fold(hidden, |hidden, block| block.forward(&hidden, norms));
        let hidden = self.mid_block.forward(&hidden, norms);
        norms.apply_silu(&self.conv_norm_out, &hidden).apply(&self.conv_out)
    }
}

/// Features of the latents' size to pictures.
#[derive(Debug)]
pub struct Decoder {
    conv_in: Conv2d,
    mid_block: MidBlock,
    up_blocks: Vec<UpBlock>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Decoder {
    /// Declares the decoder's variables under `vs`; its levels count from the coarsest.
    pub fn new(vs: &Path, config: &VaeConfig) -> Self {
        let channels: Vec<i64> = config.block_out_channels.iter().rev().copied().collect();
        let groups = config.norm_num_groups;
        let (first, last) = (channels[0], channels[channels.len() - 1]);
        let up_block = |level: usize| {
            let inputs = channels[level.saturating_sub(1)];
            let is_last = level + 1 == channels.len();
            let vs = vs / "up_blocks" / level;
            UpBlock::new(&vs, inputs, channels[level], config.layers_per_block + 1, groups, is_last)
        };
        Self {
            conv_in: conv2d(&(vs / "conv_in"), config.latent_channels, first, 3),
            mid_block: MidBlock::new(&(vs / "mid_block"), first, groups),
            up_blocks: (0..channels.len()).map(up_block).collect(),
            conv_norm_out: group_norm(&(vs / "conv_norm_out"), groups, last, NORM_EPS),
            conv_out: conv2d(&(vs / "conv_out"), last, config.out_channels, 3),
        }
    }

    fn forward(&self, hidden: &Tensor, norms: &Norms) -> Tensor {
        let hidden = self.mid_block.forward(&hidden.apply(&self.conv_in), norms);
        let hidden = self.up_blocks.iter().fold(hidden, |hidden, block| block.forward(&hidden, norms));
        norms.apply_silu(&self.conv_norm_out, &hidden).apply(&self.conv_out)
    }
}

/// What the encoder says of a picture: a normal distribution with independent components.
#[derive(Debug)]
pub struct DiagonalGaussian {
    /// `[batch, latent_channels, height / f, width / f]`.
    pub mean: Tensor,
    /// As `mean`, clamped to `[-30, 20]`.
    pub logvar: Tensor,
}

impl DiagonalGaussian {
    pub(crate) fn of_moments(moments: &Tensor) -> Self {
        let halves = moments.chunk(2, 1);
        Self { mean: halves[0].shallow_clone(), logvar: halves[1].clamp(-30.0, 20.0) }
    }

    /// `mean + exp(logvar / 2) · noise`; `noise` standard normal, shaped as `mean`.
    pub fn sample(&self, noise: &Tensor) -> Tensor {
        &self.mean + (&self.logvar * 0.5).exp() * noise
    }

    /// Divergence from the standard normal, summed over each latent: `[batch]`.
    pub fn kl(&self) -> Tensor {
        let terms = self.mean.square() + self.logvar.exp() - 1.0 - &self.logvar;
        terms.sum_dim_intlist([1, 2, 3].as_slice(), false, None::<Kind>) * 0.5
    }
}

/// The whole autoencoder.
#[derive(Debug)]
pub struct Vae {
    config: VaeConfig,
    encoder: Encoder,
    decoder: Decoder,
    quant_conv: Conv2d,
    post_quant_conv: Conv2d,
}

impl Vae {
    /// Declares the autoencoder's variables under `vs`.
    pub fn new(vs: &Path, config: &VaeConfig) -> Self {
        let latents = config.latent_channels;
        Self {
            config: config.clone(),
            encoder: Encoder::new(&(vs / "encoder"), config),
            decoder: Decoder::new(&(vs / "decoder"), config),
            quant_conv: conv2d(&(vs / "quant_conv"), 2 * latents, 2 * latents, 1),
            post_quant_conv: conv2d(&(vs / "post_quant_conv"), latents, latents, 1),
        }
    }

    /// Loads a published `vae` folder, or that part of a single file; files with the older attention names are read too.
    ///
    /// # Errors
    /// [`WeightsError`] naming the file, and the field or tensor, at fault.
    pub fn load(files: impl Into<ComponentFiles>, options: (Device, Kind)) -> Result<Self, WeightsError> {
        let loaded: Component<VaeConfig, Self> =
            load_component(&files.into(), options, current_name, |vs, config| Self::new(&vs, config))?;
        lay_out_for_drawing(loaded.vs.variables().values());
        Ok(loaded.model)
    }

    /// The sizes it was built with.
    pub fn config(&self) -> &VaeConfig {
        &self.config
    }

    /// The distribution of a picture's latents; `pixels` is `[batch, 3, height, width]` in `[-1, 1]`.
    pub fn encode(&self, pixels: &Tensor) -> DiagonalGaussian {
        DiagonalGaussian::of_moments(&self.moments(pixels, &Norms::Own))
    }

    /// Mean and logarithm of the variance, `[batch, 2 · latent_channels, height / f, width / f]`.
    pub(crate) fn moments(&self, pixels: &Tensor, norms: &Norms) -> Tensor {
        self.encoder.forward(pixels, norms).apply(&self.quant_conv)
    }

    /// Pixels `[batch, 3, f·h, f·w]`, about `[-1, 1]`, of unscaled latents `[batch, latent_channels, h, w]`.
    pub fn decode(&self, latents: &Tensor) -> Tensor {
        self.pixels(latents, &Norms::Own)
    }

    pub(crate) fn pixels(&self, latents: &Tensor, norms: &Norms) -> Tensor {
        self.decoder.forward(&latents.apply(&self.post_quant_conv), norms)
    }
}

/// Files from before 2023 call the attention's layers differently (models.md: deprecated attention blocks).
fn current_name(name: &str) -> Option<String> {
    let renamed = [(".query.", ".to_q."), (".key.", ".to_k."), (".value.", ".to_v."), (".proj_attn.", ".to_out.0.")]
        .iter()
        .fold(name.to_owned(), |name, (old, new)| name.replace(old, new));
    Some(renamed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipa_core::layers::num_parameters;
    use ipa_core::tch::nn::VarStore;

    #[test]
    fn sd15_has_the_published_number_of_parameters() {
        let vs = VarStore::new(Device::Cpu);
        Vae::new(&vs.root(), &VaeConfig::sd15());
        assert_eq!(num_parameters(&vs), 83_653_863);
    }
}
