//! Picture files that carry their [`Record`]: PNG, JPEG and WebP.

mod exif;
mod png;

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use image::{ExtendedColorType, ImageEncoder, RgbImage};
use ipa_formats::{FormatError, write_atomically};

use crate::Record;

/// Keyword of the text that holds the record as JSON.
pub const RECORD_KEYWORD: &str = "ipa";

/// Larger files are not looked into.
const MAX_FILE_BYTES: u64 = 1 << 30;
/// The length of a JPEG's marker has 16 bits and counts itself.
const MAX_JPEG_SEGMENT: usize = 65_533;

/// Of 100.
const JPEG_QUALITY: f32 = 95.0;

/// What a picture file is written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PictureFormat {
    /// Every pixel as drawn; the record in text chunks.
    Png,
    /// Small; the record in EXIF.
    Jpeg,
    /// Every pixel as drawn, smaller than PNG; the record in EXIF.
    WebP,
}

impl PictureFormat {
    /// By the ending of a file's name.
    pub fn of(path: &Path) -> Option<Self> {
        let ending = path.extension()?.to_str()?.to_ascii_lowercase();
        match ending.as_str() {
            "png" => Some(Self::Png),
            "jpg" | "jpeg" => Some(Self::Jpeg),
            "webp" => Some(Self::WebP),
            _ => None,
        }
    }

    /// The usual ending.
    pub fn ending(self) -> &'static str {
        match self {
            Self::Png => "png",
            Self::Jpeg => "jpg",
            Self::WebP => "webp",
        }
    }
}

/// Writes a picture with its record; atomic.
///
/// # Errors
/// [`FormatError`] if the file cannot be written.
pub fn write_picture(
    path: &Path,
    picture: &RgbImage,
    record: &Record,
    format: PictureFormat,
) -> Result<(), FormatError> {
    write_atomically(path, |file| match format {
        PictureFormat::Png => png::encode(file, picture, record),
        PictureFormat::Jpeg => jpeg(file, picture, record),
        PictureFormat::WebP => webp(file, picture, record),
    })
}

/// Why a picture does not tell how it came about.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The file is something else, or broken.
    #[error("{path} is no PNG, JPEG or WebP file, or only the beginning of one")]
    NotAPicture {
        /// The file.
        path: PathBuf,
    },
    /// There is nothing of ours in it.
    #[error("{path} does not say how it was drawn: give a picture that `ipa` wrote and no other program saved again")]
    None {
        /// The file.
        path: PathBuf,
    },
    /// What is there is damaged, or of another version.
    #[error(
        "{path} does not say in a way that this version reads how it was drawn: field `{field}` is not as expected"
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The field.
        field: String,
        /// What is wrong.
        source: serde_json::Error,
    },
}

/// The record of a picture that [`write_picture`] wrote.
///
/// # Errors
/// [`RecordError`] if there is none that can be read.
pub fn read_record(path: &Path) -> Result<Record, RecordError> {
    let read_error = |source| RecordError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(read_error)?;
    let found = file.metadata().map_err(read_error)?;
    if !found.is_file() || found.len() > MAX_FILE_BYTES {
        let reason = "it is no file, or too large to be a picture";
        return Err(read_error(io::Error::new(io::ErrorKind::InvalidInput, reason)));
    }
    let bytes = std::fs::read(path).map_err(read_error)?;
    let format = image::guess_format(&bytes).ok();
    let is_whole = |format| image::ImageReader::with_format(io::Cursor::new(&bytes), format).into_dimensions().is_ok();
    if !format.is_some_and(|format| format == image::ImageFormat::Jpeg || is_whole(format)) {
        return Err(RecordError::NotAPicture { path: path.to_owned() });
    }
    let text = png::record(&bytes).or_else(|| exif::record(&bytes));
    let text = text.ok_or_else(|| RecordError::None { path: path.to_owned() })?;
    let mut json = serde_json::Deserializer::from_str(&text);
    serde_path_to_error::deserialize(&mut json).map_err(|error| RecordError::Unreadable {
        path: path.to_owned(),
        field: error.path().to_string(),
        source: error.into_inner(),
    })
}

