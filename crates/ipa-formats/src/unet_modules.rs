//! Which modules a UNet has, by the structure that its configuration tells.
//!
//! Source: diffusers' `models/unets/unet_2d_condition.py` and `unet_2d_blocks.py` (version 0.42), the block types of
//! Stable Diffusion 1.x, 2.x and XL.

use serde::Deserialize;
use serde_json::Value;

use crate::UnetLayers;

/// More levels and layers than any published UNet has.
const MAX_COUNT: usize = 64;

/// How many blocks of which kind a UNet has.
#[derive(Clone, Debug)]
pub(crate) struct UnetStructure {
    blocks: Blocks,
    attention: UnetLayers,
}

#[derive(Clone, Debug, Deserialize)]
struct Blocks {
    down_block_types: Vec<String>,
    up_block_types: Vec<String>,
    block_out_channels: Vec<usize>,
    #[serde(default = "two")]
    layers_per_block: Count,
    #[serde(default)]
    addition_embed_type: Option<String>,
    #[serde(default = "a_block")]
    mid_block_type: Option<String>,
}

/// One number for all levels, or one for each.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Count {
    All(usize),
    Each(Vec<usize>),
}

fn two() -> Count {
    Count::All(2)
}

fn a_block() -> Option<String> {
    Some("UNetMidBlock2DCrossAttn".to_owned())
}

impl Count {
    fn at(&self, level: usize) -> usize {
        match self {
            Count::All(count) => *count,
            Count::Each(counts) => counts.get(level).copied().unwrap_or_default(),
        }
    }
}

impl UnetStructure {
    /// That of Stable Diffusion 1.x and 2.x.
    pub(crate) fn sd() -> Self {
        Self::published(&[320, 640, 1280, 1280], 16, &[false, true, true, true], None)
    }

    /// That of Stable Diffusion XL.
    pub(crate) fn sdxl() -> Self {
        Self::published(&[320, 640, 1280], 70, &[true, true, false], Some("text_time".to_owned()))
    }

    fn published(channels: &[usize], num_sites: usize, up_attends: &[bool], addition: Option<String>) -> Self {
        let types = |attends: &bool, half: &str| format!("{}{half}Block2D", if *attends { "CrossAttn" } else { "" });
        let blocks = Blocks {
            down_block_types: up_attends.iter().rev().map(|attends| types(attends, "Down")).collect(),
            up_block_types: up_attends.iter().map(|attends| types(attends, "Up")).collect(),
            block_out_channels: channels.to_vec(),
            layers_per_block: two(),
            addition_embed_type: addition,
            mid_block_type: a_block(),
        };
        Self { blocks, attention: UnetLayers::of_family(num_sites).unwrap_or_default() }
    }

    /// That of a `config.json`.
    ///
    /// # Errors
    /// What of it is not known here.
    pub(crate) fn of(config: &Value) -> Result<Self, String> {
        let blocks = Blocks::deserialize(config).map_err(|error| error.to_string())?;
        match blocks.problem() {
            Some(problem) => Err(problem),
            None => Ok(Self { blocks, attention: UnetLayers::from_config(config).map_err(|error| error.to_string())? }),
        }
    }

    /// Whether it takes pooled text and sizes too, as Stable Diffusion XL does.
    pub(crate) fn is_xl(&self) -> bool {
        self.blocks.addition_embed_type.as_deref() == Some("text_time")
    }

    /// Residual blocks of a downward level if all have as many, as LDM's numbers need.
    pub(crate) fn layers(&self) -> Option<usize> {
        match &self.blocks.layers_per_block {
            Count::All(count) => Some(*count),
            Count::Each(counts) => counts.first().copied().filter(|first| counts.iter().all(|count| count == first)),
        }
    }

    /// Whether a level of the upward half has attention.
    pub(crate) fn up_attends(&self, level: usize) -> bool {
        self.blocks.up_block_types.get(level).is_some_and(|kind| kind.starts_with("CrossAttn"))
    }

    /// Paths of the modules that multiply by a matrix or a kernel.
    pub(crate) fn modules(&self) -> Vec<String> {
        let mut modules: Vec<String> =
            ["conv_in", "conv_out", "time_embedding.linear_1", "time_embedding.linear_2"].map(str::to_owned).into();
        if self.is_xl() {
            modules.extend(["add_embedding.linear_1", "add_embedding.linear_2"].map(str::to_owned));
        }
        let Blocks { down_block_types, up_block_types, block_out_channels, layers_per_block, .. } = &self.blocks;
        let last = block_out_channels.len().saturating_sub(1);
        for level in 0..down_block_types.len() {
            let block = format!("down_blocks.{level}");
            // Channels change at the entrance of a level at most.
            let widens = level == 0 || block_out_channels.get(level) != block_out_channels.get(level - 1);
            self.layers_of(&block, layers_per_block.at(level), usize::from(level > 0 && widens), &mut modules);
            modules.extend((level < last).then(|| format!("{block}.downsamplers.0.conv")));
        }
        if self.blocks.mid_block_type.is_some() {
            self.layers_of("mid_block", 2, 0, &mut modules);
        }
        for level in 0..up_block_types.len() {
            let block = format!("up_blocks.{level}");
            let count = layers_per_block.at(last - level.min(last)) + 1;
            self.layers_of(&block, count, count, &mut modules); // what is skipped to is joined to every one
            modules.extend((level < last).then(|| format!("{block}.upsamplers.0.conv")));
        }
        modules
    }

