//! What adapters there are.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Which projection turns an image into tokens.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AdapterKind {
    /// One linear layer from the pooled CLIP embedding: base, light, vit-G, SDXL base.
    Classic,
    /// A resampler over the penultimate features: plus, plus-face.
    Plus,
    /// A small network over every penultimate feature: full-face.
    FullFace,
    /// A small network from a face embedding, with LoRA in the attention layers.
    FaceId,
    /// A face embedding that also reads CLIP features, with LoRA; its tokens are the reader's alone.
    FaceIdPlus,
    /// The same tensors, whose tokens are the face's plus the reader's.
    FaceIdPlusV2,
    /// A face embedding without LoRA, several faces at once.
    Portrait,
    /// A resampler over the un-normalised face embedding.
    PortraitUnnorm,
}

/// How an adapter's tokens reach the UNet.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AdapterCoupling {
    /// By keys and values of their own in every cross-attention layer, as in all published adapters.
    #[default]
    Decoupled,
    /// The same, after the tokens have attended to the text.
    Prefused,
    /// As further tokens of the text; the attention layers are the UNet's own.
    Concatenated,
}

/// The family of UNets an adapter fits, by the sizes of its attention layers.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BaseModel {
    /// Stable Diffusion 1.x: 16 layers on text features of 768.
    Sd15,
    /// Stable Diffusion XL: 70 layers on text features of 2048.
    Sdxl,
    /// Other sizes.
    Other,
}

impl BaseModel {
    /// The family with so many cross-attention layers on text features of this width.
    pub fn of(num_layers: usize, cross_attention_dim: usize) -> Self {
        match (num_layers, cross_attention_dim) {
            (16, 768) => Self::Sd15,
            (70, 2048) => Self::Sdxl,
            _ => Self::Other,
        }
    }
}

/// Name of an adapter's kind and coupling, as in our metadata and on the command line.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AdapterVariant {
    /// [`AdapterKind::Classic`].
    #[serde(alias = "classic")]
    Base,
    /// [`AdapterKind::Plus`].
    Plus,
    /// [`AdapterKind::FullFace`].
    FullFace,
    /// [`AdapterKind::FaceId`].
    #[serde(rename = "faceid")]
    FaceId,
    /// [`AdapterKind::FaceIdPlus`].
    #[serde(rename = "faceid-plus")]
    FaceIdPlus,
    /// [`AdapterKind::FaceIdPlusV2`].
    #[serde(rename = "faceid-plusv2")]
    FaceIdPlusV2,
    /// [`AdapterKind::Portrait`].
    Portrait,
    /// [`AdapterKind::PortraitUnnorm`].
    PortraitUnnorm,
    /// [`AdapterCoupling::Concatenated`], of whichever kind.
    Simple,
    /// [`AdapterCoupling::Prefused`], of whichever kind.
    Prefusion,
}

/// A name that is none of an adapter's variants.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("`{name}` is no variant of an adapter; give one of {}", AdapterVariant::names())]
pub struct UnknownVariant {
    name: String,
}

impl AdapterVariant {
    /// Whether it was trained together with changes to the UNet's weights, a LoRA.
    pub fn has_lora(self) -> bool {
        matches!(self, Self::FaceId | Self::FaceIdPlus | Self::FaceIdPlusV2)
    }

    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Base,
        Self::Plus,
        Self::FullFace,
        Self::FaceId,
        Self::FaceIdPlus,
        Self::FaceIdPlusV2,
        Self::Portrait,
        Self::PortraitUnnorm,
        Self::Simple,
        Self::Prefusion,
    ];

    /// That of an adapter of this kind and coupling.
    pub fn of(kind: AdapterKind, coupling: AdapterCoupling) -> Self {
        match (coupling, kind) {
            (AdapterCoupling::Prefused, _) => Self::Prefusion,
            (AdapterCoupling::Concatenated, _) => Self::Simple,
            (AdapterCoupling::Decoupled, AdapterKind::Classic) => Self::Base,
            (AdapterCoupling::Decoupled, AdapterKind::Plus) => Self::Plus,
            (AdapterCoupling::Decoupled, AdapterKind::FullFace) => Self::FullFace,
            (AdapterCoupling::Decoupled, AdapterKind::FaceId) => Self::FaceId,
            (AdapterCoupling::Decoupled, AdapterKind::FaceIdPlus) => Self::FaceIdPlus,
            (AdapterCoupling::Decoupled, AdapterKind::FaceIdPlusV2) => Self::FaceIdPlusV2,
            (AdapterCoupling::Decoupled, AdapterKind::Portrait) => Self::Portrait,
            (AdapterCoupling::Decoupled, AdapterKind::PortraitUnnorm) => Self::PortraitUnnorm,
        }
    }

    /// The name in metadata.
    pub fn name(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Plus => "plus",
            Self::FullFace => "full-face",
            Self::FaceId => "faceid",
            Self::FaceIdPlus => "faceid-plus",
            Self::FaceIdPlusV2 => "faceid-plusv2",
            Self::Portrait => "portrait",
            Self::PortraitUnnorm => "portrait-unnorm",
            Self::Simple => "simple",
            Self::Prefusion => "prefusion",
        }
    }

    fn names() -> String {
        Self::ALL.map(Self::name).join(", ")
    }
}

impl fmt::Display for AdapterVariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for AdapterVariant {
    type Err = UnknownVariant;

    /// Also reads `classic`, which files of this project's first version say for `base`.
    fn from_str(name: &str) -> Result<Self, UnknownVariant> {
        let known = Self::ALL.into_iter().find(|variant| variant.name() == name);
        known.or((name == "classic").then_some(Self::Base)).ok_or_else(|| UnknownVariant { name: name.to_owned() })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_variant_has_one_name_everywhere() {
        for variant in AdapterVariant::ALL {
            assert_eq!(variant.name().parse(), Ok(variant));
            assert_eq!(serde_json::to_value(variant).unwrap(), variant.name());
        }
        assert_eq!("classic".parse(), Ok(AdapterVariant::Base));
        let error = "plus-face".parse::<AdapterVariant>().unwrap_err().to_string();
        assert!(error.contains("`plus-face`") && error.contains("portrait-unnorm"), "{error}");
    }
}
