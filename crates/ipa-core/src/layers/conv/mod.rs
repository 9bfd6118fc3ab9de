//! Convolutions.

use std::sync::OnceLock;

use tch::nn::{Module, Path};
use tch::{Device, Kind, Tensor};

use super::{columns, declare};
#[cfg(target_arch = "x86_64")]
use super::{few_positions, few_tiles};
use crate::autograd::{is_grad_enabled, is_wanted, with_backward};
use crate::cuda::is_half_on_card;
use crate::winograd::{self, Way};

mod pointwise;

/// Two-dimensional convolution with bias.
#[derive(Debug)]
pub struct Conv2d {
    weight: Tensor,
    bias: Option<Tensor>,
    stride: i64,
    padding: i64,
    /// Its weights for Winograd's algorithm, once that has been of use.
    transformed: OnceLock<Tensor>,
}

/// A convolution that keeps height and width: odd `kernel`, stride 1, padded by `kernel / 2`.
pub fn conv2d(vs: &Path, inputs: i64, outputs: i64, kernel: i64) -> Conv2d {
    conv2d_strided(vs, inputs, outputs, kernel, 1, kernel / 2)
}

/// A convolution with its own stride and padding.
pub fn conv2d_strided(vs: &Path, inputs: i64, outputs: i64, kernel: i64, stride: i64, padding: i64) -> Conv2d {
    let bias = Some(declare(vs, "bias", &[outputs]));
    Conv2d {
        weight: declare(vs, "weight", &[outputs, inputs, kernel, kernel]),
        bias,
        stride,
        padding,
        transformed: OnceLock::new(),
    }
}

/// Cuts an image into `patch`×`patch` squares and projects each (no bias), as vision towers do.
pub fn patch_conv2d(vs: &Path, inputs: i64, outputs: i64, patch: i64) -> Conv2d {
    let weight = declare(vs, "weight", &[outputs, inputs, patch, patch]);
    Conv2d { weight, bias: None, stride: patch, padding: 0, transformed: OnceLock::new() }
}

/// Lays a model's variables out as drawing reads them fastest; numbers are the same.
///
/// Cards convolve in half precision with channels last, and lay weights that are not so out anew at every call: 2.7 ms of 13 in
/// a call of Stable Diffusion 1.5's UNet on an H200. Features come out with channels last then, which nothing but convolutions
/// and [`GroupNorm`](super::GroupNorm) without gradients is the faster for: training leaves weights as they are.
pub fn lay_out_for_drawing<'a>(variables: impl IntoIterator<Item = &'a Tensor>) {
    for variable in variables {
        let is_kernel = variable.size4().is_ok_and(|(.., height, width)| height * width > 1);
        if is_kernel && is_half_on_card(variable) {
            let last = variable.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2]);
            variable.shallow_clone().set_data(&last);
        }
    }
}

impl Module for Conv2d {
    fn forward(&self, hidden: &Tensor) -> Tensor {
        let kernel = &self.weight.size()[2..];
        let is_frozen = !self.weight.requires_grad();
        match (self.stride, self.padding, kernel) {
            (1, 1, &[3, 3]) if is_frozen && winograd::suits(hidden, &self.weight) => self.by_winograd(hidden),
            (1, 0, &[1, 1]) if is_frozen && hidden.device() == Device::Cpu => self.by_matrix(hidden),
            #[cfg(target_arch = "x86_64")]
            (1, 1, _) if is_frozen && self.is_mostly_weights(hidden) && few_positions::suits(&self.weight) => {
                self.by_few_positions(hidden)
            }
            _ if is_frozen && self.is_mostly_weights(hidden) => self.by_columns(hidden),
            (stride, padding, _) => {
                hidden.conv2d(&self.weight, self.bias.as_ref(), [stride; 2], [padding; 2], [1, 1], 1)
            }
        }
    }
}

impl Conv2d {
    fn by_winograd(&self, hidden: &Tensor) -> Tensor {
        let bias = self.bias.as_ref();
        if !is_grad_enabled() {
            // Kept: drawing calls it many times.
            let weights = self.transformed.get_or_init(|| winograd::transformed(&self.weight));
            return winograd::convolved(hidden, weights, bias, Way::Forward);
        }
        let forward =
            |hidden: &Tensor| winograd::convolved(hidden, &winograd::transformed(&self.weight), bias, Way::Forward);
        if !is_wanted(hidden) {
            return forward(hidden);
        }
        // Not kept: transformed weights take more memory than what libtorch would keep of features.
        with_backward(hidden, |hidden| {
            let weight = self.weight.shallow_clone();
            let backward = move |gradient: &Tensor| {
                winograd::convolved(gradient, &winograd::transformed(&weight), None, Way::Back)
            };
            (forward(hidden), backward)
        })
    }

    /// Whether there are so few positions that libtorch's convolution waits for weights most of the time.
    fn is_mostly_weights(&self, hidden: &Tensor) -> bool {
        let (batch, inputs, height, width) = hidden.size4().unwrap_or_default();
        let positions = height * width / (self.stride * self.stride);
        (hidden.device(), hidden.kind(), self.weight.kind()) == (Device::Cpu, Kind::Float, Kind::Float)
            && batch > 0
            && inputs >= 256
            && positions <= 256
            && batch * positions <= 1024
    }