fn json(record: &Record) -> io::Result<String> {
    Ok(serde_json::to_value(record)?.to_string())
}

fn jpeg(file: &mut dyn Write, picture: &RgbImage, record: &Record) -> io::Result<()> {
    let marker = [b"Exif\0\0", &exif::encoded(record)?[..]].concat();
    if marker.len() > MAX_JPEG_SEGMENT {
        let reason = "what drew it takes more room than JPEG has for text: write PNG or WebP";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
    }
    let mut compress = mozjpeg::Compress::new(mozjpeg::ColorSpace::JCS_RGB);
    compress.set_size(picture.width() as usize, picture.height() as usize);
    compress.set_quality(JPEG_QUALITY);
    compress.set_chroma_sampling_pixel_sizes((1, 1), (1, 1)); // full colour, as small pictures show the difference
    let mut started = compress.start_compress(Vec::new())?;
    started.write_marker(mozjpeg::Marker::APP(1), &marker);
    started.write_scanlines(picture.as_raw())?;
    file.write_all(&started.finish()?)
}

fn webp(file: &mut dyn Write, picture: &RgbImage, record: &Record) -> io::Result<()> {
    let mut encoder = image::codecs::webp::WebPEncoder::new_lossless(file);
    encoder.set_exif_metadata(exif::encoded(record)?).map_err(io::Error::other)?;
    let (width, height) = picture.dimensions();
    encoder.write_image(picture.as_raw(), width, height, ExtendedColorType::Rgb8).map_err(io::Error::other)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::GenerateRequest;

    fn record() -> Record {
        let request = GenerateRequest { prompt: "crème\nbrûlée, 猫".into(), seed: 9, ..GenerateRequest::default() };
        Record {
            ipa: "0".into(),
            request,
            index: 2,
            width: 5,
            height: 3,
            scheduler: "ddim".into(),
            device: "cpu".into(),
            dtype: "f32".into(),
            model: None,
            adapter: None,
            image_encoder: None,
            pictures: Vec::new(),
            files: Vec::new(),
        }
    }

    fn picture() -> RgbImage {
        RgbImage::from_fn(5, 3, |x, y| image::Rgb([x as u8 * 50, y as u8 * 80, 200]))
    }

    #[test]
    fn every_format_carries_the_record_and_its_picture() {
        let folder = tempfile::tempdir().unwrap();
        for format in [PictureFormat::Png, PictureFormat::Jpeg, PictureFormat::WebP] {
            let path = folder.path().join("picture").with_extension(format.ending());
            assert_eq!(PictureFormat::of(&path), Some(format));
            write_picture(&path, &picture(), &record(), format).unwrap();
            assert_eq!(read_record(&path).unwrap(), record(), "{format:?}");
            let read = ipa_clip::load_image(&path).unwrap();
            let worst = read.as_raw().iter().zip(picture().as_raw()).map(|(a, b)| a.abs_diff(*b)).max();
            let allowed = if format == PictureFormat::Jpeg { 12 } else { 0 };
            assert!(worst <= Some(allowed), "{format:?}: {worst:?}");
        }
    }

    #[test]
    fn pictures_without_a_record_say_so() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plain.png");
        picture().save(&path).unwrap();
        assert!(matches!(read_record(&path), Err(RecordError::None { .. })));
        std::fs::write(&path, b"no picture").unwrap();
        assert!(matches!(read_record(&path), Err(RecordError::NotAPicture { .. })));
        assert!(matches!(read_record(&folder.path().join("gone.png")), Err(RecordError::Read { .. })));
    }

    #[test]
    fn what_does_not_fit_into_a_jpeg_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let long = Record { request: GenerateRequest { prompt: "a".repeat(70_000), ..Default::default() }, ..record() };
        let path = folder.path().join("long.jpg");
        let error = write_picture(&path, &picture(), &long, PictureFormat::Jpeg).unwrap_err();
        assert!(std::error::Error::source(&error).unwrap().to_string().contains("PNG or WebP"), "{error}");
        assert!(!path.exists());
    }
}
