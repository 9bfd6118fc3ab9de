//! Files that an image prompt names: an adapter, a picture.

use std::path::{Path, PathBuf};

use ipa_adapter::AdapterOptions;
use ipa_formats::{AdapterVariant, Numbering};
use serde::{Deserialize, Serialize};

use super::crop::Crop;
use crate::RequestError;

/// An adapter file with what belongs to it; as text, its path alone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "SourceText", deny_unknown_fields)]
pub struct AdapterSource {
    /// The file.
    pub file: PathBuf,
    /// The folder of its image encoder; without one, the model's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_encoder: Option<PathBuf>,
    /// The file of a FaceID adapter's LoRA, where that is not inside the adapter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora: Option<PathBuf>,
    /// The variant, where tensors do not show it: `faceid-plusv2` has those of `faceid-plus`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variant: Option<AdapterVariant>,
    /// How its layers are numbered.
    #[serde(skip_serializing_if = "is_published")]
    pub numbering: Numbering,
}

fn is_published(numbering: &Numbering) -> bool {
    *numbering == Numbering::Published
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "a file, or a table of file, image_encoder, lora, variant (such as faceid-plusv2), numbering (published, dense)"
)]
enum SourceText {
    File(PathBuf),
    Source(SourceTable),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SourceTable {
    file: PathBuf,
    image_encoder: Option<PathBuf>,
    lora: Option<PathBuf>,
    variant: Option<AdapterVariant>,
    #[serde(default)]
    numbering: Numbering,
}

impl From<SourceText> for AdapterSource {
    fn from(text: SourceText) -> Self {
        match text {
            SourceText::File(file) => Self { file, ..Self::default() },
            SourceText::Source(SourceTable { file, image_encoder, lora, variant, numbering }) => {
                Self { file, image_encoder, lora, variant, numbering }
            }
        }
    }
}

impl From<&Path> for AdapterSource {
    fn from(file: &Path) -> Self {
        Self { file: file.to_owned(), ..Self::default() }
    }
}

impl AdapterSource {
    /// How its file is to be read.
    pub fn options(&self) -> AdapterOptions {
        AdapterOptions { numbering: self.numbering, variant: self.variant }
    }

    pub(super) fn paths(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        std::iter::once(&mut self.file).chain(&mut self.image_encoder).chain(&mut self.lora)
    }
}

/// A reference picture; as text, its path alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(from = "ReferenceText")]
pub struct Reference {
    /// The file.
    pub file: PathBuf,
    /// A factor: on what the encoder says of it or, with masks, on its strength.
    pub weight: f64,
    /// Where in the picture it acts: white in a picture of any size, grey in part.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mask: Option<PathBuf>,
    /// What the encoder is to see of it, in place of what holds for all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crop: Option<Crop>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a file, or a table of file, weight, mask, crop")]
enum ReferenceText {
    File(PathBuf),
    Reference(ReferenceTable),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReferenceTable {
    file: PathBuf,
    #[serde(default = "one")]
    weight: f64,
    mask: Option<PathBuf>,
    crop: Option<Crop>,
}

fn one() -> f64 {
    1.0
}

impl From<ReferenceText> for Reference {
    fn from(text: ReferenceText) -> Self {
        match text {
            ReferenceText::File(file) => Self::from(file),
            ReferenceText::Reference(ReferenceTable { file, weight, mask, crop }) => Self { file, weight, mask, crop },
        }
    }
}

impl From<PathBuf> for Reference {
    fn from(file: PathBuf) -> Self {
        Self { file, weight: 1.0, mask: None, crop: None }
    }
}

impl Reference {
    pub(super) fn check(&self) -> Result<(), RequestError> {
        if !(0.0..=10.0).contains(&self.weight) {
            let value = self.weight.to_string();
            return Err(RequestError::Field { field: "weight", value, allowed: "choose 0 to 10; 1 is usual" });
        }
        self.crop.map_or(Ok(()), Crop::check)
    }
}
