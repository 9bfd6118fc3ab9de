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

/// The heading of a column of pictures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Stands once above all neighbouring columns of the same group; may be empty.
    pub group: String,
    /// Stands above the column.
    pub label: String,
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

pub(super) fn large(Picture { label, png }: &Picture) -> Markup {
    html! { figure.large.card { figcaption { (label) } (img(label, png)) } }
}

pub(super) fn folded(Picture { label, png }: &Picture) -> Markup {
    html! { details.large.card { summary { (label) } (img(label, png)) } }
}

pub(super) fn grid(
    title: &str,
    row_labels: &[impl AsRef<str>],
    columns: &[Column],
    cells: &[Vec<Option<Vec<u8>>>],
) -> Markup {
    assert_eq!(row_labels.len(), cells.len(), "every row of pictures has a label");
    assert!(cells.iter().all(|row| row.len() == columns.len()), "every column of pictures has a label");
    html! {
        div.wide.card tabindex="0" role="region" aria-label=(title) {
            table.grid {
                thead { (headings(columns)) }
                tbody {
                    @for (row_label, row) in row_labels.iter().zip(cells) {
                        tr {
                            th scope="row" { (row_label.as_ref()) }
                            @for (column, png) in columns.iter().zip(row) {
                                (cell(row_label.as_ref(), column, png.as_deref()))
                            }
                        }
                    }
                }
            }
        }
    }
}

/// One row of labels, with the groups in a row above them if there are any; a column without group fills both rows.
fn headings(columns: &[Column]) -> Markup {
    let rows = if columns.iter().any(|column| !column.group.is_empty()) { 2 } else { 1 };
    html! {
        tr {
            td rowspan=(rows) {}
            @for group in columns.chunk_by(|a, b| a.group == b.group) {
                @if group[0].group.is_empty() {
                    @for column in group { th scope="col" rowspan=(rows) { (column.label) } }
                } @else {
                    th.group scope="colgroup" colspan=(group.len()) { (group[0].group) }
                }
            }
        }
        @if rows == 2 {
            tr { @for column in columns.iter().filter(|column| !column.group.is_empty()) { th scope="col" { (column.label) } } }
        }
    }
}

fn cell(row_label: &str, Column { group, label }: &Column, png: Option<&[u8]>) -> Markup {
    let words = [row_label, group, label].into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(", ");
    html! {
        td {
            @match png {
                Some(png) => (img(&words, png)),
                None => span.none { "–" },
            }
        }
    }
}

pub(super) fn img(alt: &str, png: &[u8]) -> Markup {
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
    fn neighbouring_columns_of_a_group_share_its_heading() {
        let column = |group: &str, label: &str| Column { group: group.into(), label: label.into() };
        let columns = [column("", "reference"), column("before", "1"), column("after", "1"), column("after", "2")];
        let html = grid("title", &["row"], &columns, &[vec![None, None, None, Some(encode_png(&RgbImage::new(2, 2)))]]);
        let html = html.into_string();
        assert_eq!(html.matches("<th scope=\"col\" rowspan=\"2\">reference</th>").count(), 1, "{html}");
        assert_eq!(html.matches("colspan=\"1\">before</th>").count(), 1, "{html}");
        assert_eq!(html.matches("colspan=\"2\">after</th>").count(), 1, "{html}");
        assert!(html.contains("alt=\"row, after, 2\""), "{html}");
        let plain = grid("title", &["row"], &[column("", "a")], &[vec![None]]).into_string();
        assert_eq!(plain.matches("<tr>").count(), 2, "{plain}");
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
