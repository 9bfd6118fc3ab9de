//! Image files of strangers.

use std::fs::File;
use std::io::{self, Cursor, Read};
use std::path::Path;

use image::error::{DecodingError, ImageFormatHint};
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, ImageResult, RgbImage};

use super::PreprocessError;
use super::jpeg::JpegDecoder;

/// Images with more pixels are refused before they are decoded.
pub const MAX_PIXELS: u64 = 8192 * 8192;

/// No more of a file is read: enough for [`MAX_PIXELS`] of 16 bits with transparency, not compressed at all.
pub const MAX_IMAGE_BYTES: u64 = MAX_PIXELS * 8 + (1 << 20);

/// Reads a PNG, JPEG or WebP file as RGB, turned upright as its EXIF orientation says.
///
/// The format is found from the content, not from the name. As Pillow's `convert("RGB")`, transparency is dropped,
/// not blended; of 16-bit channels the high byte is kept; colour profiles are ignored; of an animation the first
/// picture is taken. The bytes are those that Pillow gives.
///
/// # Errors
/// [`PreprocessError::Read`], [`PreprocessError::TooLarge`] (more than [`MAX_PIXELS`]),
/// [`PreprocessError::Truncated`], [`PreprocessError::Decode`].
pub fn load_image(path: &Path) -> Result<RgbImage, PreprocessError> {
    let cannot_read = |source| PreprocessError::Read { path: path.to_path_buf(), source };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(cannot_read)?;
    file.take(MAX_IMAGE_BYTES).read_to_end(&mut bytes).map_err(cannot_read)?;
    decode_image(&bytes, path)
}

/// As [`load_image`] from the bytes of a file, which errors call `path`.
///
/// # Errors
/// As [`load_image`], but for [`PreprocessError::Read`].
pub fn decode_image(bytes: &[u8], path: &Path) -> Result<RgbImage, PreprocessError> {
    let cannot_decode = |source| not_decoded(path, source);
    if !is_palette_whole(bytes) {
        let reason =
            DecodingError::new(ImageFormatHint::Exact(ImageFormat::Png), "its palette is not of whole colours");
        return Err(cannot_decode(ImageError::Decoding(reason)));
    }
    let mut decoder = decoder(bytes).map_err(cannot_decode)?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > MAX_PIXELS {
        return Err(PreprocessError::TooLarge { path: path.to_path_buf(), width, height });
    }
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms); // damaged EXIF spoils no pixel
    let mut image = DynamicImage::from_decoder(decoder).map_err(cannot_decode)?;
    image.apply_orientation(orientation);
    Ok(into_rgb(image))
}

/// Width and height that [`decode_image`] would give, from the header alone: of a PNG or JPEG file its start will do,
/// of a WebP file, whose orientation stands at the end, all of it is needed.
///
/// # Errors
/// As [`decode_image`], as far as the header shows it.
pub fn image_size(bytes: &[u8], path: &Path) -> Result<(u32, u32), PreprocessError> {
    let mut decoder = decoder(bytes).map_err(|source| not_decoded(path, source))?;
    let (width, height) = decoder.dimensions();
    let is_turned = matches!(
        decoder.orientation(),
        Ok(Orientation::Rotate90 | Orientation::Rotate270 | Orientation::Rotate90FlipH | Orientation::Rotate270FlipH)
    );
    Ok(if is_turned { (height, width) } else { (width, height) })
}

fn not_decoded(path: &Path, source: ImageError) -> PreprocessError {
    match source {
        ImageError::IoError(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            PreprocessError::Truncated { path: path.to_path_buf() }
        }
        source => PreprocessError::Decode { path: path.to_path_buf(), source },
    }
}

/// Whether a PNG's palette, if it has one, is of 1 to 256 colours of three bytes; the decoder does not look.
fn is_palette_whole(bytes: &[u8]) -> bool {
    const SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";
    let Some(mut chunks) = bytes.strip_prefix(SIGNATURE) else { return true };
    while let Some((length, rest)) = chunks.split_first_chunk::<4>() {
        let length = u32::from_be_bytes(*length) as usize;
        match rest.get(..4) {
            Some(b"PLTE") => return length.is_multiple_of(3) && (3..=768).contains(&length),
            Some(b"IDAT") | None => return true,
            Some(_) => chunks = rest.get(length.saturating_add(8)..).unwrap_or_default(), // its name and its checksum too
        }
    }
    true
}

/// Reads the header.
fn decoder(bytes: &[u8]) -> ImageResult<Box<dyn ImageDecoder + '_>> {
    Ok(match image::guess_format(bytes)? {
        ImageFormat::Jpeg => Box::new(JpegDecoder::new(bytes)?),
        format => Box::new(ImageReader::with_format(Cursor::new(bytes), format).into_decoder()?),
    })
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
