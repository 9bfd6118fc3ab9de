//! The whole network.

use std::collections::HashMap;

use ipa_core::layers::{Conv2d, GroupNorm, conv2d, group_norm};
use ipa_core::tch::nn::{Path, VarStore};
use ipa_core::tch::{Device, Kind, Tensor};
use ipa_core::{Component, WeightsError, load_component, same_name};
use ipa_formats::ComponentFiles;

use crate::blocks::{Conditions, Flow, Segment, SiteCounter, down_block, mid_block, up_block};
use crate::time::TimeEmbedding;
use crate::{CrossAttentionHook, UnetConfig};

/// Predicts the noise in noisy latents, reading a text context and whatever a hook adds.
#[derive(Debug)]
pub struct Unet {
    config: UnetConfig,
    conv_in: Conv2d,
    time_embedding: TimeEmbedding,
    pub(crate) segments: Vec<Segment>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Unet {
    /// Declares the network's variables under `vs`.
    pub fn new(vs: &Path, config: &UnetConfig) -> Self {
        let first = config.block_out_channels[0];
        let levels = 0..config.block_out_channels.len();
        let mut sites = SiteCounter::default();
        let mut segments = Vec::new();
        segments.extend(levels.clone().flat_map(|level| down_block(vs, config, level, &mut sites)));
        segments.extend(mid_block(vs, config, &mut sites));
        segments.extend(levels.flat_map(|level| up_block(vs, config, level, &mut sites)));
        Self {
            config: config.clone(),
            conv_in: conv2d(&(vs / "conv_in"), config.in_channels, first, 3),
            time_embedding: TimeEmbedding::new(&(vs / "time_embedding"), first, 4 * first),
            segments,
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
        let time_embeds = self.time_embeds(timesteps, latents);
        let conditions = Conditions { time_embeds: &time_embeds, context, hook };
        let segment = |flow, index| self.segment(index, flow, &conditions);
        self.finish((0..self.num_segments()).fold(self.begin(latents), segment))
    }

    /// The timesteps as every segment reads them, for latents like these.
    pub fn time_embeds(&self, timesteps: &Tensor, latents: &Tensor) -> Tensor {
        let timesteps = timesteps.to_kind(Kind::Float).to_device(latents.device()); // MPS has no f64
        self.time_embedding.forward(&timesteps, latents.kind())
    }

    /// What the first segment reads. [`Unet::forward`] is `begin`, all segments in order, `finish`; training calls them
    /// one by one to keep less for the way back.
    pub fn begin(&self, latents: &Tensor) -> Flow {
        let hidden = latents.apply(&self.conv_in);
        Flow { skips: vec![hidden.shallow_clone()], hidden }
    }

    /// How many segments there are: 22 in Stable Diffusion 1.x and 2.x.
    pub fn num_segments(&self) -> usize {
        self.segments.len()
    }

    /// One of them: reads the features and at most the last skip, leaves other features, and pushes skips on the way down.
    ///
    /// # Panics
    /// If there is no segment of that number.
    pub fn segment(&self, index: usize, flow: Flow, conditions: &Conditions) -> Flow {
        self.segments[index].forward(flow, conditions)
    }

    /// The prediction, from what the last segment left.
    pub fn finish(&self, flow: Flow) -> Tensor {
        self.conv_norm_out.forward_silu(&flow.hidden).apply(&self.conv_out)
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
