//! The kinds of adapter that training can begin from nothing.

use ipa_adapter::{
    AdapterConfig, AdapterCoupling, AdapterVariant, FaceConfig, ImageFeatures, IpAdapter, ProjectionConfig,
    ResamplerConfig,
};
use ipa_unet::UnetConfig;
use serde::{Deserialize, Serialize};

/// Width of a resampler's attention heads.
const HEAD_DIM: i64 = 64;
/// Layers of a resampler.
const DEPTH: i64 = 4;
/// Rank of the changes to the UNet's weights inside the published FaceID adapters.
const LORA_RANK: i64 = 128;

/// How the UNet comes to see the image tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Variant {
    /// Attention of their own, from the global embedding: the base adapter.
    Classic,
    /// Attention of their own, from fine-grained features: the plus adapter.
    Plus,
    /// The plus adapter of pictures that show a face alone.
    PlusFace,
    /// One token a feature, of pictures that show a face alone.
    FullFace,
    /// From an identity vector, with low-rank changes to the UNet's attention.
    #[serde(rename = "faceid")]
    FaceId,
    /// From an identity vector, whose tokens look at fine-grained features, with low-rank changes.
    #[serde(rename = "faceid-plus")]
    FaceIdPlus,
    /// The same, where what they have seen is added to them.
    #[serde(rename = "faceid-plusv2")]
    FaceIdPlusV2,
    /// From one identity vector or several, the UNet as it is.
    Portrait,
    /// From an identity vector that is not of unit length, by a resampler, the UNet as it is.
    PortraitUnnorm,
    /// Beside the text tokens in the UNet's own attention, which stays as it is: the paper's ablation
    /// (arXiv:2308.06721 §4.3.1).
    Simple,
    /// Attention of their own after they have looked at the text.
    Prefusion,
}

/// What an adapter reads of a reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FeatureKind {
    /// The encoder's embedding of a picture, one vector.
    Global,
    /// The features before the encoder's last layer, one vector a patch.
    Fine,
    /// An identity vector.
    Identity,
    /// An identity vector and, of a picture of the face, the fine-grained features.
    IdentityAndFine,
}

impl FeatureKind {
    /// What a projection reads.
    pub(crate) fn of(projection: &ProjectionConfig) -> Self {
        match (projection.image_features(), projection.face_width()) {
            (Some(ImageFeatures::Embedding), _) => Self::Global,
            (Some(ImageFeatures::Penultimate), None) => Self::Fine,
            (Some(ImageFeatures::Penultimate), Some(_)) => Self::IdentityAndFine,
            (None, _) => Self::Identity,
        }
    }
}

/// What a new adapter is to fit.
pub(crate) struct Around<'a> {
    /// Width of what the image encoder says of a picture; asked only for what the adapter reads.
    pub(crate) image_width: &'a dyn Fn(ImageFeatures) -> i64,
    /// Width of identity vectors: 512.
    pub(crate) face_width: i64,
    /// The UNet.
    pub(crate) unet: &'a UnetConfig,
}

impl Variant {
    /// That which is begun if only `features` are asked for.
    pub(crate) fn usual_for(features: Option<FeatureKind>) -> Self {
        match features {
            None | Some(FeatureKind::Global) => Self::Classic,
            Some(FeatureKind::Fine) => Self::Plus,
            Some(FeatureKind::Identity) => Self::FaceId,
            Some(FeatureKind::IdentityAndFine) => Self::FaceIdPlusV2,
        }
    }

    /// What it reads unless something else is asked for.
    pub fn usual_features(self) -> FeatureKind {
        match self {
            Self::Classic | Self::Simple => FeatureKind::Global,
            Self::Plus | Self::PlusFace | Self::FullFace | Self::Prefusion => FeatureKind::Fine,
            Self::FaceId | Self::Portrait | Self::PortraitUnnorm => FeatureKind::Identity,
            Self::FaceIdPlus | Self::FaceIdPlusV2 => FeatureKind::IdentityAndFine,
        }
    }

    /// Whether it can read these.
    pub fn reads(self, features: FeatureKind) -> bool {
        match self {
            Self::Simple | Self::Prefusion => matches!(features, FeatureKind::Global | FeatureKind::Fine),
            _ => features == self.usual_features(),
        }
    }

    /// Whether the number of tokens a reference becomes can be chosen.
    pub fn chooses_tokens(self) -> bool {
        self != Self::FullFace
    }

    /// What its files are called; plus-face differs from plus only in what it was shown.
    pub fn file_variant(self) -> AdapterVariant {
        match self {
            Self::Classic => AdapterVariant::Base,
            Self::Plus | Self::PlusFace => AdapterVariant::Plus,
            Self::FullFace => AdapterVariant::FullFace,
            Self::FaceId => AdapterVariant::FaceId,
            Self::FaceIdPlus => AdapterVariant::FaceIdPlus,
            Self::FaceIdPlusV2 => AdapterVariant::FaceIdPlusV2,
            Self::Portrait => AdapterVariant::Portrait,
            Self::PortraitUnnorm => AdapterVariant::PortraitUnnorm,
            Self::Simple => AdapterVariant::Simple,
            Self::Prefusion => AdapterVariant::Prefusion,
        }
    }

