//! Tables of pictures, each with its numbers.

use maud::{Markup, html};

use super::super::Row;
use super::pictures::ReportPictures;

/// A picture in a table.
pub(super) struct Cell<'a> {
    /// Its file.
    pub(super) file: &'a str,
    /// What it shows, for those who do not see it.
    pub(super) alt: String,
    /// The numbers below it, the first of them stressed; may be empty.
    pub(super) numbers: Vec<String>,
    /// What it was drawn from; may be empty.
    pub(super) prompt: &'a str,
}

/// The heading of a row of pictures: its name and a line below it.
pub(super) struct Heading<'a> {
    pub(super) name: &'a str,
    pub(super) more: &'a str,
}

/// Pictures in rows and columns with a caption; what was not drawn is a dash.
pub(super) fn grid(
    caption: &str,
    columns: &[String],
    rows: &[(Heading<'_>, Vec<Option<Cell<'_>>>)],
    pictures: &ReportPictures,
) -> Markup {
    html! {
        div.wide.card tabindex="0" role="region" aria-label=(caption) {
            table.grid.labelled {
                caption.unseen { (caption) }
                thead { tr { td {} @for column in columns { th scope="col" { (column) } } } }
                tbody {
                    @for (heading, cells) in rows {
                        tr {
                            th scope="row" {
                                (clamped(heading.name))
                                @if !heading.more.is_empty() { small { (clamped(heading.more)) } }
                            }
                            @for cell in cells { td { (figure(cell.as_ref(), pictures)) } }
                        }
                    }
                }
            }
        }
    }
}

fn figure(cell: Option<&Cell<'_>>, pictures: &ReportPictures) -> Markup {
    let Some(Cell { file, alt, numbers, prompt }) = cell else { return html! { span.none { "–" } } };
    let prompt = (!prompt.is_empty()).then(|| format!("“{prompt}”"));
    let words = std::iter::once(alt.clone()).chain(numbers.iter().cloned()).chain(prompt);
    let words = words.collect::<Vec<_>>().join(" · ");
    html! {
        figure {
            (pictures.zoomable(file, alt, &words))
            @if !numbers.is_empty() {
                figcaption {
                    @for (index, number) in numbers.iter().enumerate() {
                        @if index == 0 { b { (number) } } @else { br; (number) }
                    }
                }
            }
        }
    }
}

/// A text of a few lines at most; one that is longer is whole where a pointer rests on it.
fn clamped(text: &str) -> Markup {
    html! { span.clamped title=(text) { (text) } }
}

/// A picture with its cosines. A file may stand for several rows with cosines of their own, so the row is named.
pub(super) fn cell<'a>(row: &'a Row, what: &str) -> Cell<'a> {
    Cell { file: &row.file, alt: what.to_owned(), numbers: numbers(row), prompt: &row.prompt }
}

/// The cosines of a picture.
fn numbers(row: &Row) -> Vec<String> {
    let caption = row.caption_cosines.first().map(|cosine| format!("CLIP-T {cosine:.3}"));
    let text = row.text_cosine.map(|cosine| format!("CLIP-T {cosine:.3}")).or(caption);
    std::iter::once(format!("CLIP-I {:.3}", row.image_cosine)).chain(text).collect()
}
