//! PNG files that carry their request.

use std::io::{self, Write};
use std::path::Path;

use image::RgbImage;
use ipa_formats::{FormatError, write_atomically};
use serde_json::Value;

/// Keyword of the text chunk that holds the request as JSON.
pub const REQUEST_KEYWORD: &str = "ipa_request";

/// Writes a picture with its request in a text chunk; atomic.
///
/// # Errors
/// [`FormatError`] if the file cannot be written.
pub fn write_png(path: &Path, picture: &RgbImage, request: &Value) -> Result<(), FormatError> {
    write_atomically(path, |file| encode(file, picture, request))
}

fn encode(file: &mut dyn Write, picture: &RgbImage, request: &Value) -> io::Result<()> {
    let mut encoder = png::Encoder::new(file, picture.width(), picture.height());
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.add_itxt_chunk(REQUEST_KEYWORD.to_owned(), request.to_string())?;
    encoder.add_text_chunk("Software".to_owned(), concat!("ipa ", env!("CARGO_PKG_VERSION")).to_owned())?;
    let mut writer = encoder.write_header()?;
    writer.write_image_data(picture.as_raw())?;
    writer.finish().map_err(Into::into)
}
