//! Sizes of the UNet and the list of its cross-attention layers.

use serde::{Deserialize, Serialize};

// Far above every published model, far below what exhausts a machine before the weights are even looked at.
const MAX_WIDTH: i64 = 65_536;
const MAX_LAYERS: i64 = 64;
const MAX_SAMPLE_SIZE: i64 = 512;

/// Sizes of a `UNet2DConditionModel`, as published in `unet/config.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UnetConfig {
    /// Latents' height and width that the model was trained at, as the file says.
    #[serde(default)]
    pub sample_size: Option<i64>,
    /// Channels of the noisy latents: 4.
    pub in_channels: i64,
    /// Channels of the prediction: 4.
    pub out_channels: i64,
    /// `CrossAttnDownBlock2D` or `DownBlock2D`, finest level first.
    pub down_block_types: Vec<String>,
    /// `UpBlock2D` or `CrossAttnUpBlock2D`, coarsest level first.
    pub up_block_types: Vec<String>,
    /// Width of each level, finest first.
    pub block_out_channels: Vec<i64>,
    /// Residual blocks per down level; an up level has one more.
    #[serde(default = "two")]
    pub layers_per_block: i64,
    /// Width of the context that cross-attention reads.
    pub cross_attention_dim: i64,
    /// Parity: the published name; it is the *number* of heads.
    #[serde(default = "eight")]
    pub attention_head_dim: PerLevel,
    /// Transformer blocks of each attention: 1, and up to 10 in Stable Diffusion XL.
    #[serde(default = "one")]
    pub transformer_layers_per_block: PerLevel,
    /// Whether attention layers project by matrices, as in Stable Diffusion 2.x, instead of 1×1 convolutions.
    #[serde(default)]
    pub use_linear_projection: bool,
    /// Groups of every group normalisation.
    #[serde(default = "thirty_two")]
    pub norm_num_groups: i64,
    /// Epsilon of the group normalisations in residual blocks and before the output.
    #[serde(default = "default_norm_eps")]
    pub norm_eps: f64,
    /// Published fields of other models, kept to refuse what is not computed here.
    #[serde(flatten)]
    pub others: serde_json::Map<String, serde_json::Value>,
}

/// A number of every level, finest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PerLevel {
    /// The same at every level, as in Stable Diffusion 1.x.
    All(i64),
    /// Each level's own, as the heads of Stable Diffusion 2.x, which are all 64 wide.
    Each(Vec<i64>),
}

impl PerLevel {
    /// That of a level, counted from the finest.
    pub(crate) fn at(&self, level: usize) -> i64 {
        match self {
            Self::All(number) => *number,
            Self::Each(numbers) => numbers[level],
        }
    }

    fn check(&self, name: &str, levels: usize, allowed: std::ops::RangeInclusive<i64>) -> Result<(), String> {
        let numbers = match self {
            Self::All(number) => std::slice::from_ref(number),
            Self::Each(numbers) => numbers,
        };
        let is_one_each = matches!(self, Self::All(_)) || numbers.len() == levels;
        match is_one_each && numbers.iter().all(|number| allowed.contains(number)) {
            true => Ok(()),
            false => Err(format!(
                "`{name}` is {numbers:?}; expected {} to {}, once or for each of {levels} levels",
                allowed.start(),
                allowed.end()
            )),
        }
    }
}

fn one() -> PerLevel {
    PerLevel::All(1)
}

fn two() -> i64 {
    2
}

fn eight() -> PerLevel {
    PerLevel::All(8)
}

fn thirty_two() -> i64 {
    32
}

fn default_norm_eps() -> f64 {
    1e-5
}

/// One attention of a level.
struct Transformer {
    name: String,
    level: usize,
}

/// One cross-attention layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// Path of the attention module, as `down_blocks.0.attentions.0.transformer_blocks.0.attn2`.
    pub name: String,
    /// Width of its queries.
    pub width: i64,
    /// Attention heads.
    pub heads: i64,
}

