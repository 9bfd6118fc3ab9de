//! Image files of strangers.

use std::fs::File;
use std::io::{Cursor, Read};
use std::path::Path;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, RgbImage};

use super::PreprocessError;

/// Images with more pixels are refused before they are decoded.
pub const MAX_PIXELS: u64 = 8192 * 8192;

/// No more of a file is read: enough for [`MAX_PIXELS`] of 16 bits with transparency, not compressed at all.
const MAX_FILE_BYTES: u64 = MAX_PIXELS * 8 + (1 << 20);

/// Reads a PNG, JPEG or WebP file as RGB, turned upright as its EXIF orientation says.
///
/// The format is found from the content, not from the name. As Pillow's `convert("RGB")`, transparency is dropped,
/// not blended; of 16-bit channels the high byte is kept; colour profiles are ignored; of an animation the first
/// picture is taken. PNG and WebP decode to the bytes that Pillow gives; JPEG decoders may differ by a few levels.
///
/// # Errors
/// [`PreprocessError::Read`], [`PreprocessError::TooLarge`] (more than [`MAX_PIXELS`]),
/// [`PreprocessError::Truncated`], [`PreprocessError::Decode`].
pub fn load_image(path: &Path) -> Result<RgbImage, PreprocessError> {
    let cannot_read = |source| PreprocessError::Read { path: path.to_path_buf(), source };
    let cannot_decode = |source| PreprocessError::Decode { path: path.to_path_buf(), source };

    let mut bytes = Vec::new();
    let file = File::open(path).map_err(cannot_read)?;
    file.take(MAX_FILE_BYTES).read_to_end(&mut bytes).map_err(cannot_read)?;

    let reader = ImageReader::new(Cursor::new(&bytes)).with_guessed_format().map_err(cannot_read)?;
    let format = reader.format();
    let mut decoder = reader.into_decoder().map_err(cannot_decode)?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > MAX_PIXELS {
        return Err(PreprocessError::TooLarge { path: path.to_path_buf(), width, height });
    }
    if format == Some(ImageFormat::Jpeg) && is_cut_jpeg(&bytes) {
        return Err(PreprocessError::Truncated { path: path.to_path_buf() });
    }
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms); // damaged EXIF spoils no pixel
    let mut image = DynamicImage::from_decoder(decoder).map_err(cannot_decode)?;
    image.apply_orientation(orientation);
    Ok(into_rgb(image))
}

/// Whether no end of image follows the last scan; neither marker can occur within a scan's data.
fn is_cut_jpeg(bytes: &[u8]) -> bool {
    const START_OF_SCAN: [u8; 2] = [0xff, 0xda];
    const END_OF_IMAGE: [u8; 2] = [0xff, 0xd9];
    let last_marker = bytes.windows(2).rfind(|pair| *pair == START_OF_SCAN || *pair == END_OF_IMAGE);
    last_marker != Some(END_OF_IMAGE.as_slice())
}

fn into_rgb(image: DynamicImage) -> RgbImage {
    let is_wide = image.color().bytes_per_pixel() > image.color().channel_count();
    if !is_wide {
        return image.into_rgb8();
    }
    let wide = image.into_rgb16();
    let (width, height) = wide.dimensions();
    // Parity: Pillow keeps the high byte, `into_rgb8` would round.
    let high_bytes = wide.into_raw().into_iter().map(|value| (value >> 8) as u8).collect();
    RgbImage::from_raw(width, height, high_bytes).expect("as many bytes as there were channels")
}
