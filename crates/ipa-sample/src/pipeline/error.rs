//! Why pictures could not be made.

use std::path::PathBuf;

use ipa_adapter::AdapterError;
use ipa_clip::{PreprocessError, TokenizerError};
use ipa_core::WeightsError;
use ipa_formats::FormatError;

use crate::preflight::lora_of;
use crate::{RequestError, SamplerKind};

/// Why pictures could not be made.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// The request is at fault.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// A file of the model is at fault.
    #[error(transparent)]
    File(#[from] FormatError),
    /// Weights are at fault.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The tokenizer's files are at fault.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The adapter is at fault.
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    /// An image or the image processor's configuration is at fault.
    #[error(transparent)]
    Image(#[from] PreprocessError),
    /// There are reference images but nothing that reads them.
    #[error("the request has reference images but no adapter was loaded: name one with `--adapter`")]
    NoAdapter,
    /// There is nothing that turns pictures into embeddings.
    #[error("{model} has no `image_encoder` folder: name one with `--image-encoder`")]
    NoImageEncoder {
        /// The model.
        model: PathBuf,
    },
    /// A request names an adapter that was not added.
    #[error("the request names the adapter {path}, which was not loaded: add it to the pipeline first")]
    UnknownAdapter {
        /// Its file.
        path: PathBuf,
    },
    /// A FaceID adapter without the changes to the model that it was trained with.
    #[error(
        "{path} was trained together with changes to the model, which it does not hold: name their file with `--lora`, \
         for the published adapters {}",
        lora_of(path)
    )]
    MissingLora {
        /// The adapter.
        path: PathBuf,
    },
    /// The changes are there twice.
    #[error("{path} holds its changes to the model itself: leave out `--lora` {lora}, which would apply them twice")]
    DoubleLora {
        /// The adapter.
        path: PathBuf,
        /// The other file.
        lora: PathBuf,
    },
    /// Stored embeddings are of another adapter.
    #[error("{path}: {problem}; write them again with `ipa embed`")]
    Embeds {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        problem: String,
    },
    /// The model's sampler is none of those that are built.
    #[error("the model's own sampler `{name}` is not built: choose one with `--scheduler`: {}", SamplerKind::NAMES)]
    Sampler {
        /// As in scheduler_config.json.
        name: String,
    },
    /// Parts that come from different models, or from one of another kind.
    #[error("the parts of {model} do not fit together: {found}, {expected}; take all of them from one model")]
    Parts {
        /// The model.
        model: PathBuf,
        /// What one part says of the other.
        found: String,
        /// What the other says of itself.
        expected: String,
    },
    /// The model draws into pictures, and the request has none.
    #[error(
        "{model} is a model for inpainting: name a picture with `--init-image` and, white, what to draw anew in it with \
         `--mask`"
    )]
    NeedsMask {
        /// The model.
        model: PathBuf,
    },
    /// Latents or pixels stopped being numbers.
    #[error("the model gave values that are not numbers: use `--dtype f32`, or look for broken weights")]
    NotANumber,
    /// The listener asked to stop.
    #[error("interrupted after step {step}")]
    Interrupted {
        /// Steps done.
        step: usize,
    },
}
