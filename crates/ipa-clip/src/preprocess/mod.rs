//! From image files to what the vision towers see, as Pillow and transformers compute it.

mod crop;
mod jpeg;
mod load;
mod processor;
mod resize;

use std::io;
use std::path::PathBuf;

use ipa_formats::FormatError;

pub use crop::{CropPlace, CropRule, resize_and_crop, resize_to_cover};
pub use load::{MAX_IMAGE_BYTES, MAX_PIXELS, decode_image, image_size, load_image};
pub use processor::ImageProcessor;
pub use resize::{Filter, resize};

/// Why an image or a processor's configuration could not be used.
#[derive(Debug, thiserror::Error)]
pub enum PreprocessError {
    /// The operating system refused to read.
    #[error("cannot read {path}; check that it exists and may be read")]
    Read {
        /// File that was to be read.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The file is not an image, a damaged one, or of a kind that is not supported.
    #[error("{path} is not a usable image; save it again as PNG, JPEG or WebP")]
    Decode {
        /// File that was read.
        path: PathBuf,
        /// The decoder's reason.
        source: image::ImageError,
    },
    /// The file stops before its picture does.
    #[error("{path} ends in the middle of the picture; copy or fetch it again")]
    Truncated {
        /// File that was read.
        path: PathBuf,
    },
    /// The image has more pixels than anybody needs here; found from its header, before decoding.
    #[error("{path} has {width} x {height} pixels, more than the {MAX_PIXELS} allowed; make it smaller first")]
    TooLarge {
        /// File that was read.
        path: PathBuf,
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
    },
    /// `preprocessor_config.json` cannot be read, or asks for something that CLIP's processor does not do here.
    #[error(transparent)]
    Config(#[from] FormatError),
    /// `preprocessor_config.json` makes pictures of another size than the vision tower takes.
    #[error(
        "{path} gives pictures of {width} x {height} pixels, the image encoder takes {expected} x {expected}; take the \
         file that belongs to this encoder"
    )]
    TowerSize {
        /// File that was read.
        path: PathBuf,
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// Side that the tower takes.
        expected: u32,
    },
}
