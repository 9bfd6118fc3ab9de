//! The pictures on the page, each of which opens large.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use imagesize::ImageType;
use maud::{Markup, html};

/// Picture files by the names that the report has for them. A page holds a picture as often as it shows it, so large ones
/// are best given small, as JPEG.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReportPictures {
    files: BTreeMap<String, Vec<u8>>,
}

impl ReportPictures {
    /// Cases of every set whose pictures are shown; the tables beside the page have all.
    pub const MAX_CASES: usize = 12;
    /// Pictures up to this side are shown with square pixels, which JPEG would blur.
    pub const PIXEL_ART_SIDE: u32 = 160;

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
    let size = imagesize::blob_size(file).ok();
    let pixelated = size.is_some_and(|size| size.width.max(size.height) <= ReportPictures::PIXEL_ART_SIDE as usize);
    let (width, height) = (size.map(|size| size.width), size.map(|size| size.height));
    html! {
        img.pixelated[pixelated] alt=(alt) width=[width] height=[height] loading="lazy" decoding="async"
            src={ "data:" (kind) ";base64," (STANDARD.encode(file)) };
    }
}

/// By the first bytes; a browser shows nothing else from here.
fn media_type(file: &[u8]) -> Option<&'static str> {
    match imagesize::image_type(file).ok()? {
        ImageType::Png => Some("image/png"),
        ImageType::Jpeg => Some("image/jpeg"),
        ImageType::Webp => Some("image/webp"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_told_by_their_bytes_and_others_named() {
        let mut pictures = ReportPictures::new();
        pictures.insert("a.png", crate::encode_png(&image::RgbImage::new(3, 2)));
        pictures.insert("b.jpg", [&[0xFF, 0xD8, 0xFF, 0xE0], [0; 12].as_slice()].concat());
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