impl UnetConfig {
    /// Stable Diffusion 1.x: 859,520,964 parameters.
    pub fn sd15() -> Self {
        Self { sample_size: Some(64), ..Self::like_sd15(vec![320, 640, 1280, 1280], 768) }
    }

    /// Stable Diffusion 2.x: 865,910,724 parameters.
    pub fn sd21() -> Self {
        Self {
            attention_head_dim: PerLevel::Each(vec![5, 10, 20, 20]),
            use_linear_projection: true,
            cross_attention_dim: 1024,
            ..Self::sd15()
        }
    }

    /// The blocks of Stable Diffusion XL, whose 70 cross-attention layers its adapters count. What XL adds to the time
    /// embedding is not built, so that its adapters can be checked and trained for, but not draw.
    pub fn sdxl() -> Self {
        let names = |names: [&str; 3]| names.map(str::to_owned).to_vec();
        Self {
            sample_size: Some(128),
            down_block_types: names(["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"]),
            up_block_types: names(["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"]),
            attention_head_dim: PerLevel::Each(vec![5, 10, 20]),
            transformer_layers_per_block: PerLevel::Each(vec![1, 2, 10]),
            use_linear_projection: true,
            ..Self::like_sd15(vec![320, 640, 1280], 2048)
        }
    }

