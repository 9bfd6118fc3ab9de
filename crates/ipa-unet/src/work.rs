//! How much arithmetic a call of the UNet is, from its sizes alone.

use crate::UnetConfig;

/// Sizes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallSize {
    /// Pictures at once.
    pub batch: i64,
    /// Height and width of the latents.
    pub latents: (i64, i64),
    /// Tokens of the text.
    pub text_tokens: i64,
    /// Tokens that a hook attends to beside them; 0 without one.
    pub image_tokens: i64,
}

/// What an [`Operation`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OperationKind {
    /// A convolution.
    Convolution,
    /// A matrix over features.
    Linear,
    /// A matrix over the text, whose features do not depend on anything before them.
    TextLinear,
    /// Attention of the features to themselves.
    SelfAttention,
    /// Attention to the text.
    TextAttention,
    /// What a hook adds to that.
    ImageAttention,
}

/// One product of a call, in execution order.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Operation {
    /// What it is.
    pub kind: OperationKind,
    /// Floating-point operations, two for each multiplication and addition.
    pub flop: f64,
}

impl UnetConfig {
    /// The products of one call: all but what is done element by element.
    pub fn operations(&self, size: CallSize) -> Vec<Operation> {
        self.work(size).operations
    }

    /// Those of a call that takes deep features from another: [`Unet::forward_from`](crate::Unet::forward_from).
    ///
    /// # Panics
    /// If `branch` is not below [`UnetConfig::num_branches`].
    pub fn shallow_operations(&self, size: CallSize, branch: usize) -> Vec<Operation> {
        let Work { operations, skips, layers_up, .. } = self.work(size);
        let (end, start) = (skips[branch], layers_up[layers_up.len() - 1 - branch]);
        [&operations[..end], &operations[start..]].concat()
    }

    fn work(&self, size: CallSize) -> Work<'_> {
        let channels = &self.block_out_channels;
        let last = channels.len() - 1;
        let mut work = Work { config: self, size, operations: Vec::new(), skips: Vec::new(), layers_up: Vec::new() };
        work.convolution(0, self.in_channels, channels[0], 3);
        let mut skips = vec![channels[0]];
        work.mark_skip();
        for level in 0..=last {
            if level > 0 {
                work.convolution(level, channels[level - 1], channels[level - 1], 3);
                skips.push(channels[level - 1]);
                work.mark_skip();
            }
            let mut inputs = channels[level.saturating_sub(1)];
            for _ in 0..self.layers_per_block {
                work.layer(level, inputs, self.down_has_attention(level));
                inputs = channels[level];
                skips.push(inputs);
                work.mark_skip();
            }
        }
        work.layer(last, channels[last], true);
        work.layer(last, channels[last], false);
        for level in (0..=last).rev() {
            let mut inputs = channels[(level + 1).min(last)];
            if level < last {
                work.convolution(level, inputs, inputs, 3);
            }
            for _ in 0..=self.layers_per_block {
                let skip = skips.pop().expect("as many skips as layers on the way up");
                work.layers_up.push(work.operations.len());
                work.layer(level, inputs + skip, self.up_has_attention(last - level));
                inputs = channels[level];
            }
        }
        work.convolution(0, channels[0], self.out_channels, 3);
        work
    }
}

struct Work<'a> {
    config: &'a UnetConfig,
    size: CallSize,
    operations: Vec<Operation>,
    /// By skip, how many operations made it and all before it.
    skips: Vec<usize>,
    /// By layer on the way up, how many operations come before it and after its change of size.
    layers_up: Vec<usize>,
}

