//! Reference images.

use std::collections::BTreeMap;
use std::path::PathBuf;

use image::RgbImage;
use ipa_clip::{PreprocessError, load_image};
use ipa_sample::GenerateRequest;

/// Reads images in the order given.
///
/// # Errors
/// [`PreprocessError`] naming the first file that cannot be used.
pub(crate) fn load(paths: &[PathBuf]) -> Result<Vec<RgbImage>, PreprocessError> {
    paths.iter().map(|path| load_image(path)).collect()
}

/// Reads every picture that a request's `image_prompts` name.
///
/// # Errors
/// As [`load`].
pub(crate) fn load_named(request: &GenerateRequest) -> Result<BTreeMap<PathBuf, RgbImage>, PreprocessError> {
    request.named_pictures().into_iter().map(|path| Ok((path.to_owned(), load_image(path)?))).collect()
}
