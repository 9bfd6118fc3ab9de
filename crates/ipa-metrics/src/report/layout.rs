//! Blocks of text: tables and lists of facts.

use maud::{Markup, html};

pub(super) fn table(header: &[impl AsRef<str>], rows: &[Vec<String>]) -> Markup {
    assert!(rows.iter().all(|row| row.len() == header.len()), "every row is as wide as the header");
    let numeric: Vec<bool> =
        (0..header.len()).map(|column| !rows.is_empty() && rows.iter().all(|row| is_numeric(&row[column]))).collect();
    html! {
        div.wide.card tabindex="0" role="region" aria-label="Table" {
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
                            @for (cell, numeric) in row.iter().zip(&numeric) { td.number[*numeric] { (cell) } }
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
        table(&["one", "two"], &[vec!["1".into()]]);
    }
}