impl Work<'_> {
    fn mark_skip(&mut self) {
        self.skips.push(self.operations.len());
    }

    fn add(&mut self, kind: OperationKind, multiplications: i64) {
        self.operations.push(Operation { kind, flop: 2.0 * self.size.batch as f64 * multiplications as f64 });
    }

    /// Positions of a level, counted from the finest; a stride of 2 rounds up.
    fn positions(&self, level: usize) -> i64 {
        let halved = |side: i64| (0..level).fold(side, |side, _| (side + 1) / 2);
        halved(self.size.latents.0) * halved(self.size.latents.1)
    }

    fn convolution(&mut self, level: usize, inputs: i64, outputs: i64, kernel: i64) {
        self.add(OperationKind::Convolution, self.positions(level) * inputs * outputs * kernel * kernel);
    }

    fn linear(&mut self, level: usize, inputs: i64, outputs: i64) {
        self.add(OperationKind::Linear, self.positions(level) * inputs * outputs);
    }

    /// A residual block and perhaps a transformer.
    fn layer(&mut self, level: usize, inputs: i64, has_attention: bool) {
        let (width, time_width) = (self.config.block_out_channels[level], 4 * self.config.block_out_channels[0]);
        self.add(OperationKind::TextLinear, time_width * width); // of the timestep, which nothing comes before either
        self.convolution(level, inputs, width, 3);
        self.convolution(level, width, width, 3);
        if inputs != width {
            self.convolution(level, inputs, width, 1);
        }
        if has_attention {
            let project = if self.config.use_linear_projection { Self::project } else { Self::project_by_convolution };
            project(self, level, width);
            (0..self.config.transformer_layers_per_block.at(level)).for_each(|_| self.transformer(level, width));
            project(self, level, width);
        }
    }

    fn project(&mut self, level: usize, width: i64) {
        self.linear(level, width, width);
    }

    fn project_by_convolution(&mut self, level: usize, width: i64) {
        self.convolution(level, width, width, 1);
    }

    fn transformer(&mut self, level: usize, width: i64) {
        let CallSize { text_tokens, image_tokens, .. } = self.size;
        let positions = self.positions(level);
        self.linear(level, width, 3 * width);
        self.add(OperationKind::SelfAttention, 2 * positions * positions * width);
        self.linear(level, width, width);
        self.linear(level, width, width);
        self.add(OperationKind::TextLinear, 2 * text_tokens * self.config.cross_attention_dim * width);
        self.add(OperationKind::TextAttention, 2 * positions * text_tokens * width);
        self.add(OperationKind::ImageAttention, 2 * positions * image_tokens * width);
        self.linear(level, width, width);
        self.linear(level, width, 8 * width);
        self.linear(level, 4 * width, width);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tera(config: &UnetConfig, size: CallSize, kinds: &[OperationKind]) -> f64 {
        let operations = config.operations(size);
        operations.iter().filter(|one| kinds.contains(&one.kind)).map(|one| one.flop).sum::<f64>() / 1e12
    }

    /// As PyTorch's `FlopCounterMode` counts diffusers' model: the time embedding, 4 MFLOP, aside.
    #[test]
    fn a_guided_call_of_sd15_is_a_tera_and_a_half() {
        let size = CallSize { batch: 2, latents: (64, 64), text_tokens: 77, image_tokens: 0 };
        let (config, close) = (UnetConfig::sd15(), |found: f64, expected: f64| (found - expected).abs() < 1e-5);
        use OperationKind::{Convolution, ImageAttention, Linear, SelfAttention, TextAttention, TextLinear};
        let parts = [
            (tera(&config, size, &[Convolution]), 0.887_892),
            (tera(&config, size, &[Linear, TextLinear]), 0.466_550),
            (tera(&config, size, &[SelfAttention, TextAttention]), 0.252_105),
        ];
        assert!(parts.iter().all(|&(found, expected)| close(found, expected)), "{parts:?}");
        assert_eq!(tera(&config, size, &[ImageAttention]), 0.0);
    }

    /// The least: first and last convolution, and one layer of 320 features at 64², 0.049 TFLOP of convolutions (of 640
    /// features, 320 and the 1×1 beside them), 0.046 of attention to itself and the text, 0.032 of matrices.
    #[test]
    fn the_least_branch_of_sd15_is_a_twelfth_of_a_call() {
        let size = CallSize { batch: 2, latents: (64, 64), text_tokens: 77, image_tokens: 4 };
        let config = UnetConfig::sd15();
        let total = |operations: Vec<Operation>| operations.iter().map(|one| one.flop).sum::<f64>() / 1e12;
        let branches: Vec<f64> =
            (0..config.num_branches()).map(|branch| total(config.shallow_operations(size, branch))).collect();
        assert_eq!(branches.len(), 12);
        assert!((branches[0] - 0.1269).abs() < 1e-3, "{branches:?}");
        assert!(branches.is_sorted() && branches[11] < total(config.operations(size)), "{branches:?}");
    }

    #[test]
    fn a_batch_is_so_many_times_the_work() {
        let size = |batch| CallSize { batch, latents: (13, 10), text_tokens: 77, image_tokens: 4 };
        let total = |batch| UnetConfig::sd21().operations(size(batch)).iter().map(|one| one.flop).sum::<f64>();
        assert_eq!(total(3), 3.0 * total(1));
    }
}
