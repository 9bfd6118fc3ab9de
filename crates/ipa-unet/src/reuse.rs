//! Deep features of one call used again in another (DeepCache, arXiv:2312.00858).
//!
//! From one step to the next the coarse levels change little. A shallow call runs the outermost layers alone, and what
//! would come up to them from below it takes from a call before it.
//!
//! `branch` says how many are run: the last `branch + 1` layers on the way up, and on the way down what they read. 0 is
//! the least. In models of two layers a level, as all of Stable Diffusion, it is the `cache_branch_id` of the package
//! DeepCache for diffusers.

use ipa_core::tch::Tensor;

use crate::blocks::{Conditions, Flow};
use crate::{Unet, UnetConfig};

/// What a call leaves for shallow ones.
#[derive(Debug)]
pub struct DeepFeatures {
    branch: usize,
    /// What the first layer of the branch reads beside its skip.
    hidden: Tensor,
}

impl DeepFeatures {
    /// Those of the last `num` rows of the batch: of a guided call, its conditional half.
    pub fn last_rows(&self, num: i64) -> Self {
        let rows = self.num_rows();
        Self { branch: self.branch, hidden: self.hidden.narrow(0, rows - num, num) }
    }

    /// Rows of the batch that they are of.
    pub fn num_rows(&self) -> i64 {
        self.hidden.size()[0]
    }
}

impl UnetConfig {
    /// How many branches there are: 12 in Stable Diffusion 1.x and 2.x.
    pub fn num_branches(&self) -> usize {
        self.block_out_channels.len() * (self.layers_per_block as usize + 1)
    }
}

impl Unet {
    /// As [`Unet::forward`], bit for bit, with what [`Unet::forward_from`] needs.
    ///
    /// # Shapes
    /// - `latents`: `[batch, in_channels, h, w]`
    /// - result: `[batch, out_channels, h, w]`
    ///
    /// # Panics
    /// If `branch` is not below [`UnetConfig::num_branches`].
    pub fn forward_keeping(&self, branch: usize, latents: &Tensor, conditions: &Conditions) -> (Tensor, DeepFeatures) {
        let first = self.first_of_branch(branch);
        let flow = (0..first).fold(self.begin(latents), |flow, index| self.segment(index, flow, conditions));
        let flow = self.segments[first].resample(flow);
        let features = DeepFeatures { branch, hidden: flow.hidden.shallow_clone() };
        (self.way_out(first, flow, conditions), features)
    }

    /// A shallow call: [`Unet::forward`] with the deep features of another call on as many rows of latents of the same
    /// size; equal to it, bit for bit, if latents and conditions are the other call's too. A hook hears of the layers
    /// that are run, by their own numbers.
    ///
    /// # Shapes
    /// - `latents`: `[batch, in_channels, h, w]`
    /// - result: `[batch, out_channels, h, w]`
    pub fn forward_from(&self, features: &DeepFeatures, latents: &Tensor, conditions: &Conditions) -> Tensor {
        let num_skips = features.branch + 1;
        let mut flow = self.begin(latents);
        for segment in &self.segments {
            if flow.skips.len() < num_skips {
                flow = segment.resample(flow);
            }
            if flow.skips.len() < num_skips {
                flow = segment.layer(flow, conditions);
            }
        }
        let flow = Flow { hidden: features.hidden.shallow_clone(), ..flow };
        self.way_out(self.first_of_branch(features.branch), flow, conditions)
    }

    /// The first segment of a branch on the way up.
    fn first_of_branch(&self, branch: usize) -> usize {
        assert!(branch < self.config().num_branches(), "there is no branch {branch}");
        self.num_segments() - 1 - branch
    }

