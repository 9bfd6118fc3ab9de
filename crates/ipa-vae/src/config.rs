//! Sizes of the autoencoder.

use serde::{Deserialize, Serialize};

// Far above every published model, far below what exhausts a machine before the weights are even looked at.
const MAX_WIDTH: i64 = 65_536;
const MAX_LAYERS: i64 = 64;
const MAX_SAMPLE_SIZE: i64 = 4096;
// A latent of 8 pixels: sides of pictures are multiples of that.
const MAX_LEVELS: usize = 4;

/// Sizes of an `AutoencoderKL`, as published in `vae/config.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VaeConfig {
    /// Channels of a picture: 3.
    #[serde(default = "three")]
    pub in_channels: i64,
    /// Channels of a decoded picture: 3.
    #[serde(default = "three")]
    pub out_channels: i64,
    /// Channels of the latents: 4.
    pub latent_channels: i64,
    /// Width of each level, finest first; a level halves the size, but for the last.
    pub block_out_channels: Vec<i64>,
    /// Residual blocks per encoder level; a decoder level has one more.
    pub layers_per_block: i64,
    /// Groups of every group normalisation.
    #[serde(default = "thirty_two")]
    pub norm_num_groups: i64,
    /// Height and width of the pictures that the model was trained at, in pixels: the side of a tile.
    #[serde(default = "five_hundred_twelve")]
    pub sample_size: i64,
    /// What encoded latents are multiplied by before diffusion.
    #[serde(default = "sd_scaling_factor")]
    pub scaling_factor: f64,
    /// Published fields of other models, kept to refuse what is not computed here.
    #[serde(flatten)]
    pub others: serde_json::Map<String, serde_json::Value>,
}

fn three() -> i64 {
    3
}

fn thirty_two() -> i64 {
    32
}

fn five_hundred_twelve() -> i64 {
    512
}

fn sd_scaling_factor() -> f64 {
    0.18215
}

impl VaeConfig {
    /// Stable Diffusion 1.x: 83,653,863 parameters.
    pub fn sd15() -> Self {
        Self {
            in_channels: 3,
            out_channels: 3,
            latent_channels: 4,
            block_out_channels: vec![128, 256, 512, 512],
            layers_per_block: 2,
            norm_num_groups: 32,
            sample_size: 512,
            scaling_factor: sd_scaling_factor(),
            others: serde_json::Map::new(),
        }
    }

    fn check_others(&self) -> Result<(), String> {
        let is_usual = |name: &str, value: &serde_json::Value| match name {
            "act_fn" => value == "silu",
            "shift_factor" => value.as_f64() == Some(0.0),
            "latents_mean" | "latents_std" => false,
            "use_quant_conv" | "use_post_quant_conv" | "mid_block_add_attention" => value == true,
            "down_block_types" | "up_block_types" => {
                let known = ["DownEncoderBlock2D", "UpDecoderBlock2D"];
                value.as_array().into_iter().flatten().all(|name| known.iter().any(|known| name == known))
            }
            _ => true,
        };
        match self.others.iter().find(|(name, value)| !value.is_null() && !is_usual(name, value)) {
            Some((name, value)) => Err(format!("`{name}` is {value}, which is not Stable Diffusion 1.x or 2.x")),
            None => Ok(()),
        }
    }

    /// How many pixels of a picture's side make one latent: `2^(levels − 1)`.
    pub fn downsampling(&self) -> i64 {
        1 << (self.block_out_channels.len() - 1)
    }
}

impl ipa_core::Config for VaeConfig {
    fn check(&self) -> Result<(), String> {
        let levels = self.block_out_channels.len();
        if !(1..=MAX_LEVELS).contains(&levels) {
            return Err(format!("`block_out_channels` has {levels} levels; expected 1 to {MAX_LEVELS}"));
        }
        if !(1..=MAX_SAMPLE_SIZE).contains(&self.sample_size) {
            return Err(format!("`sample_size` is {}; expected 1 to {MAX_SAMPLE_SIZE}", self.sample_size));
        }
        if !(self.scaling_factor > 0.0 && self.scaling_factor.is_finite()) {
            return Err(format!("`scaling_factor` is {}; expected more than 0", self.scaling_factor));
        }
        self.check_others()?;
        let channels = [("in_channels", self.in_channels), ("out_channels", self.out_channels)];
        if let Some((name, channels)) = channels.into_iter().find(|&(_, channels)| channels != 3) {
            return Err(format!("`{name}` is {channels}; pictures have 3"));
        }
        let fits = |channels: &i64| {
            (1..=MAX_WIDTH).contains(channels) && self.norm_num_groups > 0 && channels % self.norm_num_groups == 0
        };
        match self.block_out_channels.iter().find(|channels| !fits(channels)) {
            Some(channels) => {
                Err(format!("{channels} channels are too many or cannot be split into {} groups", self.norm_num_groups))
            }
            None if !(1..=MAX_WIDTH).contains(&self.latent_channels)
                || !(1..=MAX_LAYERS).contains(&self.layers_per_block) =>
            {
                Err("`latent_channels` or `layers_per_block` is out of range".to_owned())
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipa_core::Config;

    #[test]
    fn pictures_of_other_channels_and_larger_latents_are_refused_by_field() {
        assert_eq!(VaeConfig::sd15().check(), Ok(()));
        let refused = |config: VaeConfig| config.check().expect_err("not Stable Diffusion");
        assert!(refused(VaeConfig { out_channels: 1, ..VaeConfig::sd15() }).contains("`out_channels` is 1"));
        assert!(refused(VaeConfig { in_channels: 4, ..VaeConfig::sd15() }).contains("`in_channels` is 4"));
        assert!(refused(VaeConfig { scaling_factor: 0.0, ..VaeConfig::sd15() }).contains("`scaling_factor` is 0"));
        for (name, value) in [("shift_factor", serde_json::json!(0.1)), ("use_quant_conv", false.into())] {
            let others = [(name.to_owned(), value)].into_iter().collect();
            assert!(refused(VaeConfig { others, ..VaeConfig::sd15() }).contains(name));
        }
        let deep = VaeConfig { block_out_channels: vec![32; 5], ..VaeConfig::sd15() };
        assert!(refused(deep).contains("`block_out_channels` has 5 levels"));
    }
}