    #[cfg(target_arch = "x86_64")]
    fn by_few_positions(&self, hidden: &Tensor) -> Tensor {
        let convolved =
            if few_tiles::suits(hidden, &self.weight) { few_tiles::convolved } else { few_positions::convolved };
        let forward = |hidden: &Tensor| convolved(hidden, &self.weight, self.bias.as_ref(), Way::Forward);
        if !is_wanted(hidden) {
            return forward(hidden);
        }
        with_backward(hidden, |hidden| {
            let weight = self.weight.shallow_clone();
            (forward(hidden), move |gradient: &Tensor| convolved(gradient, &weight, None, Way::Back))
        })
    }

    fn by_columns(&self, hidden: &Tensor) -> Tensor {
        let window = columns::Window { kernel: self.weight.size()[2], stride: self.stride, padding: self.padding };
        if !is_wanted(hidden) {
            return columns::convolved(hidden, &self.weight, self.bias.as_ref(), window);
        }
        with_backward(hidden, |hidden| {
            let (size, weight) = (hidden.size(), self.weight.shallow_clone());
            let backward = move |gradient: &Tensor| columns::gradient(gradient, &weight, &size, window);
            (columns::convolved(hidden, &self.weight, self.bias.as_ref(), window), backward)
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use tch::nn::VarStore;

    use super::*;
    use crate::FewerProducts;
    use crate::noise::Draws;
    #[cfg(target_arch = "x86_64")]
    use crate::{kernel::Instructions, parallel::is_shared};

    pub(super) fn filled(vs: &VarStore) {
        for (name, mut variable) in vs.variables() {
            variable.set_data(&Draws::seeded(name.len() as u64).normal(&variable.size()));
        }
    }

    /// Result and gradient.
    fn both_ways(conv: &Conv2d, hidden: &Tensor) -> (Tensor, Tensor) {
        let hidden = hidden.copy().set_requires_grad(true);
        let result = hidden.apply(conv);
        (&result * Draws::seeded(7).normal(&result.size()).to_kind(result.kind())).sum(None).backward();
        (result.detach(), hidden.grad())
    }

    /// Asserts that it is libtorch's convolution in double precision.
    #[track_caller]
    fn assert_is_libtorchs(vs: &VarStore, conv: &Conv2d, hidden: &Tensor) {
        filled(vs);
        assert!(conv.is_mostly_weights(hidden));
        let found = both_ways(conv, hidden);
        let drawn = tch::no_grad(|| hidden.apply(conv));
        // With fewer products drawing may take other tiles than training.
        assert!(winograd::is_enabled() || drawn == found.0, "drawing is not as training for {:?}", hidden.size());
        let exact = Conv2d {
            weight: conv.weight.to_kind(Kind::Double),
            bias: conv.bias.as_ref().map(|bias| bias.to_kind(Kind::Double)),
            transformed: OnceLock::new(),
            ..*conv
        };
        let exact = both_ways(&exact, &hidden.to_kind(Kind::Double));
        let error = |a: &Tensor, b: &Tensor| ((a - b).abs().max() / b.abs().max()).double_value(&[]);
        let errors = [(&found.0, &exact.0), (&found.1, &exact.1), (&drawn, &exact.0)].map(|(a, b)| error(a, b));
        // libtorch's own sums of 2,304 products are 1.3e-6 off on some processors.
        assert!(errors.iter().all(|error| *error < 2e-6), "{errors:?} for {:?}", hidden.size());
    }

    #[test]
    fn by_columns_it_is_the_convolution_both_ways() {
        for (batch, stride, height, width) in [(1, 1, 8, 8), (3, 2, 16, 13), (2, 1, 1, 2), (1, 3, 9, 2)] {
            let vs = VarStore::new(Device::Cpu);
            // 7 outputs: not what whole rows of vectors need.
            let conv = conv2d_strided(&vs.root(), 256, 7, 3, stride, 1);
            let hidden = Draws::seeded(1).normal(&[batch, 256, height, width]);
            assert_is_libtorchs(&vs, &conv, &hidden);
        }
    }

    #[test]
    fn with_few_positions_it_is_the_convolution_both_ways() {
        // Whole panels and blocks of channels, and what is left of each.
        for (batch, inputs, outputs, height, width) in
            [(1, 256, 8, 8, 8), (2, 264, 24, 16, 16), (3, 256, 40, 5, 7), (1, 320, 16, 1, 2)]
        {
            let vs = VarStore::new(Device::Cpu);
            let conv = conv2d(&vs.root(), inputs, outputs, 3);
            let hidden = Draws::seeded(1).normal(&[batch, inputs, height, width]);
            #[cfg(target_arch = "x86_64")]
            assert_eq!(few_positions::suits(&conv.weight), Instructions::found().is_some() && is_shared());
            assert_is_libtorchs(&vs, &conv, &hidden);
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn with_few_tiles_it_is_the_convolution_both_ways() {
        if Instructions::found().is_none() || !is_shared() {
            eprintln!("skipped: this processor has neither AVX-512 nor AVX2");
            return;
        }
        // Channels that come out even with what is read and written at a time, and others; panels across pictures.
        for (batch, inputs, outputs, height, width) in [
            (1, 256, 128, 16, 16),
            (2, 272, 144, 8, 8),
            (3, 304, 16, 16, 16),
            (1, 256, 272, 4, 32),
            (16, 256, 16, 4, 6),
        ] {
            let vs = VarStore::new(Device::Cpu);
            let conv = conv2d(&vs.root(), inputs, outputs, 3);
            let hidden = Draws::seeded(1).normal(&[batch, inputs, height, width]);
            assert!(!few_tiles::suits(&hidden, &conv.weight));
            let _fewer = FewerProducts::new();
            assert!(few_tiles::suits(&hidden, &conv.weight));
            assert_is_libtorchs(&vs, &conv, &hidden);
        }
    }
}
