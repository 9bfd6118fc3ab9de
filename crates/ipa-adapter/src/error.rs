//! Why an adapter cannot be used.

use std::path::PathBuf;

use ipa_core::WeightsError;

/// Why an adapter cannot be loaded, saved or prompted.
#[derive(Debug, thiserror::Error)]
pub enum AdapterError {
    /// The file itself is at fault, or its tensors are not those of the adapter.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The file holds no adapter.
    #[error("{path} is not an IP-Adapter")]
    NotAnAdapter {
        /// The file.
        path: PathBuf,
        /// What is missing.
        source: ipa_formats::AdapterError,
    },
    /// The file holds an adapter of a kind that is not built.
    #[error(
        "{path} is a {kind} adapter; of the published kinds, base, light, plus, plus-face and full-face can be used"
    )]
    Kind {
        /// The file.
        path: PathBuf,
        /// What it was recognised as.
        kind: String,
    },
    /// The adapter was made for another base model.
    #[error("{path} is for a model with {theirs}; this one has {ours}: use an adapter made for this base model")]
    Base {
        /// The file.
        path: PathBuf,
        /// What the adapter expects.
        theirs: String,
        /// What the UNet has.
        ours: String,
    },
    /// The image embeddings come from another encoder.
    #[error("the image encoder gives embeddings of width {found}, the adapter was trained with {expected}: {}", encoder_of(*.expected))]
    EmbedDim {
        /// Width of the embeddings given.
        found: i64,
        /// Width the adapter was trained with.
        expected: i64,
    },
    /// The penultimate features come from another encoder.
    #[error("the image encoder's features have width {found}, the adapter was trained with {expected}: {}", tower_of(*.expected))]
    FeatureWidth {
        /// Width of the features given.
        found: i64,
        /// Width the adapter was trained with.
        expected: i64,
    },
}

/// By the width before the last layer.
fn tower_of(width: i64) -> &'static str {
    match width {
        1280 => encoder_of(1024),
        1664 => encoder_of(1280),
        1024 => encoder_of(768),
        _ => encoder_of(width),
    }
}

/// By the width of the embedding.
fn encoder_of(width: i64) -> &'static str {
    match width {
        1024 => "it needs OpenCLIP ViT-H/14 (`models/image_encoder` beside the published adapters)",
        1280 => "it needs OpenCLIP ViT-bigG/14 (`sdxl_models/image_encoder` beside the published adapters)",
        768 => "it needs OpenAI ViT-L/14",
        _ => "name its own encoder with `--image-encoder`",
    }
}
