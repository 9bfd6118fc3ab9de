//! From what an image encoder says of a picture to prompt tokens.

mod classic;
mod full_face;
mod resampler;

use ipa_core::tch::{Tensor, nn::Path};
use ipa_formats::{AdapterInfo, AdapterKind};

pub use classic::ImageProjection;
pub use full_face::FullFaceProjection;
pub use resampler::{Resampler, ResamplerConfig};

const NORM_EPS: f64 = 1e-5;

/// What of a picture a projection reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ImageFeatures {
    /// The projected embedding, one vector a picture: what the picture is about.
    Embedding,
    /// The features before the encoder's last layer, one vector a patch and one for the whole: details too.
    Penultimate,
}

/// Kind and sizes of a projection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProjectionConfig {
    /// A few tokens from one embedding: the base adapters, light ones included.
    Classic {
        /// Width of the embedding: 1024 with ViT-H.
        embed_dim: i64,
        /// Tokens a picture becomes: 4.
        num_tokens: i64,
    },
    /// A resampler: the adapters called plus and plus-face.
    Plus(ResamplerConfig),
    /// One token a feature: the adapter called full-face.
    FullFace {
        /// Width of the features: 1280 with ViT-H.
        input: i64,
    },
}

impl ProjectionConfig {
    /// That of an adapter file; `None` for kinds that are not built.
    pub(crate) fn of(info: &AdapterInfo) -> Option<Self> {
        let input = info.image_embed_dim? as i64;
        let num_tokens = info.num_tokens as i64;
        match info.kind {
            AdapterKind::Classic => Some(Self::Classic { embed_dim: input, num_tokens }),
            AdapterKind::FullFace => Some(Self::FullFace { input }),
            AdapterKind::Plus => {
                let sizes = info.resampler?;
                Some(Self::Plus(ResamplerConfig {
                    input,
                    width: sizes.width as i64,
                    attention_width: sizes.attention_width as i64,
                    feed_forward: sizes.feed_forward as i64,
                    depth: sizes.depth as i64,
                    num_tokens,
                }))
            }
            _ => None,
        }
    }

    /// What it reads.
    pub fn features(&self) -> ImageFeatures {
        match self {
            Self::Classic { .. } => ImageFeatures::Embedding,
            Self::Plus(_) | Self::FullFace { .. } => ImageFeatures::Penultimate,
        }
    }

    /// Width of what it reads.
    pub fn input(&self) -> i64 {
        match self {
            Self::Classic { embed_dim, .. } => *embed_dim,
            Self::Plus(config) => config.input,
            Self::FullFace { input } => *input,
        }
    }
}

/// A projection of any kind.
#[derive(Debug)]
pub(crate) enum Projection {
    Classic(ImageProjection),
    Plus(Resampler),
    FullFace(FullFaceProjection),
}

impl Projection {
    pub(crate) fn new(vs: &Path, config: &ProjectionConfig, width: i64) -> Self {
        match config {
            ProjectionConfig::Classic { embed_dim, num_tokens } => {
                Self::Classic(ImageProjection::new(vs, *embed_dim, *num_tokens, width))
            }
            ProjectionConfig::Plus(config) => Self::Plus(Resampler::new(vs, config, width)),
            ProjectionConfig::FullFace { input } => Self::FullFace(FullFaceProjection::new(vs, *input, width)),
        }
    }

    pub(crate) fn forward(&self, features: &Tensor) -> Tensor {
        match self {
            Self::Classic(projection) => projection.forward(features),
            Self::Plus(resampler) => resampler.forward(features),
            Self::FullFace(projection) => projection.forward(features),
        }
    }
}
