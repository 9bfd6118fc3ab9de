//! The whole network.

use std::collections::HashMap;

use ipa_core::layers::{Conv2d, GroupNorm, conv2d, group_norm};
use ipa_core::tch::nn::{Path, VarStore};
use ipa_core::tch::{Device, Kind, Tensor};
use ipa_core::{Component, WeightsError, load_component, same_name};
use ipa_formats::ComponentFiles;

use crate::blocks::{Conditions, DownBlock, MidBlock, SiteCounter, UpBlock};
use crate::time::TimeEmbedding;
use crate::{CrossAttentionHook, UnetConfig};

/// Predicts the noise in noisy latents, reading a text context and whatever a hook adds.
#[derive(Debug)]
pub struct Unet {
    config: UnetConfig,
    conv_in: Conv2d,
    time_embedding: TimeEmbedding,
    down_blocks: Vec<DownBlock>,
    mid_block: MidBlock,
    up_blocks: Vec<UpBlock>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Unet {
    /// Declares the network's variables under `vs`.
    pub fn new(vs: &Path, config: &UnetConfig) -> Self {
        let first = config.block_out_channels[0];
        let levels = 0..config.block_out_channels.len();
        let mut sites = SiteCounter::default();
        let down_block = |level| DownBlock::new(&(vs / "down_blocks" / level), config, level, &mut sites);
        let down_blocks = levels.clone().map(down_block).collect();
        let mid_block = MidBlock::new(&(vs / "mid_block"), config, &mut sites);
        let up_block = |level| UpBlock::new(&(vs / "up_blocks" / level), config, level, &mut sites);
        let up_blocks = levels.map(up_block).collect();
        Self {
            config: config.clone(),
            conv_in: conv2d(&(vs / "conv_in"), config.in_channels, first, 3),
            time_embedding: TimeEmbedding::new(&(vs / "time_embedding"), first, 4 * first),
            down_blocks,
            mid_block,
            up_blocks,
            conv_norm_out: group_norm(&(vs / "conv_norm_out"), config.norm_num_groups, first, config.norm_eps),
            conv_out: conv2d(&(vs / "conv_out"), first, config.out_channels, 3),
        }
    }

    /// Loads a published `unet` folder, or that part of a single file.
    ///
    /// # Errors
    /// [`WeightsError`] naming the file, and the field or tensor, at fault.
    pub fn load(files: impl Into<ComponentFiles>, options: (Device, Kind)) -> Result<Self, WeightsError> {
        Ok(Self::load_with_variables(files, options)?.model)
    }

    /// As [`Unet::load`], with the variables by name: training reads K and V from them.
    ///
    /// # Errors
    /// As [`Unet::load`].
    pub fn load_with_variables(
        files: impl Into<ComponentFiles>,
        options: (Device, Kind),
    ) -> Result<Component<UnetConfig, Self>, WeightsError> {
        load_component(&files.into(), options, same_name, |vs, config| Self::new(&vs, config))
    }

    /// The same network with some of its weights replaced; all others are shared, so that it costs no more memory than
    /// those and leaves this one as it is.
    ///
    /// `variables` are this network's, `patches` the replacements, of the same shapes, by name.
    ///
    /// # Panics
    /// If `variables` lacks one.
    pub fn patched(&self, variables: &HashMap<String, Tensor>, patches: &HashMap<String, Tensor>) -> Self {
        let any = variables.values().next().expect("a network has variables");
        let mut vs = VarStore::new(any.device());
        vs.set_kind(any.kind());
        let patched = Self::new(&vs.root(), &self.config);
        for (name, mut variable) in vs.variables() {
            variable.set_data(patches.get(&name).unwrap_or_else(|| &variables[&name]));
        }
        patched
    }

    /// The sizes it was built with.
    pub fn config(&self) -> &UnetConfig {
        &self.config
    }

    /// One denoising call.
    ///
    /// # Shapes
    /// - `latents`: `[batch, in_channels, h, w]`, any `h` and `w`
    /// - `timesteps`: one number or `[batch]`
    /// - `context`: `[batch, tokens, cross_attention_dim]`
    /// - result: `[batch, out_channels, h, w]`
    pub fn forward(
        &self,
        latents: &Tensor,
        timesteps: &Tensor,
        context: &Tensor,
        hook: &dyn CrossAttentionHook,
    ) -> Tensor {
        let timesteps = timesteps.to_kind(Kind::Float).to_device(latents.device()); // MPS has no f64
        let time_embeds = self.time_embedding.forward(&timesteps, latents.kind());
        let conditions = Conditions { time_embeds: &time_embeds, context, hook };
        let mut hidden = latents.apply(&self.conv_in);
        let mut skips = vec![hidden.shallow_clone()];
        for block in &self.down_blocks {
            hidden = block.forward(hidden, &conditions, &mut skips);
        }
        hidden = self.mid_block.forward(&hidden, &conditions);
        for block in &self.up_blocks {
            hidden = block.forward(hidden, &conditions, &mut skips);
        }
        hidden.apply(&self.conv_norm_out).silu().apply(&self.conv_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipa_core::layers::num_parameters;

    #[test]
    fn sd15_has_the_published_number_of_parameters() {
        let vs = VarStore::new(Device::Cpu);
        Unet::new(&vs.root(), &UnetConfig::sd15());
        assert_eq!(num_parameters(&vs), 859_520_964);
    }

    #[test]
    fn sd21_has_the_published_number_of_parameters() {
        let vs = VarStore::new(Device::Cpu);
        Unet::new(&vs.root(), &UnetConfig::sd21());
        assert_eq!(num_parameters(&vs), 865_910_724);
    }

    /// All 2,567,463,684 but the 5,245,440 of the embedding that it adds to time.
    #[test]
    fn sdxl_has_the_published_number_of_parameters() {
        let vs = VarStore::new(Device::Cpu);
        Unet::new(&vs.root(), &UnetConfig::sdxl());
        assert_eq!(num_parameters(&vs), 2_567_463_684 - (2816 * 1280 + 1280) - (1280 * 1280 + 1280));
    }

    #[test]
    fn every_site_is_where_the_config_says() {
        for config in [UnetConfig::sd15(), UnetConfig::sdxl()] {
            let vs = VarStore::new(Device::Cpu);
            Unet::new(&vs.root(), &config);
            let variables = vs.variables();
            for site in config.sites() {
                let to_q = &variables[&format!("{}.to_q.weight", site.name)];
                assert_eq!(to_q.size(), [site.width, site.width], "{}", site.name);
            }
        }
    }
}