    /// SD1.x's blocks at other sizes: attention at all levels but the last.
    pub fn like_sd15(block_out_channels: Vec<i64>, cross_attention_dim: i64) -> Self {
        let last = block_out_channels.len() - 1;
        let names = |with: &str, without: &str| -> Vec<String> {
            (0..=last).map(|level| if level < last { with } else { without }.to_owned()).collect()
        };
        let mut up_block_types = names("CrossAttnUpBlock2D", "UpBlock2D");
        up_block_types.reverse();
        Self {
            sample_size: None,
            in_channels: 4,
            out_channels: 4,
            down_block_types: names("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types,
            block_out_channels,
            layers_per_block: 2,
            cross_attention_dim,
            attention_head_dim: PerLevel::All(8),
            transformer_layers_per_block: PerLevel::All(1),
            use_linear_projection: false,
            norm_num_groups: 32,
            norm_eps: 1e-5,
            others: serde_json::Map::new(),
        }
    }

    /// The cross-attention layers in execution order; [`SiteId`](crate::SiteId) indexes this list.
    pub fn sites(&self) -> Vec<Site> {
        let mut sites = Vec::new();
        for Transformer { name, level } in self.transformers() {
            let site = |block| Site {
                name: format!("{name}.transformer_blocks.{block}.attn2"),
                width: self.block_out_channels[level],
                heads: self.attention_head_dim.at(level),
            };
            sites.extend((0..self.transformer_layers_per_block.at(level)).map(site));
        }
        sites
    }

    /// The attentions, of one or more transformer blocks each, in execution order.
    fn transformers(&self) -> Vec<Transformer> {
        let levels = self.block_out_channels.len();
        // `level` counts from the finest, whichever way a block's own number counts.
        let transformer =
            |block: &str, layer: i64, level: usize| Transformer { name: format!("{block}.attentions.{layer}"), level };
        let mut transformers = Vec::new();
        for level in (0..levels).filter(|&level| self.down_has_attention(level)) {
            let block = format!("down_blocks.{level}");
            transformers.extend((0..self.layers_per_block).map(|layer| transformer(&block, layer, level)));
        }
        transformers.push(transformer("mid_block", 0, levels - 1));
        for up_level in (0..levels).filter(|&level| self.up_has_attention(level)) {
            let (block, level) = (format!("up_blocks.{up_level}"), levels - 1 - up_level);
            transformers.extend((0..=self.layers_per_block).map(|layer| transformer(&block, layer, level)));
        }
        transformers
    }

    /// How many cross-attention layers lie in each part, for the numbering of published adapters.
    pub fn site_counts(&self) -> ipa_formats::SiteCounts {
        let count = |part: &str| self.sites().iter().filter(|site| site.name.starts_with(part)).count();
        ipa_formats::SiteCounts { down: count("down"), mid: count("mid"), up: count("up") }
    }

    pub(crate) fn down_has_attention(&self, level: usize) -> bool {
        self.down_block_types[level] == "CrossAttnDownBlock2D"
    }

    pub(crate) fn up_has_attention(&self, level: usize) -> bool {
        self.up_block_types[level] == "CrossAttnUpBlock2D"
    }

    fn check_levels(&self) -> Result<(), String> {
        let levels = self.block_out_channels.len();
        if levels == 0 || levels > 8 || self.down_block_types.len() != levels || self.up_block_types.len() != levels {
            return Err("`block_out_channels`, `down_block_types` and `up_block_types` must be equally long".to_owned());
        }
        let known = ["CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"];
        let mut types = self.down_block_types.iter().chain(&self.up_block_types);
        if let Some(unknown) = types.find(|name| !known.contains(&name.as_str())) {
            return Err(format!("block type `{unknown}` is not one of Stable Diffusion 1.x or 2.x"));
        }
        if self.block_out_channels[0] % 2 != 0 {
            return Err(format!(
                "`block_out_channels` begins with {}; expected an even number",
                self.block_out_channels[0]
            ));
        }
        self.attention_head_dim.check("attention_head_dim", levels, 1..=MAX_WIDTH)?;
        self.transformer_layers_per_block.check("transformer_layers_per_block", levels, 1..=MAX_LAYERS)?;
        let fits = |width: i64, heads: i64| {
            let divides = |parts: i64| parts > 0 && width % parts == 0;
            (1..=MAX_WIDTH).contains(&width) && divides(self.norm_num_groups) && divides(heads)
        };
        let widths = self.block_out_channels.iter().enumerate();
        match widths.map(|(level, &width)| (width, self.attention_head_dim.at(level))).find(|&(w, h)| !fits(w, h)) {
            Some((width, heads)) => Err(format!(
                "{width} channels are too many or cannot be split into {} groups and {heads} heads",
                self.norm_num_groups
            )),
            None => Ok(()),
        }
    }
}

impl ipa_core::Config for UnetConfig {
    fn check(&self) -> Result<(), String> {
        self.check_levels()?;
        let widths = [
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels),
            ("cross_attention_dim", self.cross_attention_dim),
        ];
        if let Some((name, width)) = widths.into_iter().find(|(_, width)| !(1..=MAX_WIDTH).contains(width)) {
            return Err(format!("`{name}` is {width}; expected 1 to {MAX_WIDTH}"));
        }
        if let Some(side) = self.sample_size.filter(|side| !(1..=MAX_SAMPLE_SIZE).contains(side)) {
            return Err(format!("`sample_size` is {side}; expected 1 to {MAX_SAMPLE_SIZE}"));
        }
        if !(1..=MAX_LAYERS).contains(&self.layers_per_block) {
            return Err(format!("`layers_per_block` is {}; expected 1 to {MAX_LAYERS}", self.layers_per_block));
        }
        let expected = [
            ("act_fn", serde_json::json!("silu")),
            ("center_input_sample", false.into()),
            ("downsample_padding", 1.into()),
            ("flip_sin_to_cos", true.into()),
            ("freq_shift", 0.into()),
            ("mid_block_scale_factor", 1.into()),
            ("mid_block_type", "UNetMidBlock2DCrossAttn".into()),
            ("only_cross_attention", false.into()),
            ("dual_cross_attention", false.into()),
            ("resnet_time_scale_shift", "default".into()),
            ("time_embedding_type", "positional".into()),
            ("conv_in_kernel", 3.into()),
            ("conv_out_kernel", 3.into()),
        ];
        let null_elsewhere = [
            "addition_embed_type",
            "class_embed_type",
            "encoder_hid_dim_type",
            "num_attention_heads",
            "num_class_embeds",
            "time_cond_proj_dim",
        ];
        let differs = |name: &&str, expected: &serde_json::Value| {
            self.others.get(*name).is_some_and(|value| !value.is_null() && !same_value(value, expected))
        };
        let unknown = expected.iter().find(|(name, value)| differs(name, value)).map(|(name, _)| *name);
        let unknown = unknown.or(null_elsewhere.into_iter().find(|name| differs(name, &serde_json::Value::Null)));
        match unknown {
            Some(name) => Err(format!("`{name}` is {}, which is not Stable Diffusion 1.x or 2.x", self.others[name])),
            None => Ok(()),
        }
    }
}

