//! The pictures that a request names.

use std::collections::BTreeMap;
use std::path::PathBuf;

use image::{Rgb, RgbImage};
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
    /// `mask`: white where `init` is drawn anew; as `init`.
    pub mask: Option<&'a RgbImage>,
    /// Those that `image_prompts` name, references, masks and negative ones, by the names there.
    pub named: Option<&'a BTreeMap<PathBuf, RgbImage>>,
}

impl<'a> From<&'a [RgbImage]> for Pictures<'a> {
    fn from(references: &'a [RgbImage]) -> Self {
        Self { references, ..Self::default() }
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

/// A picture to start from as the VAE sees it, `[1, 3, height, width]`: at the request's size, a side that it leaves out
/// in proportion, or at its own; down to multiples of 8, or of the VAE's `factor` if that is more.
///
/// # Errors
/// [`RequestError::Field`] if its own size is none that can be drawn.
pub(crate) fn init_pixels(picture: &RgbImage, request: &GenerateRequest, factor: u32) -> Result<Tensor, RequestError> {
    let (width, height) = init_size(picture, request, factor)?;
    Ok(picture::to_pixels(&[resize(picture, width, height, Filter::Lanczos)]))
}

/// Width and height of [`init_pixels`].
///
/// # Errors
/// As there.
pub(crate) fn init_size(
    picture: &RgbImage,
    request: &GenerateRequest,
    factor: u32,
) -> Result<(u32, u32), RequestError> {
    let unit = factor.max(8);
    let (width, height) = (u64::from(picture.width()), u64::from(picture.height()));
    let down = |side: u64| u32::try_from(side).unwrap_or(u32::MAX) / unit * unit;
    let (width, height) = match (request.width, request.height) {
        (Some(wanted), None) => (wanted, down(height * u64::from(wanted) / width.max(1))),
        (None, Some(wanted)) => (down(width * u64::from(wanted) / height.max(1)), wanted),
        (wanted_width, wanted_height) => (wanted_width.unwrap_or(down(width)), wanted_height.unwrap_or(down(height))),
    };
    if [width, height].into_iter().any(|side| !(unit..=MAX_SIDE).contains(&side)) {
        return Err(RequestError::Field {
            field: "init_image",
            value: format!("a picture of {} x {} pixels", picture.width(), picture.height()),
            allowed: "choose one of 8 to 4096 pixels a side, or give width and height",
        });
    }
    Ok((width, height))
}

/// A mask at the size of `pixels`, `[1, 1, height, width]`: 1 where it is at least half as bright as white, else 0.
pub(crate) fn mask_pixels(mask: &RgbImage, pixels: &Tensor) -> Tensor {
    let (height, width) = (pixels.size()[2], pixels.size()[3]);
    let mask = resize(mask, width as u32, height as u32, Filter::Lanczos);
    let is_bright = |pixel: &Rgb<u8>| if luma(pixel) >= 128 { 1f32 } else { 0.0 };
    let values: Vec<f32> = mask.pixels().map(is_bright).collect();
    Tensor::from_slice(&values).view([1, 1, height, width])
}

/// Brightness, 0 to 255.
///
/// Parity: Pillow's "L".
pub(crate) fn luma(pixel: &Rgb<u8>) -> u8 {
    let [red, green, blue] = pixel.0.map(u32::from);
    ((red * 19_595 + green * 38_470 + blue * 7_471 + 0x8000) >> 16) as u8
}
