//! From what is known of a reference to prompt tokens.

mod classic;
mod face;
mod full_face;
mod prefusion;
mod resampler;

use ipa_core::tch::{Tensor, nn::Path};
use ipa_formats::{AdapterInfo, AdapterKind, ResamplerSizes};

use crate::{Features, ImageFeatures};
pub use classic::ImageProjection;
pub use face::{FaceConfig, FacePlusProjection, FaceProjection};
pub use full_face::FullFaceProjection;
pub(crate) use prefusion::Prefusion;
pub use resampler::{Resampler, ResamplerConfig};

const NORM_EPS: f64 = 1e-5;

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
    /// An identity alone, beside changes to the UNet: FaceID.
    Face(FaceConfig),
    /// Identities of one person or several, without changes to the UNet: portrait.
    Portrait(FaceConfig),
    /// An identity and the face's picture: FaceID-Plus.
    FacePlus {
        /// What makes tokens of the identity.
        face: FaceConfig,
        /// What looks at the picture; `num_tokens` is that of `face`.
        perceiver: ResamplerConfig,
        /// Version 2: what is seen in the picture is added to the identity's tokens.
        has_shortcut: bool,
    },
    /// A resampler over the identity as it is, not normalised: the adapter called portrait-unnorm.
    FaceResampler(ResamplerConfig),
}

impl ProjectionConfig {
    /// That of an adapter file; `None` if the header lacks a size that its kind has.
    pub(crate) fn of(info: &AdapterInfo) -> Option<Self> {
        let num_tokens = info.num_tokens as i64;
        let image = || info.image_embed_dim.map(|width| width as i64);
        let face = || {
            let (input, hidden) = (info.face_embed_dim? as i64, info.face_hidden? as i64);
            Some(FaceConfig { input, hidden, num_tokens })
        };
        let resampler = |input: i64| Some(resampler_config(info.resampler?, input, num_tokens));
        Some(match info.kind {
            AdapterKind::Classic => Self::Classic { embed_dim: image()?, num_tokens },
            AdapterKind::FullFace => Self::FullFace { input: image()? },
            AdapterKind::Plus => Self::Plus(resampler(image()?)?),
            AdapterKind::FaceId => Self::Face(face()?),
            AdapterKind::Portrait => Self::Portrait(face()?),
            AdapterKind::FaceIdPlus | AdapterKind::FaceIdPlusV2 => Self::FacePlus {
                face: face()?,
                perceiver: resampler(image()?)?,
                has_shortcut: info.kind == AdapterKind::FaceIdPlusV2,
            },
            AdapterKind::PortraitUnnorm => Self::FaceResampler(resampler(info.face_embed_dim? as i64)?),
        })
    }

    /// What of a picture it reads, if it reads pictures.
    pub fn image_features(&self) -> Option<ImageFeatures> {
        match self {
            Self::Classic { .. } => Some(ImageFeatures::Embedding),
            Self::Plus(_) | Self::FullFace { .. } | Self::FacePlus { .. } => Some(ImageFeatures::Penultimate),
            Self::Face(_) | Self::Portrait(_) | Self::FaceResampler(_) => None,
        }
    }

    /// Width of what it reads of a picture, if it reads pictures.
    pub fn image_width(&self) -> Option<i64> {
        match self {
            Self::Classic { embed_dim, .. } => Some(*embed_dim),
            Self::Plus(config) | Self::FacePlus { perceiver: config, .. } => Some(config.input),
            Self::FullFace { input } => Some(*input),
            Self::Face(_) | Self::Portrait(_) | Self::FaceResampler(_) => None,
        }
    }

    /// Width of the identity vectors it reads, if it reads any.
    pub fn face_width(&self) -> Option<i64> {
        match self {
            Self::Face(face) | Self::Portrait(face) | Self::FacePlus { face, .. } => Some(face.input),
            Self::FaceResampler(config) => Some(config.input),
            Self::Classic { .. } | Self::Plus(_) | Self::FullFace { .. } => None,
        }
    }
}

fn resampler_config(sizes: ResamplerSizes, input: i64, num_tokens: i64) -> ResamplerConfig {
    ResamplerConfig {
        input,
        width: sizes.width as i64,
        attention_width: sizes.attention_width as i64,
        feed_forward: sizes.feed_forward as i64,
        depth: sizes.depth as i64,
        num_tokens,
    }
}

/// A projection of any kind.
#[derive(Debug)]
pub(crate) enum Projection {
    Classic(ImageProjection),
    Plus(Resampler),
    FullFace(FullFaceProjection),
    Face(FaceProjection),
    FacePlus(FacePlusProjection),
    FaceResampler(Resampler),
}

impl Projection {
    pub(crate) fn new(vs: &Path, config: &ProjectionConfig, width: i64) -> Self {
        match config {
            ProjectionConfig::Classic { embed_dim, num_tokens } => {
                Self::Classic(ImageProjection::new(vs, *embed_dim, *num_tokens, width))
            }
            ProjectionConfig::Plus(config) => Self::Plus(Resampler::new(vs, config, width)),
            ProjectionConfig::FullFace { input } => Self::FullFace(FullFaceProjection::new(vs, *input, width)),
            ProjectionConfig::Face(config) | ProjectionConfig::Portrait(config) => {
                Self::Face(FaceProjection::new(vs, config, width))
            }
            ProjectionConfig::FacePlus { face, perceiver, has_shortcut } => {
                Self::FacePlus(FacePlusProjection::new(vs, face, perceiver, *has_shortcut, width))
            }
            ProjectionConfig::FaceResampler(config) => Self::FaceResampler(Resampler::new(vs, config, width)),
        }
    }

    /// Features of one reference a row → `[batch, num_tokens, width]`.
    ///
    /// # Panics
    /// If `features` lacks what this kind reads.
    pub(crate) fn forward(&self, features: &Features) -> Tensor {
        let image = || features.image.as_ref().expect("features of a picture");
        let face = || features.face.as_ref().expect("an identity vector");
        match self {
            Self::Classic(projection) => projection.forward(image()),
            Self::Plus(resampler) => resampler.forward(image()),
            Self::FullFace(projection) => projection.forward(image()),
            Self::Face(projection) => projection.forward(face()),
            Self::FacePlus(projection) => projection.forward(face(), image(), features.structure),
            Self::FaceResampler(resampler) => resampler.forward(&face().unsqueeze(1)),
        }
    }
}