fn same_value(a: &serde_json::Value, b: &serde_json::Value) -> bool {
    a == b || a.as_f64().is_some_and(|a| Some(a) == b.as_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipa_core::Config;

    #[test]
    fn sd15_has_its_sixteen_sites_in_execution_order() {
        let sites = UnetConfig::sd15().sites();
        assert_eq!(sites.len(), 16);
        assert_eq!(sites[0].name, "down_blocks.0.attentions.0.transformer_blocks.0.attn2");
        assert_eq!(sites[6].name, "mid_block.attentions.0.transformer_blocks.0.attn2");
        assert_eq!(sites[15].name, "up_blocks.3.attentions.2.transformer_blocks.0.attn2");
        let widths: Vec<i64> = sites.iter().map(|site| site.width).collect();
        let expected = [320, 320, 640, 640, 1280, 1280, 1280, 1280, 1280, 1280, 640, 640, 640, 320, 320, 320];
        assert_eq!(widths, expected);
        assert_eq!(UnetConfig::sd15().site_counts(), ipa_formats::SiteCounts { down: 6, mid: 1, up: 9 });
    }

    #[test]
    fn sdxl_has_its_seventy_sites_in_execution_order() {
        let config = UnetConfig::sdxl();
        assert_eq!(config.check(), Ok(()));
        assert_eq!(config.site_counts(), ipa_formats::SiteCounts { down: 24, mid: 10, up: 36 });
        let sites = config.sites();
        assert_eq!(sites[0].name, "down_blocks.1.attentions.0.transformer_blocks.0.attn2");
        assert_eq!(sites[33].name, "mid_block.attentions.0.transformer_blocks.9.attn2");
        assert_eq!(sites[69].name, "up_blocks.1.attentions.2.transformer_blocks.1.attn2");
        assert_eq!([sites[3].width, sites[4].width, sites[69].width], [640, 1280, 640]);
    }

    #[test]
    fn what_is_not_computed_here_is_refused_by_field() {
        let mut config = UnetConfig::sd15();
        assert_eq!(config.check(), Ok(()));
        config.others.insert("class_embed_type".into(), "projection".into());
        assert!(config.check().expect_err("unCLIP").contains("class_embed_type"));
    }

    #[test]
    fn each_level_of_sd21_has_its_own_heads_and_all_heads_one_width() {
        let config = UnetConfig::sd21();
        assert_eq!(config.check(), Ok(()));
        assert!(config.sites().iter().all(|site| site.width == 64 * site.heads));
        let short = UnetConfig { attention_head_dim: PerLevel::Each(vec![5, 10]), ..config };
        assert!(short.check().expect_err("two of four levels").contains("attention_head_dim"));
    }

    #[test]
    fn a_size_that_nothing_is_trained_at_is_refused_by_field() {
        for side in [i64::MIN, -1, 0, 513, 1 << 62] {
            let config = UnetConfig { sample_size: Some(side), ..UnetConfig::sd15() };
            assert_eq!(config.check(), Err(format!("`sample_size` is {side}; expected 1 to 512")));
        }
    }
}