    /// Whether an adapter may be one of these.
    pub fn is_of(self, adapter: &IpAdapter) -> bool {
        self.file_variant() == adapter.config().variant()
    }

    /// Sizes of a new adapter: those of the published ones for Stable Diffusion 1.5 and XL, in proportion for others.
    ///
    /// `num_tokens` is that of the published ones unless given, and has no part in full-face.
    pub(crate) fn config(self, features: FeatureKind, num_tokens: Option<i64>, around: &Around) -> AdapterConfig {
        let context = around.unet.cross_attention_dim;
        let penultimate = || (around.image_width)(ImageFeatures::Penultimate);
        let wide = if context == 2048 { 1280 } else { context }; // as XL's
        let tokens = |usual| num_tokens.unwrap_or(usual);
        let face = |num_tokens| FaceConfig { input: around.face_width, hidden: 2 * around.face_width, num_tokens };
        let face_plus = |has_shortcut| {
            let perceiver = resampler(penultimate(), context, tokens(4));
            ProjectionConfig::FacePlus { face: face(tokens(4)), perceiver, has_shortcut }
        };
        let projection = match self {
            Self::FullFace => ProjectionConfig::FullFace { input: penultimate() },
            Self::FaceId => ProjectionConfig::Face(face(tokens(4))),
            Self::FaceIdPlus => face_plus(false),
            Self::FaceIdPlusV2 => face_plus(true),
            Self::Portrait => ProjectionConfig::Portrait(face(tokens(16))),
            Self::PortraitUnnorm => ProjectionConfig::FaceResampler(resampler(around.face_width, wide, tokens(16))),
            Self::Classic | Self::Plus | Self::PlusFace | Self::Simple | Self::Prefusion => match features {
                FeatureKind::Global => {
                    let embed_dim = (around.image_width)(ImageFeatures::Embedding);
                    ProjectionConfig::Classic { embed_dim, num_tokens: tokens(4) }
                }
                _ => ProjectionConfig::Plus(resampler(penultimate(), wide, tokens(16))),
            },
        };
        let coupling = match self {
            Self::Simple => AdapterCoupling::Concatenated,
            Self::Prefusion => AdapterCoupling::Prefused,
            _ => AdapterCoupling::Decoupled,
        };
        let lora_rank = self.file_variant().has_lora().then(|| (context / 6).clamp(1, LORA_RANK)); // 768 / 6 = 128
        AdapterConfig { coupling, lora_rank, ..AdapterConfig::new(projection, around.unet) }
    }
}

fn resampler(input: i64, width: i64, num_tokens: i64) -> ResamplerConfig {
    let attention_width = (width / HEAD_DIM).max(1) * HEAD_DIM;
    ResamplerConfig { input, width, attention_width, feed_forward: 4 * width, depth: DEPTH, num_tokens }
}