    /// The residual blocks of a level, the first of which have shortcuts, each with the attention that lies there.
    fn layers_of(&self, block: &str, count: usize, shortcuts: usize, modules: &mut Vec<String>) {
        for layer in 0..count {
            let parts =
                ["conv1", "time_emb_proj", "conv2"].into_iter().chain((layer < shortcuts).then_some("conv_shortcut"));
            modules.extend(parts.map(|part| format!("{block}.resnets.{layer}.{part}")));
            let place = format!("{block}.attentions.{layer}");
            match self.attention.transformers(&place) {
                0 => {}
                transformers => attention(&place, transformers, modules),
            }
        }
    }
}

impl Blocks {
    /// What of the configuration is not known here.
    fn problem(&self) -> Option<String> {
        let levels = self.block_out_channels.len();
        let known = |kind: &&String| {
            matches!(kind.as_str(), "CrossAttnDownBlock2D" | "DownBlock2D" | "CrossAttnUpBlock2D" | "UpBlock2D")
        };
        let strange = self.down_block_types.iter().chain(&self.up_block_types).find(|kind| !known(kind));
        let counts = |counts: &Count| match counts {
            Count::All(count) => *count <= MAX_COUNT,
            Count::Each(counts) => counts.len() == levels && counts.iter().all(|count| *count <= MAX_COUNT),
        };
        match () {
            () if strange.is_some() => strange.map(|kind| format!("blocks of type {kind} are not known")),
            () if levels == 0 || levels > MAX_COUNT => Some(format!("{levels} levels are not what a UNet has")),
            () if self.down_block_types.len() != levels || self.up_block_types.len() != levels => {
                Some(format!("it has {levels} block_out_channels, and another number of block types"))
            }
            () if !counts(&self.layers_per_block) => Some("its numbers of layers are not what a UNet has".to_owned()),
            () => None,
        }
    }
}

fn attention(attention: &str, transformers: usize, modules: &mut Vec<String>) {
    modules.extend(["proj_in", "proj_out"].map(|part| format!("{attention}.{part}")));
    for transformer in 0..transformers {
        let block = format!("{attention}.transformer_blocks.{transformer}");
        for attention in ["attn1", "attn2"] {
            modules.extend(["to_q", "to_k", "to_v", "to_out.0"].map(|part| format!("{block}.{attention}.{part}")));
        }
        modules.extend(["ff.net.0.proj", "ff.net.2"].map(|part| format!("{block}.{part}")));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Numbers of linear layers and convolutions in diffusers' own UNets, with those of some kinds.
    #[test]
    fn the_published_unets_have_as_many_modules() {
        for (structure, all, sites, resnets) in
            [(UnetStructure::sd(), 282, 16, 22), (UnetStructure::sdxl(), 794, 70, 17)]
        {
            let modules = structure.modules();
            assert_eq!((modules.len(), modules.iter().collect::<BTreeSet<_>>().len()), (all, all));
            let ending = |end: &str| modules.iter().filter(|module| module.ends_with(end)).count();
            assert_eq!((ending("attn2.to_k"), ending("time_emb_proj")), (sites, resnets));
        }
    }

    #[test]
    fn configurations_that_are_not_known_say_why() {
        let config = |change: &dyn Fn(&mut Value)| {
            let mut config = serde_json::json!({
                "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
                "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
                "block_out_channels": [32, 64],
            });
            change(&mut config);
            UnetStructure::of(&config)
        };
        let plain = config(&|_| {}).unwrap();
        assert!(plain.modules().contains(&"up_blocks.1.attentions.2.transformer_blocks.0.ff.net.2".to_owned()));
        assert!(plain.modules().contains(&"down_blocks.1.resnets.0.conv_shortcut".to_owned()));
        let problem = |field: &str, value: Value| config(&|config| config[field] = value.clone()).unwrap_err();
        assert!(
            problem("down_block_types", serde_json::json!(["DownBlock2D", "KDownBlock2D"])).contains("KDownBlock2D")
        );
        assert!(problem("block_out_channels", serde_json::json!([])).contains("0 levels"));
        assert!(problem("block_out_channels", serde_json::json!([32])).contains("another number"));
        assert!(problem("layers_per_block", serde_json::json!(1000)).contains("layers"));
        assert!(problem("transformer_layers_per_block", serde_json::json!([1])).contains("layers"));
        let without = config(&|config| config["mid_block_type"] = Value::Null).unwrap();
        assert!(!without.modules().iter().any(|module| module.starts_with("mid_block")));
    }
}
