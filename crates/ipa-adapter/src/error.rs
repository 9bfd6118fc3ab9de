//! Why an adapter cannot be used.

use std::path::PathBuf;

use ipa_core::WeightsError;
use ipa_formats::BaseModel;

/// Why an adapter cannot be loaded, saved or prompted.
#[derive(Debug, thiserror::Error)]
pub enum AdapterError {
    /// The file itself is at fault, or its tensors are not those of the adapter.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A size that the kind has is not in the header.
    #[error("{path} does not show all sizes of its kind: the file is incomplete")]
    Sizes {
        /// The file.
        path: PathBuf,
    },
    /// The adapter was made for another base model.
    #[error("{path} is for a model with {theirs}; this one has {ours}: use {}", fitting(*.base))]
    Base {
        /// The file.
        path: PathBuf,
        /// What the adapter expects.
        theirs: String,
        /// What the UNet has.
        ours: String,
        /// The family that it is of.
        base: BaseModel,
    },
    /// The adapter reads pictures.
    #[error("this adapter reads a picture: name one with `--image`, for FaceID-Plus the face's, aligned and cut out")]
    NeedsPicture,
    /// The adapter reads identity vectors.
    #[error(
        "this adapter reads faces: name a file of identity vectors of width {width} with `--face`, InsightFace's embeddings \
         as .npy or .safetensors"
    )]
    NeedsFace {
        /// Their width.
        width: i64,
    },
    /// The identity vectors come from another face recogniser.
    #[error(
        "the identity vectors have width {found}, the adapter was trained with {expected}: use InsightFace's buffalo_l"
    )]
    FaceWidth {
        /// Width of the vectors given.
        found: i64,
        /// Width the adapter was trained with.
        expected: i64,
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

/// The published files for a model.
fn fitting(base: BaseModel) -> &'static str {
    match base {
        BaseModel::Sd15 => "an adapter made for Stable Diffusion 1.5, such as ip-adapter_sd15.safetensors",
        BaseModel::Sdxl => "an adapter made for Stable Diffusion XL, such as ip-adapter_sdxl_vit-h.safetensors",
        BaseModel::Other => "an adapter made for this base model",
    }
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
