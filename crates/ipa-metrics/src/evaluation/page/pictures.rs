//! The pictures on the page, each of which opens large.

use std::collections::BTreeMap;
use std::io::Cursor;

use base64::{Engine, engine::general_purpose::STANDARD};
use image::ImageReader;
use maud::{Markup, html};

/// Pictures up to this side are shown with square pixels.
const PIXEL_ART_SIDE: u32 = 160;

/// Picture files by the names that the report has for them. A page holds a picture as often as it shows it, so large ones
/// are best given small, as JPEG.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReportPictures {
    files: BTreeMap<String, Vec<u8>>,
}

impl ReportPictures {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a PNG, JPEG or WebP file; another kind is named on the page, not shown.
    pub fn insert(&mut self, name: impl Into<String>, file: Vec<u8>) {
        self.files.insert(name.into(), file);
    }

    /// Whether a picture of that name is there.
    pub(super) fn contains(&self, name: &str) -> bool {
        self.files.contains_key(name)
    }

    /// A picture that opens large, with `words` below it; only its name if it was not given.
    pub(super) fn zoomable(&self, name: &str, alt: &str, words: &str) -> Markup {
        let shown = self.files.get(name).and_then(|file| Some((file, media_type(file)?)));
        html! {
            @match shown {
                Some((file, kind)) => {
                    button.zoom type="button" data-words=(words) { (img(alt, file, kind)) }
                },
                None => span.missing role="img" aria-label=(alt) { (name) },
            }
        }
    }
}

fn img(alt: &str, file: &[u8], kind: &str) -> Markup {
    let others = || ImageReader::new(Cursor::new(file)).with_guessed_format().ok()?.into_dimensions().ok();
    let size = jpeg_size(file).or_else(others);
    let pixelated = size.is_some_and(|(width, height)| width.max(height) <= PIXEL_ART_SIDE);
    let (width, height) = size.unzip();
    html! {
        img.pixelated[pixelated] alt=(alt) width=[width] height=[height] loading="lazy" decoding="async"
            src={ "data:" (kind) ";base64," (STANDARD.encode(file)) };
    }
}

/// Width and height of a JPEG file, from the segment that has them; nothing of another file.
fn jpeg_size(file: &[u8]) -> Option<(u32, u32)> {
    let mut rest = file.strip_prefix(&[0xFF, 0xD8])?;
    loop {
        let [0xFF, marker, high, low, ..] = *rest else { return None };
        let segment = rest.get(2..2 + usize::from(u16::from_be_bytes([high, low])))?;
        // Frames of every coding, but not the tables whose numbers lie among theirs.
        if matches!(marker, 0xC0..=0xCF) && !matches!(marker, 0xC4 | 0xC8 | 0xCC) {
            let &[_, _, _, a, b, c, d, ..] = segment else { return None };
            return Some((u16::from_be_bytes([c, d]).into(), u16::from_be_bytes([a, b]).into()));
        }
        rest = rest.get(2 + segment.len().max(2)..)?;
    }
}

/// By the first bytes; a browser shows nothing else from here.
fn media_type(file: &[u8]) -> Option<&'static str> {
    match file {
        [0x89, b'P', b'N', b'G', ..] => Some("image/png"),
        [0xFF, 0xD8, 0xFF, ..] => Some("image/jpeg"),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some("image/webp"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jpegs_size_is_found_behind_its_tables_and_not_in_a_broken_one() {
        let whole = [
            [0xFF, 0xD8, 0xFF, 0xE0, 0, 4, 1, 2].as_slice(), // the application's
            &[0xFF, 0xC4, 0, 3, 7],                          // a table
            &[0xFF, 0xC2, 0, 8, 8, 1, 0, 2, 0, 3],           // 512 by 256, in 3 colours
        ]
        .concat();
        assert_eq!(jpeg_size(&whole), Some((512, 256)));
        assert!((0..whole.len()).all(|cut| jpeg_size(&whole[..cut]).is_none()));
        assert_eq!(jpeg_size(&[0xFF, 0xD8, 0xFF, 0xE0, 0, 0, 0xFF, 0xE0]), None);
    }

    #[test]
    fn pictures_are_told_by_their_bytes_and_others_named() {
        let mut pictures = ReportPictures::new();
        pictures.insert("a.png", crate::encode_png(&image::RgbImage::new(3, 2)));
        pictures.insert("b.jpg", vec![0xFF, 0xD8, 0xFF, 0xE0]);
        pictures.insert("c.svg", b"<svg onload=\"alert(1)\">".to_vec());
        let html = |name: &str| pictures.zoomable(name, "a hat", "more \"words\"").into_string();
        assert!(html("a.png").contains("data:image/png") && html("a.png").contains("width=\"3\" height=\"2\""));
        assert!(html("a.png").contains("data-words=\"more &quot;words&quot;\""));
        assert!(html("b.jpg").contains("data:image/jpeg"));
        for name in ["c.svg", "d.png"] {
            assert!(html(name).contains(&format!(">{name}</span>")) && !html(name).contains("data:"), "{}", html(name));
        }
    }
}
