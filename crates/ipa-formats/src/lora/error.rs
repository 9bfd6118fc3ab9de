//! Why a file is no LoRA.

/// Why a file is no LoRA that fits a UNet.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum LoraError {
    /// A file without tensors.
    #[error("it holds no tensors")]
    Empty,
    /// A tensor for a module that the UNet does not have, or with a name of no known dialect.
    #[error("tensor `{name}` belongs to no module of this UNet; the file is for another model or of another kind")]
    Unknown {
        /// Its name.
        name: String,
    },
    /// A tensor for a text tower, which an image prompt's LoRA has no business with.
    #[error("tensor `{name}` changes a text encoder, only the UNet can be changed; take a file for the UNet alone")]
    TextEncoder {
        /// Its name.
        name: String,
    },
    /// A tensor of a method that is more than two factors.
    #[error("tensor `{name}` is of {method}, which is not read; take a plain LoRA")]
    Method {
        /// Its name.
        name: String,
        /// The method.
        method: &'static str,
    },
    /// Half of a pair.
    #[error("tensor `{name}` has no partner, the {missing} factor of its module")]
    Partner {
        /// The half that is there.
        name: String,
        /// Which is missing.
        missing: &'static str,
    },
    /// Two tensors for the same purpose.
    #[error("tensors `{first}` and `{second}` stand for the same factor of one module; remove one")]
    Twice {
        /// Name of the one.
        first: String,
        /// Name of the other.
        second: String,
    },
    /// A tensor whose shape does not fit.
    #[error("tensor `{name}` has shape {shape:?}, expected {expected}")]
    Shape {
        /// Its name.
        name: String,
        /// Its sizes.
        shape: Vec<usize>,
        /// What fits.
        expected: String,
    },
    /// An entry of the header from which scales are read.
    #[error(
        "its metadata entry `lora_adapter_metadata` {problem}; save the LoRA again, or remove the entry if every scale is 1"
    )]
    Metadata {
        /// What is wrong with it.
        problem: String,
    },
    /// A scale that is no number.
    #[error("tensor `{name}` is no finite floating-point number")]
    Alpha {
        /// Its name.
        name: String,
    },
}
