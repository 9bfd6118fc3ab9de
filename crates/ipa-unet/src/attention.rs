//! Self-attention, cross-attention and the transformer around them.

use ipa_core::layers::{
    Conv2d, GroupNorm, LayerNorm, Linear, added, conv2d, geglu, group_norm, layer_norm, linear, linear_no_bias,
};
use ipa_core::tch::{Tensor, nn::Path};
use ipa_core::{attention, merge_heads, split_heads};

use crate::blocks::SiteCounter;
use crate::{CrossAttentionHook, SiteId, UnetConfig};

const LAYER_NORM_EPS: f64 = 1e-5;
const TRANSFORMER_NORM_EPS: f64 = 1e-6;

#[derive(Debug)]
struct SelfAttention {
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
    heads: i64,
}

impl SelfAttention {
    fn new(vs: &Path, width: i64, heads: i64) -> Self {
        Self {
            to_q: linear_no_bias(&(vs / "to_q"), width, width),
            to_k: linear_no_bias(&(vs / "to_k"), width, width),
            to_v: linear_no_bias(&(vs / "to_v"), width, width),
            to_out: linear(&(vs / "to_out" / "0"), width, width),
            heads,
        }
    }

    fn forward(&self, hidden: &Tensor) -> Tensor {
        let query = split_heads(&hidden.apply(&self.to_q), self.heads);
        let key = split_heads(&hidden.apply(&self.to_k), self.heads);
        let value = split_heads(&hidden.apply(&self.to_v), self.heads);
        merge_heads(&attention(&query, &key, &value)).apply(&self.to_out)
    }
}

#[derive(Debug)]
struct CrossAttention {
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
    heads: i64,
    site: SiteId,
}

impl CrossAttention {
    fn new(vs: &Path, width: i64, context: i64, heads: i64, site: SiteId) -> Self {
        Self {
            to_q: linear_no_bias(&(vs / "to_q"), width, width),
            to_k: linear_no_bias(&(vs / "to_k"), context, width),
            to_v: linear_no_bias(&(vs / "to_v"), context, width),
            to_out: linear(&(vs / "to_out" / "0"), width, width),
            heads,
            site,
        }
    }

    fn forward(&self, hidden: &Tensor, context: &Tensor, hook: &dyn CrossAttentionHook) -> Tensor {
        let query = split_heads(&hidden.apply(&self.to_q), self.heads); // [b, heads, tokens, head_dim]
        let key = split_heads(&context.apply(&self.to_k), self.heads);
        let value = split_heads(&context.apply(&self.to_v), self.heads);
        let attended = attention(&query, &key, &value);
        let attended = match hook.attend(self.site, &query) {
            Some(extra) => attended + extra, // not in place: autograd keeps the attention output
            None => attended,
        };
        merge_heads(&attended).apply(&self.to_out)
    }
}

/// `W₂ (value · gelu(gate))` with value and gate from one projection (arXiv:2002.05202, GEGLU).
#[derive(Debug)]
struct FeedForward {
    proj: Linear,
    out: Linear,
}

impl FeedForward {
    fn new(vs: &Path, width: i64) -> Self {
        Self {
            proj: linear(&(vs / "net" / "0" / "proj"), width, 8 * width),
            out: linear(&(vs / "net" / "2"), 4 * width, width),
        }
    }

    fn forward(&self, hidden: &Tensor) -> Tensor {
        geglu(&hidden.apply(&self.proj)).apply(&self.out)
    }
}

/// Self-attention, cross-attention and feed-forward, each normalised before and added after.
#[derive(Debug)]
struct BasicTransformerBlock {
    norm1: LayerNorm,
    attn1: SelfAttention,
    norm2: LayerNorm,
    attn2: CrossAttention,
    norm3: LayerNorm,
    ff: FeedForward,
}