    /// From the layer of segment `first`, whose change of size is done, to the prediction.
    fn way_out(&self, first: usize, flow: Flow, conditions: &Conditions) -> Tensor {
        let flow = self.segments[first].layer(flow, conditions);
        self.finish((first + 1..self.num_segments()).fold(flow, |flow, index| self.segment(index, flow, conditions)))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeMap;

    use ipa_core::noise::Draws;
    use ipa_core::tch::nn::VarStore;
    use ipa_core::tch::{Device, Kind};

    use super::*;
    use crate::{CrossAttentionHook, NoHook, SiteId};

    /// Remembers the layers that it hears of.
    #[derive(Default)]
    struct Heard(RefCell<Vec<usize>>);

    impl CrossAttentionHook for Heard {
        fn attend(&self, SiteId(site): SiteId, _query: &Tensor) -> Option<Tensor> {
            self.0.borrow_mut().push(site);
            None
        }
    }

    fn tiny(config: &UnetConfig) -> Unet {
        let vs = VarStore::new(Device::Cpu);
        let unet = Unet::new(&vs.root(), config);
        let mut draws = Draws::seeded(3);
        for (_, mut variable) in vs.variables().into_iter().collect::<BTreeMap<_, _>>() {
            let values = draws.normal(&variable.size()) * 0.1;
            variable.set_data(&values);
        }
        unet
    }

    fn like_sd15() -> UnetConfig {
        UnetConfig {
            norm_num_groups: 4,
            attention_head_dim: crate::PerLevel::All(2),
            ..UnetConfig::like_sd15(vec![8, 16, 16], 12)
        }
    }

    /// Three layers a level, and no attention at the finest: what XL and others differ in.
    fn unlike_sd15() -> UnetConfig {
        let names = |names: [&str; 3]| names.map(str::to_owned).to_vec();
        UnetConfig {
            layers_per_block: 3,
            down_block_types: names(["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"]),
            up_block_types: names(["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"]),
            ..like_sd15()
        }
    }

    #[test]
    fn a_shallow_call_with_its_own_features_is_the_whole_call() {
        for config in [like_sd15(), unlike_sd15()] {
            let unet = tiny(&config);
            let mut draws = Draws::seeded(1);
            let (latents, context) = (draws.normal(&[2, 4, 9, 13]), draws.normal(&[2, 5, 12]));
            let timestep = Tensor::from(481.0);
            let whole = unet.forward(&latents, &timestep, &context, &NoHook);
            let time_embeds = unet.time_embeds(&timestep, &latents);
            let conditions = Conditions { time_embeds: &time_embeds, context: &context, hook: &NoHook };
            for branch in 0..config.num_branches() {
                let (prediction, features) = unet.forward_keeping(branch, &latents, &conditions);
                assert!(prediction.equal(&whole), "branch {branch}");
                let again = || unet.forward_from(&features, &latents, &conditions);
                assert!(again().equal(&whole) && again().equal(&whole), "branch {branch}");
                let other = draws.normal(&latents.size());
                assert!(!unet.forward_from(&features, &other, &conditions).equal(&whole), "branch {branch}");
            }
        }
    }

    #[test]
    fn a_hook_hears_of_the_layers_that_are_run() {
        let (config, heard) = (like_sd15(), Heard::default());
        let unet = tiny(&config);
        let (latents, context) = (
            Tensor::zeros([1, 4, 8, 8], (Kind::Float, Device::Cpu)),
            Tensor::zeros([1, 5, 12], (Kind::Float, Device::Cpu)),
        );
        let time_embeds = unet.time_embeds(&Tensor::from(9.0), &latents);
        let conditions = Conditions { time_embeds: &time_embeds, context: &context, hook: &heard };
        // Two levels with attention: sites 0 to 3 down, 4 in the middle, 5 to 10 up.
        for (branch, sites) in [(0, vec![10]), (2, vec![0, 1, 8, 9, 10]), (4, vec![0, 1, 2, 6, 7, 8, 9, 10])] {
            let (_, features) = unet.forward_keeping(branch, &latents, &conditions);
            heard.0.borrow_mut().clear();
            let _ = unet.forward_from(&features, &latents, &conditions);
            assert_eq!(heard.0.take(), sites, "branch {branch}");
        }
    }
}
