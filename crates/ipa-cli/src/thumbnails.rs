//! Pictures made small for a page.

use std::io;

use image::{RgbImage, imageops};

/// A picture whose longer side is at most `side`; a smaller one as it is.
pub(crate) fn small(picture: &RgbImage, side: u32) -> RgbImage {
    let (width, height) = picture.dimensions();
    let shrink = f64::from(side) / f64::from(width.max(height));
    let shrunk = |length: u32| ((f64::from(length) * shrink.min(1.0)).round() as u32).max(1);
    imageops::thumbnail(picture, shrunk(width), shrunk(height))
}

/// A picture as a JPEG file; `quality` is 0 to 100.
///
/// # Errors
/// If the picture is none that JPEG can hold.
pub(crate) fn jpeg(picture: &RgbImage, quality: f32) -> io::Result<Vec<u8>> {
    let mut compress = mozjpeg::Compress::new(mozjpeg::ColorSpace::JCS_RGB);
    compress.set_size(picture.width() as usize, picture.height() as usize);
    compress.set_quality(quality);
    let mut started = compress.start_compress(Vec::new())?;
    started.write_scanlines(picture.as_raw())?;
    started.finish()
}