impl BasicTransformerBlock {
    fn new(vs: &Path, sizes: TransformerSizes, site: SiteId) -> Self {
        let TransformerSizes { width, heads, context, .. } = sizes;
        Self {
            norm1: layer_norm(&(vs / "norm1"), width, LAYER_NORM_EPS),
            attn1: SelfAttention::new(&(vs / "attn1"), width, heads),
            norm2: layer_norm(&(vs / "norm2"), width, LAYER_NORM_EPS),
            attn2: CrossAttention::new(&(vs / "attn2"), width, context, heads, site),
            norm3: layer_norm(&(vs / "norm3"), width, LAYER_NORM_EPS),
            ff: FeedForward::new(&(vs / "ff"), width),
        }
    }

    fn forward(&self, hidden: &Tensor, context: &Tensor, hook: &dyn CrossAttentionHook) -> Tensor {
        let hidden = added(self.attn1.forward(&hidden.apply(&self.norm1)), hidden);
        let hidden = added(self.attn2.forward(&hidden.apply(&self.norm2), context, hook), &hidden);
        added(self.ff.forward(&hidden.apply(&self.norm3)), &hidden)
    }
}

/// Sizes of the attention at one level.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TransformerSizes {
    width: i64,
    heads: i64,
    context: i64,
    groups: i64,
    depth: i64,
    is_linear: bool,
}

impl TransformerSizes {
    /// `level` counts from the finest.
    pub(crate) fn of_level(config: &UnetConfig, level: usize) -> Self {
        Self {
            width: config.block_out_channels[level],
            heads: config.attention_head_dim.at(level),
            context: config.cross_attention_dim,
            groups: config.norm_num_groups,
            depth: config.transformer_layers_per_block.at(level),
            is_linear: config.use_linear_projection,
        }
    }
}

/// Between features `[b, c, h, w]` and tokens `[b, h·w, c]`: by 1×1 convolution in 1.x, by a matrix in 2.x.
#[derive(Debug)]
enum Projection {
    Convolution(Conv2d),
    Matrix(Linear),
}

impl Projection {
    fn new(vs: &Path, width: i64, is_linear: bool) -> Self {
        match is_linear {
            true => Self::Matrix(linear(vs, width, width)),
            false => Self::Convolution(conv2d(vs, width, width, 1)),
        }
    }

    fn to_tokens(&self, features: &Tensor) -> Tensor {
        match self {
            Self::Convolution(conv) => conv.to_tokens(features),
            Self::Matrix(linear) => features.flatten(2, 3).transpose(1, 2).apply(linear),
        }
    }

    fn to_features(&self, tokens: &Tensor, size: &[i64]) -> Tensor {
        match self {
            Self::Convolution(conv) => conv.to_features(tokens, size),
            Self::Matrix(linear) => tokens.apply(linear).transpose(1, 2).reshape(size),
        }
    }
}

/// Transformer blocks over the positions of a feature map: one in Stable Diffusion 1.x and 2.x, up to ten in XL.
#[derive(Debug)]
pub(crate) struct Transformer2d {
    norm: GroupNorm,
    proj_in: Projection,
    blocks: Vec<BasicTransformerBlock>,
    proj_out: Projection,
}

impl Transformer2d {
    pub(crate) fn new(vs: &Path, sizes: TransformerSizes, sites: &mut SiteCounter) -> Self {
        let TransformerSizes { width, groups, depth, is_linear, .. } = sizes;
        let block = |index| BasicTransformerBlock::new(&(vs / "transformer_blocks" / index), sizes, sites.next());
        Self {
            norm: group_norm(&(vs / "norm"), groups, width, TRANSFORMER_NORM_EPS),
            proj_in: Projection::new(&(vs / "proj_in"), width, is_linear),
            blocks: (0..depth).map(block).collect(),
            proj_out: Projection::new(&(vs / "proj_out"), width, is_linear),
        }
    }

    pub(crate) fn forward(&self, hidden: &Tensor, context: &Tensor, hook: &dyn CrossAttentionHook) -> Tensor {
        let tokens = self.proj_in.to_tokens(&hidden.apply(&self.norm));
        let tokens = self.blocks.iter().fold(tokens, |tokens, block| block.forward(&tokens, context, hook));
        added(self.proj_out.to_features(&tokens, &hidden.size()), hidden)
    }
}