/// Tokens that a reference becomes, where that is not one a feature.
pub(crate) fn num_tokens(projection: &ProjectionConfig) -> Option<i64> {
    match projection {
        ProjectionConfig::Classic { num_tokens, .. } => Some(*num_tokens),
        ProjectionConfig::Plus(sizes) | ProjectionConfig::FaceResampler(sizes) => Some(sizes.num_tokens),
        ProjectionConfig::Face(face) | ProjectionConfig::Portrait(face) | ProjectionConfig::FacePlus { face, .. } => {
            Some(face.num_tokens)
        }
        ProjectionConfig::FullFace { .. } => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use ipa_core::noise::Draws;
    use ipa_core::tch::{Device, Kind, Tensor};
    use ipa_sample::{NoiseSchedule, SchedulerConfig};
    use ipa_unet::Unet;

    use super::*;
    use crate::{Batch, LowRankUnet, training_loss};

    const ALL: [Variant; 11] = [
        Variant::Classic,
        Variant::Plus,
        Variant::PlusFace,
        Variant::FullFace,
        Variant::FaceId,
        Variant::FaceIdPlus,
        Variant::FaceIdPlusV2,
        Variant::Portrait,
        Variant::PortraitUnnorm,
        Variant::Simple,
        Variant::Prefusion,
    ];

    fn begun(variant: Variant, unet: &UnetConfig) -> IpAdapter {
        let vit_h = |features| match features {
            ImageFeatures::Embedding => 1024,
            ImageFeatures::Penultimate => 1280,
        };
        let around = Around { image_width: &vit_h, face_width: 512, unet };
        IpAdapter::new(&variant.config(variant.usual_features(), None, &around), (Device::Cpu, Kind::Float))
    }

    fn num_parameters(variant: Variant, unet: &UnetConfig) -> usize {
        begun(variant, unet).variables().values().map(|variable| variable.numel()).sum()
    }

    /// As counted from the published files with ViT-H, for XL too.
    #[test]
    fn new_adapters_have_the_published_sizes() {
        let (sd15, sdxl) = (UnetConfig::sd15(), UnetConfig::sdxl());
        for (variant, expected) in [
            (Variant::Plus, 49_087_488),
            (Variant::PlusFace, 49_087_488),
            (Variant::FaceId, 48_354_816),
            (Variant::FaceIdPlus, 78_260_736),
            (Variant::FaceIdPlusV2, 78_260_736),
            (Variant::Portrait, 32_291_328),
        ] {
            assert_eq!(num_parameters(variant, &sd15), expected, "{variant:?}");
        }
        for (variant, expected) in [
            (Variant::Plus, 423_748_864),
            (Variant::FaceId, 535_507_968),
            (Variant::FaceIdPlusV2, 743_707_648),
            (Variant::Portrait, 374_903_808),
        ] {
            assert_eq!(num_parameters(variant, &sdxl), expected, "{variant:?} of XL");
        }
    }

    #[test]
    fn every_variant_makes_what_its_files_are_called() {
        for variant in ALL {
            let adapter = begun(variant, &UnetConfig::sd15());
            assert!(variant.is_of(&adapter), "{variant:?}");
            let projection = &adapter.config().projection;
            assert_eq!(FeatureKind::of(projection), variant.usual_features(), "{variant:?}");
            assert_eq!(num_tokens(projection).is_some(), variant.chooses_tokens(), "{variant:?}");
            assert!(variant.reads(variant.usual_features()));
            let name = serde_json::to_value(variant).unwrap();
            let shared = ["classic", "plus-face"].contains(&name.as_str().unwrap());
            assert!(shared || name == variant.file_variant().name(), "{name}");
        }
    }

    #[test]
    fn what_is_asked_for_by_its_features_reads_them() {
        for features in [FeatureKind::Global, FeatureKind::Fine, FeatureKind::Identity, FeatureKind::IdentityAndFine] {
            assert!(Variant::usual_for(Some(features)).reads(features), "{features:?}");
        }
    }

    /// Two rows, each with two faces for a portrait; the second without a reference.
    fn batch(variant: Variant) -> Batch {
        let mut draws = Draws::seeded(11);
        let latents = draws.normal(&[2, 4, 8, 8]);
        let noise = draws.normal(&[2, 4, 8, 8]);
        let mut dropped =
            |shape: &[i64]| Tensor::cat(&[draws.normal(shape), Tensor::zeros(shape, (Kind::Float, Device::Cpu))], 0);
        let (image_features, face) = match variant.usual_features() {
            FeatureKind::Global => (Some(dropped(&[1, 24])), None),
            FeatureKind::Fine => (Some(dropped(&[1, 5, 32])), None),
            FeatureKind::Identity if variant == Variant::Portrait => (None, Some(dropped(&[1, 2, 16]))),
            FeatureKind::Identity => (None, Some(dropped(&[1, 16]))),
            FeatureKind::IdentityAndFine => (Some(dropped(&[1, 5, 32])), Some(dropped(&[1, 16]))),
        };
        let text_embeds = dropped(&[1, 6, 40]);
        let timesteps = Tensor::from_slice(&[20_i64, 800]);
        let (perturbation, weights, mask) = (None, None, None);
        Batch { latents, noise, perturbation, timesteps, text_embeds, image_features, face, weights, mask }
    }

    #[test]
    fn a_loss_reaches_every_tensor_of_every_variant() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/tiny_sd2/unet");
        let unet = Unet::load_with_variables(folder.as_path(), (Device::Cpu, Kind::Float)).unwrap();
        let width = |features| if features == ImageFeatures::Embedding { 24 } else { 32 };
        let around = Around { image_width: &width, face_width: 16, unet: &unet.config };
        let schedule = NoiseSchedule::new(&SchedulerConfig::sd15_ddim());
        for variant in ALL {
            let sizes = variant.config(variant.usual_features(), None, &around);
            let adapter = IpAdapter::new(&sizes, (Device::Cpu, Kind::Float));
            adapter.initialize(&unet.vs.variables(), 1);
            let variables: Vec<_> =
                adapter.variables().into_iter().map(|(name, tensor)| (name, tensor.set_requires_grad(true))).collect();
            let mut low_rank = LowRankUnet::new(&unet, &adapter);
            let learns_in = low_rank.as_ref().map_or(&unet.model, LowRankUnet::unet);
            training_loss(learns_in, &adapter, &schedule, &batch(variant)).unwrap().backward();
            low_rank.iter_mut().for_each(LowRankUnet::pass_gradients);
            for (name, tensor) in variables {
                let gradient = tensor.grad();
                assert!(gradient.defined(), "{variant:?}: {name}");
                // Behind a matrix of zeros there is nothing to learn yet.
                let waits = name.ends_with("_lora.down.weight") || name.starts_with("prefusion.");
                let size = gradient.abs().max().double_value(&[]);
                assert!(size.is_finite() && (size > 0.0 || waits), "{variant:?}: {name}");
            }
        }
    }
}
