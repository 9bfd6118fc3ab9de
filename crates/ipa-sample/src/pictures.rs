//! The pictures that a request names.

use image::RgbImage;
use ipa_clip::preprocess::{Filter, resize};
use ipa_core::picture;
use ipa_core::tch::Tensor;

use crate::{GenerateRequest, MAX_SIDE, RequestError};

/// What a request names as files, loaded.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pictures<'a> {
    /// `images`: the image prompt.
    pub references: &'a [RgbImage],
    /// `init_image`: what to start from; there if the request names it, and only then.
    pub init: Option<&'a RgbImage>,
}

impl<'a> From<&'a [RgbImage]> for Pictures<'a> {
    fn from(references: &'a [RgbImage]) -> Self {
        Self { references, init: None }
    }
}

impl<'a> From<&'a Vec<RgbImage>> for Pictures<'a> {
    fn from(references: &'a Vec<RgbImage>) -> Self {
        Self::from(references.as_slice())
    }
}

impl<'a, const N: usize> From<&'a [RgbImage; N]> for Pictures<'a> {
    fn from(references: &'a [RgbImage; N]) -> Self {
        Self::from(references.as_slice())
    }
}

/// A picture to start from as the VAE sees it, `[1, 3, height, width]`: at the request's size, or its own cut down to
/// multiples of `factor`.
///
/// # Errors
/// [`RequestError::Field`] if its own size is none that can be drawn.
pub(crate) fn init_pixels(picture: &RgbImage, request: &GenerateRequest, factor: u32) -> Result<Tensor, RequestError> {
    let (width, height) = picture.dimensions();
    let side = |asked: Option<u32>, own: u32| asked.unwrap_or(own / factor * factor);
    let (width, height) = (side(request.width, width), side(request.height, height));
    if [width, height].into_iter().any(|side| !(factor..=MAX_SIDE).contains(&side)) {
        return Err(RequestError::Field {
            field: "init_image",
            value: format!("a picture of {} x {} pixels", picture.width(), picture.height()),
            allowed: "choose one of 8 to 4096 pixels a side, or give width and height",
        });
    }
    Ok(picture::to_pixels(&[resize(picture, width, height, Filter::Lanczos)]))
}
