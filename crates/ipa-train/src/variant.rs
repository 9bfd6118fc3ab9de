//! The kinds of adapter that training can begin from nothing.

use ipa_adapter::{AdapterConfig, AdapterCoupling, ImageFeatures, IpAdapter, ProjectionConfig, ResamplerConfig};
use ipa_sample::ImageEncoder;
use ipa_unet::UnetConfig;
use serde::{Deserialize, Serialize};

/// Width of a resampler's attention heads.
const HEAD_DIM: i64 = 64;

/// How the UNet comes to see the image tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Variant {
    /// Attention of their own, from the global embedding: the base adapter.
    Classic,
    /// Attention of their own, from fine-grained features: the plus adapter.
    Plus,
    /// Beside the text tokens in the UNet's own attention, which stays as it is: the paper's ablation
    /// (arXiv:2308.06721 §4.3.1).
    Simple,
    /// Attention of their own after they have looked at the text.
    Prefusion,
}

/// What of a picture the encoder gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FeatureKind {
    /// Its embedding, one vector.
    Global,
    /// The features before the encoder's last layer, one vector a patch.
    Fine,
}

impl Variant {
    /// What it reads unless something else is asked for.
    pub fn usual_features(self) -> FeatureKind {
        match self {
            Self::Classic | Self::Simple => FeatureKind::Global,
            Self::Plus | Self::Prefusion => FeatureKind::Fine,
        }
    }

    /// Whether it can read these.
    pub fn reads(self, features: FeatureKind) -> bool {
        matches!(self, Self::Simple | Self::Prefusion) || features == self.usual_features()
    }

    /// The variant of an adapter, if it is one of these.
    pub(crate) fn of(adapter: &IpAdapter) -> Option<Self> {
        match (adapter.config().coupling, adapter.config().projection) {
            (AdapterCoupling::Concatenated, _) => Some(Self::Simple),
            (AdapterCoupling::Prefused, _) => Some(Self::Prefusion),
            (AdapterCoupling::Decoupled, ProjectionConfig::Classic { .. }) => Some(Self::Classic),
            (AdapterCoupling::Decoupled, ProjectionConfig::Plus(_)) => Some(Self::Plus),
            _ => None,
        }
    }

    /// Sizes of a new adapter: those of the published ones for Stable Diffusion 1.5, in proportion for others.
    ///
    /// `num_tokens` is 4 for global and 16 for fine features unless given.
    pub(crate) fn config(
        self,
        features: FeatureKind,
        num_tokens: Option<i64>,
        encoder: &ImageEncoder,
        unet: &UnetConfig,
    ) -> AdapterConfig {
        let projection = match features {
            FeatureKind::Global => ProjectionConfig::Classic {
                embed_dim: encoder.width(ImageFeatures::Embedding),
                num_tokens: num_tokens.unwrap_or(4),
            },
            FeatureKind::Fine => {
                let width = if unet.cross_attention_dim == 2048 { 1280 } else { unet.cross_attention_dim }; // as XL's
                ProjectionConfig::Plus(ResamplerConfig {
                    input: encoder.width(ImageFeatures::Penultimate),
                    width,
                    attention_width: (width / HEAD_DIM).max(1) * HEAD_DIM,
                    feed_forward: 4 * width,
                    depth: 4,
                    num_tokens: num_tokens.unwrap_or(16),
                })
            }
        };
        let coupling = match self {
            Self::Classic | Self::Plus => AdapterCoupling::Decoupled,
            Self::Simple => AdapterCoupling::Concatenated,
            Self::Prefusion => AdapterCoupling::Prefused,
        };
        AdapterConfig { coupling, ..AdapterConfig::new(projection, unet) }
    }
}
