//! JPEG files, decoded to the very bytes that Pillow gives.

use std::any::Any;
use std::cell::Cell;
use std::io::{self, BufRead, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use image::error::{DecodingError, ImageFormatHint};
use image::{ColorType, ImageDecoder, ImageError, ImageFormat, ImageResult};
use mozjpeg::{ColorSpace, Decompress, Marker};

const EXIF: Marker = Marker::APP(1);
const EXIF_PREFIX: &[u8] = b"Exif\0\0";

/// A JPEG file whose header has been read; gives RGB.
///
/// Parity: the exact integer transform and the smooth upsampling of colour are defined by libjpeg, which Pillow uses
/// too; decoders of other origin differ by some levels. A file that ends early is an [`io::ErrorKind::UnexpectedEof`].
pub(super) struct JpegDecoder<'a> {
    decompress: Decompress<Source<'a>>,
    has_run_out: Rc<Cell<bool>>,
}

impl<'a> JpegDecoder<'a> {
    /// Reads the header; nothing of the picture's size is allocated.
    pub(super) fn new(bytes: &'a [u8]) -> ImageResult<Self> {
        let has_run_out = Rc::new(Cell::new(false));
        let source = Source { rest: bytes, has_run_out: Rc::clone(&has_run_out) };
        let decompress = guarded(&has_run_out, || Decompress::builder().with_markers(&[EXIF]).from_reader(source))?;
        Ok(Self { decompress, has_run_out })
    }
}

impl ImageDecoder for JpegDecoder<'_> {
    fn dimensions(&self) -> (u32, u32) {
        (self.decompress.width() as u32, self.decompress.height() as u32) // 16 bits each in the file
    }

    fn color_type(&self) -> ColorType {
        ColorType::Rgb8
    }

    fn exif_metadata(&mut self) -> ImageResult<Option<Vec<u8>>> {
        let mut markers = self.decompress.markers().filter(|marker| marker.marker == EXIF);
        Ok(markers.find_map(|marker| marker.data.strip_prefix(EXIF_PREFIX)).map(<[u8]>::to_vec))
    }

    fn read_image(self, pixels: &mut [u8]) -> ImageResult<()> {
        let Self { decompress, has_run_out } = self;
        guarded(&has_run_out, || match decompress.components().len() {
            4 => {
                let mut started = decompress.to_colorspace(ColorSpace::JCS_CMYK)?;
                let inks: Vec<[u8; 4]> = started.read_scanlines()?;
                for (pixel, inks) in pixels.chunks_exact_mut(3).zip(inks) {
                    pixel.copy_from_slice(&rgb_of_inks(inks));
                }
                started.finish()
            }
            _ => {
                let mut started = decompress.rgb()?;
                started.read_scanlines_into(pixels)?;
                started.finish()
            }
        })
    }

    fn read_image_boxed(self: Box<Self>, pixels: &mut [u8]) -> ImageResult<()> {
        (*self).read_image(pixels)
    }
}

/// The file's bytes. At their end libjpeg would make up an end of image; this fails and remembers it.
struct Source<'a> {
    rest: &'a [u8],
    has_run_out: Rc<Cell<bool>>,
}

impl Read for Source<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.rest.read(buffer)
    }
}

impl BufRead for Source<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.rest.is_empty() {
            self.has_run_out.set(true);
            return Err(io::Error::other("no bytes left"));
        }
        Ok(self.rest)
    }

    fn consume(&mut self, amount: usize) {
        self.rest.consume(amount);
    }
}

/// Runs libjpeg, which reports damage by unwinding (without a panic's message), as a function that returns errors.
fn guarded<T>(has_run_out: &Cell<bool>, work: impl FnOnce() -> io::Result<T>) -> ImageResult<T> {
    // All that `work` may leave half done, it owns, except pixels that nobody sees after an error.
    let reason = match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(result)) => return Ok(result),
        Ok(Err(error)) => error.to_string(),
        Err(payload) => message(payload.as_ref()),
    };
    if has_run_out.get() {
        return Err(ImageError::IoError(io::ErrorKind::UnexpectedEof.into()));
    }
    Err(ImageError::Decoding(DecodingError::new(ImageFormatHint::Exact(ImageFormat::Jpeg), reason)))
}

fn message(payload: &(dyn Any + Send)) -> String {
    payload.downcast_ref::<String>().cloned().unwrap_or_else(|| "damaged JPEG data".to_owned())
}

/// Parity: Pillow takes all inks as stored inverted, as Adobe does, and multiplies with this rounding.
fn rgb_of_inks([cyan, magenta, yellow, black]: [u8; 4]) -> [u8; 3] {
    [cyan, magenta, yellow].map(|ink| {
        let shade = u32::from(255 - ink) * u32::from(black) + 128;
        black.saturating_sub(((shade + (shade >> 8)) >> 8) as u8)
    })
}
