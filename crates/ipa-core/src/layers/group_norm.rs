//! Group normalisation, alone and before SiLU.

use tch::nn::{Module, Path};
use tch::{Device, Kind, Tensor};

use super::declare;
use crate::autograd::{group_norm_backward, is_grad_enabled, is_wanted, with_backward};
use crate::cuda;

/// Group normalisation with scale and shift per channel (arXiv:1803.08494).
#[derive(Debug)]
pub struct GroupNorm {
    weight: Tensor,
    bias: Tensor,
    groups: i64,
    eps: f64,
}

/// Normalises `channels` in `groups`; `eps` differs between the models' parts.
pub fn group_norm(vs: &Path, groups: i64, channels: i64, eps: f64) -> GroupNorm {
    GroupNorm { weight: declare(vs, "weight", &[channels]), bias: declare(vs, "bias", &[channels]), groups, eps }
}

impl Module for GroupNorm {
    fn forward(&self, hidden: &Tensor) -> Tensor {
        self.on_card(hidden, false).unwrap_or_else(|| self.by_libtorch(hidden))
    }
}

impl GroupNorm {
    fn by_libtorch(&self, hidden: &Tensor) -> Tensor {
        hidden.group_norm(self.groups, Some(&self.weight), Some(&self.bias), self.eps, true)
    }

    /// With a kernel of our own, where there is one and no gradient is wanted.
    fn on_card(&self, hidden: &Tensor, is_silu: bool) -> Option<Tensor> {
        let is_learning = self.weight.requires_grad() || self.bias.requires_grad();
        if is_wanted(hidden) || (is_learning && is_grad_enabled()) {
            return None;
        }
        cuda::group_norm(hidden, [&self.weight, &self.bias], (self.groups, self.eps), is_silu)
    }
}

/// Mean and variance of every group, `[groups, 1]` each, f32.
#[derive(Debug)]
pub struct GroupMoments {
    mean: Tensor,
    var: Tensor,
}

impl GroupNorm {
    /// What [`Module::forward`] normalises by, of features `[1, channels, height, width]`.
    pub fn moments(&self, hidden: &Tensor) -> GroupMoments {
        let groups = hidden.to_kind(Kind::Float).reshape([self.groups, -1]);
        let (var, mean) = groups.var_mean_dim(1, false, true);
        GroupMoments { mean, var }
    }

    /// As [`Module::forward`], normalised by the moments of other features.
    pub fn forward_with(&self, hidden: &Tensor, moments: &GroupMoments) -> Tensor {
        let per_channel = |parameter: &Tensor| parameter.to_kind(Kind::Float).reshape([self.groups, -1]);
        let scale = per_channel(&self.weight) / (&moments.var + self.eps).sqrt();
        let shift = per_channel(&self.bias) - &moments.mean * &scale;
        let along_channels = |factors: Tensor| factors.reshape([1, -1, 1, 1]);
        let normalised = hidden.to_kind(Kind::Float) * along_channels(scale) + along_channels(shift);
        normalised.to_kind(hidden.kind())
    }
}

impl GroupNorm {
    /// `silu(norm(hidden))`, the pair that every residual block begins with.
    ///
    /// Where gradients are wanted on a CPU, the way back keeps only what was read and each group's two moments: the two
    /// results are made again of those.
    ///
    /// # Shapes
    /// - `hidden`, result: `[batch, channels, ..]`
    pub fn forward_silu(&self, hidden: &Tensor) -> Tensor {
        let is_frozen = !(self.weight.requires_grad() || self.bias.requires_grad());
        let is_plain = hidden.device() == Device::Cpu && hidden.kind() == Kind::Float;
        match is_wanted(hidden) {
            true if is_frozen && is_plain => self.silu_remade(hidden),
            true => hidden.apply(self).silu(),
            false => self.on_card(hidden, true).unwrap_or_else(|| in_place(self.by_libtorch(hidden))),
        }
    }

