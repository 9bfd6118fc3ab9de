//! How much arithmetic a call of a tower is, from its sizes alone.

use ipa_core::Work;

use crate::{TextConfig, VisionConfig};

impl VisionConfig {
    /// One picture.
    pub fn work(&self) -> Work {
        let (side, width) = (self.image_size / self.patch_size, self.hidden_size);
        let layer = layer(side * side + 1, width, self.intermediate_size);
        Work::convolution(side * side, 3, width, self.patch_size)
            + layer * self.num_hidden_layers as f64
            + Work::linear(1, width, self.projection_dim)
    }
}

impl TextConfig {
    /// One prompt of so many tokens; what the causal mask hides counts too, as it is computed.
    pub fn work(&self, tokens: i64) -> Work {
        let layers = layer(tokens, self.hidden_size, self.intermediate_size) * self.num_hidden_layers as f64;
        match self.has_projection() {
            true => layers + Work::linear(1, self.hidden_size, self.projection_dim),
            false => layers,
        }
    }
}

fn layer(tokens: i64, width: i64, feed_forward: i64) -> Work {
    Work::linear(tokens, width, 4 * width + 2 * feed_forward) + Work::attention(tokens, tokens, width)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As PyTorch's `FlopCounterMode` counts transformers' models of these sizes, exactly.
    #[test]
    fn towers_are_as_much_work_as_the_reference_counts() {
        let of = |work: Work| [work.convolutions, work.linear, work.attention];
        for (config, expected) in [
            (VisionConfig::vit_h(), [385_351_680.0, 323_383_459_840.0, 10_821_468_160.0]),
            (VisionConfig::vit_l(), [308_281_344.0, 155_224_375_296.0, 6_492_880_896.0]),
            (VisionConfig::vit_bigg(), [500_957_184.0, 945_893_212_160.0, 21_101_862_912.0]),
        ] {
            assert_eq!(of(config.work()), expected, "{config:?}");
        }
        assert_eq!(of(TextConfig::clip_l().work(77)), [0.0, 13_079_937_024.0, 218_566_656.0]);
    }
}
