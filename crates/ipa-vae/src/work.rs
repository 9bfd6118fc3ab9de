//! How much arithmetic a call of the autoencoder is, from its sizes alone.

use ipa_core::Work;

use crate::VaeConfig;

impl VaeConfig {
    /// Decoding one picture, whose latents have so many rows and columns.
    pub fn decode_work(&self, (height, width): (i64, i64)) -> Work {
        let mut channels: Vec<i64> = self.block_out_channels.iter().rev().copied().collect();
        let (first, last) = (channels[0], self.block_out_channels[0]);
        let (mut positions, latents) = (height * width, self.latent_channels);
        let mut work = Work::convolution(positions, latents, latents, 1)
            + Work::convolution(positions, latents, first, 3)
            + mid_block(positions, first);
        channels.insert(0, first);
        for (level, inputs_outputs) in channels.windows(2).enumerate() {
            work = work + level_of(positions, inputs_outputs, self.layers_per_block + 1);
            if level + 2 < channels.len() {
                positions *= 4;
                work = work + Work::convolution(positions, inputs_outputs[1], inputs_outputs[1], 3);
            }
        }
        work + Work::convolution(positions, last, self.out_channels, 3)
    }

    /// Encoding one picture of so many rows and columns of pixels, multiples of [`VaeConfig::downsampling`].
    pub fn encode_work(&self, (height, width): (i64, i64)) -> Work {
        let mut channels = self.block_out_channels.clone();
        let (first, last) = (channels[0], channels[channels.len() - 1]);
        let (mut positions, moments) = (height * width, 2 * self.latent_channels);
        let mut work = Work::convolution(positions, self.in_channels, first, 3);
        channels.insert(0, first);
        for (level, inputs_outputs) in channels.windows(2).enumerate() {
            work = work + level_of(positions, inputs_outputs, self.layers_per_block);
            if level + 2 < channels.len() {
                positions /= 4;
                work = work + Work::convolution(positions, inputs_outputs[1], inputs_outputs[1], 3);
            }
        }
        work + mid_block(positions, last)
            + Work::convolution(positions, last, moments, 3)
            + Work::convolution(positions, moments, moments, 1)
    }
}

fn resnet(positions: i64, inputs: i64, outputs: i64) -> Work {
    let shortcut = if inputs == outputs { Work::default() } else { Work::convolution(positions, inputs, outputs, 1) };
    Work::convolution(positions, inputs, outputs, 3) + Work::convolution(positions, outputs, outputs, 3) + shortcut
}

/// The residual blocks of one level; `inputs_outputs` are the channels before and in it.
fn level_of(positions: i64, inputs_outputs: &[i64], layers: i64) -> Work {
    let [inputs, outputs] = inputs_outputs else { unreachable!("windows of two") };
    resnet(positions, *inputs, *outputs) + resnet(positions, *outputs, *outputs) * (layers - 1) as f64
}

fn mid_block(positions: i64, channels: i64) -> Work {
    resnet(positions, channels, channels) * 2.0
        + Work::linear(positions, channels, 4 * channels)
        + Work::attention(positions, positions, channels)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As PyTorch's `FlopCounterMode` counts diffusers' `AutoencoderKL` of these sizes, exactly.
    #[test]
    fn a_picture_of_sd15_is_as_much_work_as_the_reference_counts() {
        let config = VaeConfig::sd15();
        let attention = (0.008_589_934_592e12, 0.034_359_738_368e12);
        let expected = |convolutions| Work { convolutions, linear: attention.0, attention: attention.1 };
        assert_eq!(config.decode_work((64, 64)), expected(2_471_569_260_544.0));
        assert_eq!(config.encode_work((512, 512)), expected(1_073_708_793_856.0));
    }

    #[test]
    fn convolutions_grow_with_the_picture_and_attention_with_its_square() {
        let config = VaeConfig::sd15();
        let (small, large) = (config.decode_work((32, 48)), config.decode_work((64, 48)));
        assert_eq!(large.convolutions, 2.0 * small.convolutions);
        assert_eq!(large.attention, 4.0 * small.attention);
    }
}
