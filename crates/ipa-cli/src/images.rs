//! Reference images.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use image::RgbImage;
use ipa_clip::{PreprocessError, load_image};
use ipa_sample::{Crop, GenerateRequest, what_is_lost};

use crate::output;

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
/// As [`load`]; if a mask is transparent in places.
pub(crate) fn load_named(request: &GenerateRequest) -> Result<BTreeMap<PathBuf, RgbImage>> {
    let named = request.named_pictures().into_iter().map(|path| Ok((path.to_owned(), load_image(path)?)));
    let named = named.collect::<Result<_, PreprocessError>>()?;
    request
        .image_prompts
        .iter()
        .flat_map(|spec| &spec.images)
        .filter_map(|image| image.mask.as_deref())
        .try_for_each(check_mask)?;
    Ok(named)
}

/// Editors keep some masks in the transparency, which would be lost.
fn check_mask(path: &Path) -> Result<()> {
    let picture = image::ImageReader::open(path)?.with_guessed_format()?.decode()?; // it was read before
    if picture.color().has_alpha() && picture.to_rgba8().pixels().any(|pixel| pixel.0[3] < 255) {
        bail!(
            "the mask {} is transparent in places, which says nothing here: save it as white on black",
            path.display()
        );
    }
    Ok(())
}

/// Tells what the encoder will not see of a picture that is not square.
pub(crate) fn warn_of_crop(file: &Path, crop: Crop, picture: &RgbImage) {
    if let Some(lost) = what_is_lost(crop, picture) {
        let (width, height) = picture.dimensions();
        output::warn(format_args!("{} is {width} x {height}, the image encoder sees squares: {lost}", file.display()));
    }
}
