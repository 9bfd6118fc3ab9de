//! Blocks of text: tables, lists of facts, links, commands.

use maud::{Markup, html};

pub(super) fn table(title: &str, header: &[impl AsRef<str>], rows: &[Vec<String>]) -> Markup {
    assert!(rows.iter().all(|row| row.len() == header.len()), "every row is as wide as the header");
    let numeric: Vec<bool> =
        (0..header.len()).map(|column| !rows.is_empty() && rows.iter().all(|row| is_numeric(&row[column]))).collect();
    html! {
        div.wide.card tabindex="0" role="region" aria-label=(title) {
            table.data {
                thead {
                    tr {
                        @for (title, numeric) in header.iter().zip(&numeric) {
                            th scope="col" .number[*numeric] { (title.as_ref()) }
                        }
                    }
                }
                tbody {
                    @for row in rows {
                        tr {
                            @for (column, (cell, numeric)) in row.iter().zip(&numeric).enumerate() {
                                @if column == 0 {
                                    th scope="row" .number[*numeric] { (cell) }
                                } @else {
                                    td.number[*numeric] { (cell) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

pub(super) fn key_values(facts: &[(impl AsRef<str>, impl AsRef<str>)]) -> Markup {
    html! {
        dl.facts.card {
            @for (name, value) in facts {
                div { dt { (name.as_ref()) } dd { (value.as_ref()) } }
            }
        }
    }
}

pub(super) fn file(path: &str, what: &str) -> Markup {
    html! { p.prose { a href=(path) { (path) } ": " (what) } }
}

pub(super) fn command(text: &str) -> Markup {
    html! { pre.card tabindex="0" { code { (text) } } }
}

/// Numbers, percentages, intervals, and the dash of a missing one.
fn is_numeric(cell: &str) -> bool {
    let mark = |c: char| " .,+-−–%×[]()±e".contains(c);
    cell.chars().all(|c| c.is_ascii_digit() || mark(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_told_from_words() {
        assert!(["12", "-0.5", "0.81 [0.79, 0.83]", "93 %", "1e-4", "–", ""].into_iter().all(is_numeric));
        assert!(!["DDIM", "5 images", "1 h"].into_iter().any(is_numeric));
    }

    #[test]
    #[should_panic(expected = "every row is as wide as the header")]
    fn a_short_row_is_a_mistake() {
        table("title", &["one", "two"], &[vec!["1".into()]]);
    }

    #[test]
    fn the_first_cell_of_a_row_is_its_heading() {
        let html = table("Measured", &["measure", "mean"], &[vec!["CLIP-I".into(), "0.5".into()]]).into_string();
        assert!(html.contains("aria-label=\"Measured\""), "{html}");
        assert!(html.contains("scope=\"row\">CLIP-I</th><td class=\"number\">0.5</td>"), "{html}");
    }
}
