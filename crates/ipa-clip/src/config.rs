//! Sizes of the towers.

use serde::{Deserialize, Serialize};

/// The non-linearity of a tower's feed-forward layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x · σ(1.702 x)`: OpenAI's models.
    QuickGelu,
    /// The exact (erf) form: OpenCLIP's models.
    Gelu,
}

/// Sizes of a text tower, as published in `text_encoder/config.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TextConfig {
    /// Class names, where a file has them; a `…WithProjection` has a projection after the pooled output.
    #[serde(default)]
    pub architectures: Option<Vec<String>>,
    /// Entries of the token table.
    pub vocab_size: i64,
    /// Width of the tower.
    pub hidden_size: i64,
    /// Width inside the feed-forward layers.
    pub intermediate_size: i64,
    /// Number of blocks.
    pub num_hidden_layers: i64,
    /// Attention heads.
    pub num_attention_heads: i64,
    /// Longest prompt in tokens.
    pub max_position_embeddings: i64,
    /// Activation of the feed-forward layers.
    pub hidden_act: Activation,
    /// Width of the projection.
    #[serde(default = "default_projection")]
    pub projection_dim: i64,
    /// Epsilon of the layer normalisations.
    #[serde(default = "default_eps")]
    pub layer_norm_eps: f64,
    /// The token whose position is pooled; 2 (a published mistake) stands for the largest id.
    #[serde(default = "default_eos")]
    pub eos_token_id: i64,
}

/// Sizes of a vision tower, as published in `image_encoder/config.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VisionConfig {
    /// Width of the tower.
    pub hidden_size: i64,
    /// Width inside the feed-forward layers.
    pub intermediate_size: i64,
    /// Number of blocks.
    pub num_hidden_layers: i64,
    /// Attention heads.
    pub num_attention_heads: i64,
    /// Side of the square input in pixels.
    pub image_size: i64,
    /// Side of a patch in pixels.
    pub patch_size: i64,
    /// Activation of the feed-forward layers.
    #[serde(default = "default_vision_act")]
    pub hidden_act: Activation,
    /// Width of the image embeddings.
    #[serde(default = "default_projection")]
    pub projection_dim: i64,
    /// Epsilon of the layer normalisations.
    #[serde(default = "default_eps")]
    pub layer_norm_eps: f64,
}

fn default_projection() -> i64 {
    512
}

fn default_eps() -> f64 {
    1e-5
}

fn default_eos() -> i64 {
    49407
}

fn default_vision_act() -> Activation {
    Activation::QuickGelu
}

impl TextConfig {
    /// The text tower of Stable Diffusion 1.x (CLIP ViT-L/14): 123,060,480 parameters.
    pub fn clip_l() -> Self {
        Self {
            architectures: Some(vec!["CLIPTextModel".to_owned()]),
            vocab_size: 49408,
            hidden_size: 768,
            intermediate_size: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            max_position_embeddings: 77,
            hidden_act: Activation::QuickGelu,
            projection_dim: 768,
            layer_norm_eps: 1e-5,
            eos_token_id: 49407,
        }
    }

    /// Whether the tower ends in a projection.
    pub fn has_projection(&self) -> bool {
        self.architectures.iter().flatten().any(|name| name.ends_with("WithProjection"))
    }
}

impl VisionConfig {
    /// OpenCLIP ViT-H/14, the encoder of most published adapters: 632,076,800 parameters.
    pub fn vit_h() -> Self {
        Self {
            hidden_size: 1280,
            intermediate_size: 5120,
            num_hidden_layers: 32,
            num_attention_heads: 16,
            image_size: 224,
            patch_size: 14,
            hidden_act: Activation::Gelu,
            projection_dim: 1024,
            layer_norm_eps: 1e-5,
        }
    }

    /// OpenAI ViT-L/14: 303,966,208 parameters.
    pub fn vit_l() -> Self {
        Self {
            hidden_size: 1024,
            intermediate_size: 4096,
            num_hidden_layers: 24,
            hidden_act: Activation::QuickGelu,
            projection_dim: 768,
            ..Self::vit_h()
        }
    }

    /// OpenCLIP ViT-bigG/14, the encoder of some adapters for SDXL: 1,844,907,264 parameters.
    pub fn vit_bigg() -> Self {
        Self {
            hidden_size: 1664,
            intermediate_size: 8192,
            num_hidden_layers: 48,
            projection_dim: 1280,
            ..Self::vit_h()
        }
    }
}

// Far above every published model, far below what exhausts a machine before the weights are even looked at.
const MAX_WIDTH: i64 = 65_536;
const MAX_LAYERS: i64 = 1024;
const MAX_ENTRIES: i64 = 10_000_000;

fn check_tower(width: i64, feed_forward: i64, heads: i64, layers: i64) -> Result<(), String> {
    let fits = |width: i64| (1..=MAX_WIDTH).contains(&width);
    if !fits(width) || !fits(feed_forward) || heads < 1 || width % heads != 0 || !(1..=MAX_LAYERS).contains(&layers) {
        return Err(format!("{layers} layers of width {width} with {heads} heads do not make a tower"));
    }
    Ok(())
}

impl ipa_core::Config for TextConfig {
    fn check(&self) -> Result<(), String> {
        check_tower(self.hidden_size, self.intermediate_size, self.num_attention_heads, self.num_hidden_layers)?;
        let fits = |entries: i64| (1..=MAX_ENTRIES).contains(&entries);
        if !fits(self.vocab_size) || !fits(self.max_position_embeddings) || !fits(self.projection_dim) {
            return Err("`vocab_size`, `max_position_embeddings` or `projection_dim` is out of range".to_owned());
        }
        Ok(())
    }
}

impl ipa_core::Config for VisionConfig {
    fn check(&self) -> Result<(), String> {
        check_tower(self.hidden_size, self.intermediate_size, self.num_attention_heads, self.num_hidden_layers)?;
        let fits = (1..=MAX_WIDTH).contains(&self.projection_dim) && self.image_size <= MAX_WIDTH;
        if self.patch_size < 1 || self.image_size < self.patch_size || !fits {
            return Err(format!("patches of {} px do not fit {} px", self.patch_size, self.image_size));
        }
        Ok(())
    }
}
