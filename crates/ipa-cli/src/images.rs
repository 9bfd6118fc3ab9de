//! Reference images.

use std::path::PathBuf;

use image::RgbImage;
use ipa_clip::{PreprocessError, load_image};

/// Reads images in the order given.
///
/// # Errors
/// [`PreprocessError`] naming the first file that cannot be used.
pub(crate) fn load(paths: &[PathBuf]) -> Result<Vec<RgbImage>, PreprocessError> {
    paths.iter().map(|path| load_image(path)).collect()
}
