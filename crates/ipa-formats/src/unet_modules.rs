//! Which modules a UNet has, by the structure that its configuration tells.
//!
//! Source: diffusers' `models/unets/unet_2d_condition.py` and `unet_2d_blocks.py` (version 0.42), the block types of
//! Stable Diffusion 1.x, 2.x and XL.

use serde::Deserialize;
use serde_json::Value;

/// More levels, layers and transformers than any published UNet has.
const MAX_COUNT: usize = 64;
/// More transformers in all than any published UNet has.
const MAX_TRANSFORMERS: usize = 4096;

/// How many blocks of which kind a UNet has.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct UnetStructure {
    down_block_types: Vec<String>,
    up_block_types: Vec<String>,
    block_out_channels: Vec<usize>,
    #[serde(default = "two")]
    layers_per_block: Count,
    #[serde(default = "one")]
    transformer_layers_per_block: Count,
    #[serde(default)]
    addition_embed_type: Option<String>,
    #[serde(default)]
    reverse_transformer_layers_per_block: Option<Value>,
}

/// One number for all levels, or one for each.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Count {
    All(usize),
    Each(Vec<usize>),
}

fn one() -> Count {
    Count::All(1)
}

fn two() -> Count {
    Count::All(2)
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
        Self::new([true, true, true, false].as_slice(), &[320, 640, 1280, 1280], one(), None)
    }

    /// That of Stable Diffusion XL.
    pub(crate) fn sdxl() -> Self {
        let transformers = Count::Each(vec![1, 2, 10]);
        Self::new(&[false, true, true], &[320, 640, 1280], transformers, Some("text_time".to_owned()))
    }

    fn new(attends: &[bool], channels: &[usize], transformers: Count, addition: Option<String>) -> Self {
        let types = |attends: &bool, half: &str| format!("{}{half}Block2D", if *attends { "CrossAttn" } else { "" });
        Self {
            down_block_types: attends.iter().map(|attends| types(attends, "Down")).collect(),
            up_block_types: attends.iter().rev().map(|attends| types(attends, "Up")).collect(),
            block_out_channels: channels.to_vec(),
            layers_per_block: two(),
            transformer_layers_per_block: transformers,
            addition_embed_type: addition,
            reverse_transformer_layers_per_block: None,
        }
    }

    /// What of the configuration is not known here.
    pub(crate) fn problem(&self) -> Option<String> {
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
            () if !counts(&self.layers_per_block) || !counts(&self.transformer_layers_per_block) => {
                Some("its numbers of layers are not what a UNet has".to_owned())
            }
            () if self.most_transformers(levels) > MAX_TRANSFORMERS => {
                Some("it has more transformers than any UNet".to_owned())
            }
            () if self.reverse_transformer_layers_per_block.as_ref().is_some_and(|reverse| !reverse.is_null()) => {
                Some("`reverse_transformer_layers_per_block` is not known".to_owned())
            }
            () => None,
        }
    }

    /// Transformers that it has at most.
    fn most_transformers(&self, levels: usize) -> usize {
        let of = |level| (2 * self.layers_per_block.at(level) + 1) * self.transformer_layers_per_block.at(level);
        (0..levels).map(of).sum()
    }

    /// Whether it takes pooled text and sizes too, as Stable Diffusion XL does.
    pub(crate) fn is_xl(&self) -> bool {
        self.addition_embed_type.as_deref() == Some("text_time")
    }

    /// Residual blocks of a downward level if all have as many, as LDM's numbers need.
    pub(crate) fn layers(&self) -> Option<usize> {
        match &self.layers_per_block {
            Count::All(count) => Some(*count),
            Count::Each(counts) => counts.first().copied().filter(|first| counts.iter().all(|count| count == first)),
        }
    }

    /// Whether a level of the upward half has attention.
    pub(crate) fn up_attends(&self, level: usize) -> bool {
        self.up_block_types.get(level).is_some_and(|kind| kind.starts_with("CrossAttn"))
    }

    /// Paths of the modules that multiply by a matrix or a kernel.
    pub(crate) fn modules(&self) -> Vec<String> {
        let mut modules: Vec<String> =
            ["conv_in", "conv_out", "time_embedding.linear_1", "time_embedding.linear_2"].map(str::to_owned).into();
        if self.is_xl() {
            modules.extend(["add_embedding.linear_1", "add_embedding.linear_2"].map(str::to_owned));
        }
        let last = self.block_out_channels.len().saturating_sub(1);
        for (level, kind) in self.down_block_types.iter().enumerate() {
            let block = format!("down_blocks.{level}");
            let transformers = kind.starts_with("CrossAttn").then(|| self.transformer_layers_per_block.at(level));
            // Channels change at the entrance of a level at most.
            let widens = level == 0 || self.block_out_channels.get(level) != self.block_out_channels.get(level - 1);
            let shortcuts = usize::from(level > 0 && widens);
            layers(&block, self.layers_per_block.at(level), shortcuts, transformers, &mut modules);
            modules.extend((level < last).then(|| format!("{block}.downsamplers.0.conv")));
        }
        layers("mid_block", 2, 0, None, &mut modules);
        attention("mid_block.attentions.0", self.transformer_layers_per_block.at(last), &mut modules);
        for (level, _) in self.up_block_types.iter().enumerate() {
            let block = format!("up_blocks.{level}");
            let mirrored = last - level.min(last);
            let transformers = self.up_attends(level).then(|| self.transformer_layers_per_block.at(mirrored));
            let count = self.layers_per_block.at(mirrored) + 1;
            layers(&block, count, count, transformers, &mut modules); // what is skipped to is joined to every one
            modules.extend((level < last).then(|| format!("{block}.upsamplers.0.conv")));
        }
        modules
    }
}

/// The residual blocks of a level, the first of which have shortcuts, each with an attention layer if there are any.
fn layers(block: &str, count: usize, shortcuts: usize, transformers: Option<usize>, modules: &mut Vec<String>) {
    for layer in 0..count {
        let parts =
            ["conv1", "time_emb_proj", "conv2"].into_iter().chain((layer < shortcuts).then_some("conv_shortcut"));
        modules.extend(parts.map(|part| format!("{block}.resnets.{layer}.{part}")));
        if let Some(transformers) = transformers {
            attention(&format!("{block}.attentions.{layer}"), transformers, modules);
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
            serde_json::from_value::<UnetStructure>(config).unwrap()
        };
        let plain = config(&|_| {});
        assert_eq!(plain.problem(), None);
        assert!(plain.modules().contains(&"up_blocks.1.attentions.2.transformer_blocks.0.ff.net.2".to_owned()));
        assert!(plain.modules().contains(&"down_blocks.1.resnets.0.conv_shortcut".to_owned()));
        let problem = |field: &str, value: Value| config(&|config| config[field] = value.clone()).problem().unwrap();
        assert!(
            problem("down_block_types", serde_json::json!(["DownBlock2D", "KDownBlock2D"])).contains("KDownBlock2D")
        );
        assert!(problem("block_out_channels", serde_json::json!([])).contains("0 levels"));
        assert!(problem("block_out_channels", serde_json::json!([32])).contains("another number"));
        assert!(problem("layers_per_block", serde_json::json!(1000)).contains("layers"));
        assert!(problem("transformer_layers_per_block", serde_json::json!([1])).contains("layers"));
    }
}
