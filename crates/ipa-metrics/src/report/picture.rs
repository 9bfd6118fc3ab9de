//! Pictures inside the page, as PNG data.

use std::io::Cursor;

use base64::{Engine, engine::general_purpose::STANDARD};
use image::{ImageFormat, ImageReader, RgbImage};
use maud::{Markup, html};

/// Pictures up to this side are shown with square pixels; larger ones are smoothed as usual.
const PIXEL_ART_SIDE: u32 = 160;

/// A picture and the words below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// What it shows; also its text for those who do not see it.
    pub label: String,
    /// A PNG file.
    pub png: Vec<u8>,
}

/// A picture as a PNG file.
pub fn encode_png(picture: &RgbImage) -> Vec<u8> {
    let mut png = Cursor::new(Vec::new());
    picture.write_to(&mut png, ImageFormat::Png).expect("an RGB picture fits PNG and memory does not fail");
    png.into_inner()
}

pub(super) fn row(caption: &str, pictures: &[Picture]) -> Markup {
    html! {
        figure.pictures {
            div.tiles {
                @for Picture { label, png } in pictures {
                    figure.tile {
                        (img(label, png))
                        figcaption { (label) }
                    }
                }
            }
            @if !caption.is_empty() { figcaption.caption { (caption) } }
        }
    }
}

pub(super) fn grid(
    row_labels: &[impl AsRef<str>],
    column_labels: &[impl AsRef<str>],
    cells: &[Vec<Option<Vec<u8>>>],
) -> Markup {
    assert_eq!(row_labels.len(), cells.len(), "every row of pictures has a label");
    assert!(cells.iter().all(|row| row.len() == column_labels.len()), "every column of pictures has a label");
    html! {
        div.wide.card tabindex="0" role="region" aria-label="Grid of pictures" {
            table.grid {
                thead {
                    tr {
                        td {}
                        @for label in column_labels { th scope="col" { (label.as_ref()) } }
                    }
                }
                tbody {
                    @for (row_label, row) in row_labels.iter().zip(cells) {
                        tr {
                            th scope="row" { (row_label.as_ref()) }
                            @for (column_label, png) in column_labels.iter().zip(row) {
                                (cell(row_label.as_ref(), column_label.as_ref(), png.as_deref()))
                            }
                        }
                    }
                }
            }
        }
    }
}

fn cell(row_label: &str, column_label: &str, png: Option<&[u8]>) -> Markup {
    html! {
        td {
            @match png {
                Some(png) => (img(&format!("{row_label}, {column_label}"), png)),
                None => span.none { "–" },
            }
        }
    }
}

fn img(alt: &str, png: &[u8]) -> Markup {
    let size = size(png);
    let pixelated = size.is_some_and(|(width, height)| width.max(height) <= PIXEL_ART_SIDE);
    let (width, height) = size.unzip();
    html! {
        img.pixelated[pixelated] alt=(alt) width=[width] height=[height]
            src={ "data:image/png;base64," (STANDARD.encode(png)) };
    }
}

/// Width and height from the header; nothing for a file the browser will not show either.
fn size(png: &[u8]) -> Option<(u32, u32)> {
    ImageReader::with_format(Cursor::new(png), ImageFormat::Png).into_dimensions().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(side: u32) -> String {
        img("a picture", &encode_png(&RgbImage::new(side, 2 * side / 2))).into_string()
    }

    #[test]
    fn small_pictures_keep_square_pixels_and_large_ones_are_smoothed() {
        assert!(shown(64).contains("class=\"pixelated\""));
        assert!(!shown(512).contains("pixelated"));
    }

    #[test]
    fn a_picture_states_its_size_so_that_nothing_moves_while_it_loads() {
        assert!(shown(64).contains("width=\"64\" height=\"64\""));
    }

    #[test]
    fn the_bytes_are_in_the_page() {
        let png = encode_png(&RgbImage::new(3, 3));
        assert!(shown(3).contains(&STANDARD.encode(png)));
    }

    #[test]
    fn an_unreadable_picture_keeps_its_words() {
        assert!(img("lost", b"not a picture").into_string().contains("alt=\"lost\""));
    }
}
