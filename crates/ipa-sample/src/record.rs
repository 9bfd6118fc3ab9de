//! How a picture came about, to be kept with it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::GenerateRequest;

/// All that drew a picture: what every written picture carries, and what draws it again.
///
/// Files are named as the caller named them. There is no clock in it, so that equal runs write equal bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Version of the program.
    pub ipa: String,
    /// The request, with all its pictures.
    pub request: GenerateRequest,
    /// Which of them this one is, from 0.
    pub index: usize,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// The sampler, where the request leaves it to the model too.
    pub scheduler: String,
    /// Where it was computed.
    pub device: String,
    /// In which precision.
    pub dtype: String,
    /// The base model, if the caller told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelRecord>,
    /// The adapter, if one was used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<AdapterRecord>,
    /// Its image encoder; one inside the model's folder goes by the model's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_encoder: Option<FileRecord>,
    /// The pictures that the request names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pictures: Vec<FileRecord>,
    /// The other files that the request names: identity vectors, embeddings, adapters and what belongs to them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<FileRecord>,
}

/// A file or folder and the digest of its contents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    /// As the caller named it.
    pub file: PathBuf,
    /// SHA-256, hexadecimal.
    pub sha256: String,
}

/// An adapter with what was said of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdapterRecord {
    /// The adapter itself.
    #[serde(flatten)]
    pub file: FileRecord,
    /// Changes to the model from a file of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<FileRecord>,
    /// The variant that it was said to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<ipa_formats::AdapterVariant>,
    /// The numbering that it was said to have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub numbering: Option<ipa_formats::Numbering>,
}

/// A base model with what was changed about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelRecord {
    /// The model itself.
    #[serde(flatten)]
    pub file: FileRecord,
    /// An autoencoder from elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vae: Option<FileRecord>,
    /// A tokenizer from elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<FileRecord>,
    /// Whether averaged weights were taken.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ema: bool,
    /// What the UNet was said to predict.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prediction_type: Option<ipa_formats::PredictionType>,
}