    fn silu_remade(&self, hidden: &Tensor) -> Tensor {
        with_backward(hidden, |hidden| {
            let hidden = hidden.contiguous();
            let (batch, channels) = (hidden.size()[0], hidden.size()[1]);
            let positions = hidden.numel() as i64 / (batch * channels);
            let (weight, bias) = (Some(&self.weight), Some(&self.bias));
            let (normed, mean, rstd) =
                Tensor::native_group_norm(&hidden, weight, bias, batch, channels, positions, self.groups, self.eps);
            let result = in_place(normed);
            let own = Self { weight: self.weight.shallow_clone(), bias: self.bias.shallow_clone(), ..*self };
            let backward = move |gradient: &Tensor| {
                let normed = own.normed(&hidden, &mean, &rstd);
                let gradient = normed.silu_backward(gradient);
                drop(normed);
                group_norm_backward(&gradient, &hidden, [&mean, &rstd], &own.weight, own.groups)
            };
            (result, backward)
        })
    }

    /// What the norm made of `hidden`, from the moments `[batch, groups]` that it found.
    fn normed(&self, hidden: &Tensor, mean: &Tensor, rstd: &Tensor) -> Tensor {
        let (batch, channels) = (hidden.size()[0], hidden.size()[1]);
        let per_channel = |moments: &Tensor| moments.repeat_interleave_self_int(channels / self.groups, 1, None);
        let scale = per_channel(rstd) * &self.weight;
        let shift = &self.bias - per_channel(mean) * &scale;
        let mut along = vec![1; hidden.dim()];
        along[..2].copy_from_slice(&[batch, channels]);
        shift.view(along.as_slice()).addcmul(hidden, &scale.view(along.as_slice()))
    }
}

/// SiLU in the memory of a tensor that nothing else reads.
fn in_place(mut hidden: Tensor) -> Tensor {
    debug_assert!(!is_grad_enabled() || !hidden.requires_grad());
    hidden.silu_()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::Draws;

    fn norm() -> (tch::nn::VarStore, GroupNorm) {
        let vs = tch::nn::VarStore::new(Device::Cpu);
        let norm = group_norm(&vs.root(), 4, 24, 1e-5);
        for (name, mut variable) in vs.variables() {
            variable.set_data(&Draws::seeded(name.len() as u64).normal(&variable.size()));
        }
        (vs, norm)
    }

    #[test]
    fn what_is_made_again_has_the_same_gradient() {
        let (_vs, norm) = norm();
        let hidden = Draws::seeded(1).normal(&[2, 24, 5, 6]) * 3.0 + 1.0;
        let way = |forward: &dyn Fn(&Tensor) -> Tensor| {
            let hidden = hidden.copy().set_requires_grad(true);
            let result = forward(&(&hidden * 2.0));
            (&result * Draws::seeded(7).normal(&result.size())).sum(None).backward();
            (result.detach(), hidden.grad())
        };
        let apart = way(&|hidden| hidden.apply(&norm).silu());
        let together = way(&|hidden| norm.forward_silu(hidden));
        let error = |a: &Tensor, b: &Tensor| ((a - b).abs().max() / b.abs().max()).double_value(&[]);
        assert_eq!(together.0, apart.0);
        assert!(error(&together.1, &apart.1) < 1e-6, "{}", error(&together.1, &apart.1));
        assert_eq!(tch::no_grad(|| norm.forward_silu(&(&hidden * 2.0))), apart.0);
    }

    #[test]
    fn a_norm_that_learns_has_gradients() {
        let (vs, norm) = norm();
        for mut variable in vs.variables().into_values() {
            let _ = variable.requires_grad_(true);
        }
        let hidden = Draws::seeded(1).normal(&[2, 24, 5, 6]).set_requires_grad(true);
        norm.forward_silu(&hidden).sum(None).backward();
        assert!(vs.variables().values().all(|variable| variable.grad().defined()) && hidden.grad().defined());
    }
}
