//! `report.html`: the report as a page that needs no other file.

mod charts;
mod figures;
mod pictures;
mod sections;

use std::collections::BTreeSet;
use std::path::Path;

use ipa_formats::{FormatError, write_atomically};
use maud::{Markup, html};

use super::Row;
use super::report::{EvaluationReport, Remark, Tone};
use crate::Report;
use crate::report::Extras;

pub use pictures::ReportPictures;

impl EvaluationReport {
    /// The page, with those of the report's pictures that are given; the others are named.
    ///
    /// Equal reports and pictures give equal bytes.
    pub fn to_html(&self, pictures: &ReportPictures) -> String {
        let extras = Extras { style: include_str!("page.css"), script: include_str!("zoom.js"), markup: dialog };
        let mut page = Report::new(&self.settings.title, subtitle(self)).with_extras(extras);
        page.push(remarks(&self.verdict)).push(sections::score_cards(self));
        sections::tests(&mut page, self, pictures);
        sections::protocol(&mut page, self, pictures);
        sections::comparisons(&mut page, self);
        sections::strengths(&mut page, self, pictures);
        sections::likeness_and_prompt(&mut page, self);
        sections::seeds_and_prompts(&mut page, self, pictures);
        sections::copying(&mut page, self, pictures);
        sections::held_out(&mut page, self, pictures);
        sections::judges(&mut page, self);
        sections::skipped(&mut page, self);
        sections::reading(&mut page, self);
        sections::settings(&mut page, self);
        page.to_html()
    }

    /// Writes `evaluation_report.json`, `pictures.csv`, `summary.csv` and `report.html` into a folder that is there.
    ///
    /// # Errors
    /// [`FormatError::Write`] naming the file; no file is left half-written.
    pub fn write(&self, folder: &Path, pictures: &ReportPictures) -> Result<(), FormatError> {
        let files = [
            ("evaluation_report.json", self.to_json()),
            ("pictures.csv", self.pictures_csv()),
            ("summary.csv", self.summary_csv()),
            ("report.html", self.to_html(pictures)),
        ];
        files
            .iter()
            .try_for_each(|(name, text)| write_atomically(&folder.join(name), |file| file.write_all(text.as_bytes())))
    }
}

fn subtitle(report: &EvaluationReport) -> String {
    let settings = &report.settings;
    // References that are handed back were not drawn, and one picture may stand for several rows.
    let is_drawn = |row: &&Row| row.file != row.reference;
    let num = report.pictures.iter().filter(is_drawn).map(|row| &row.file).collect::<BTreeSet<_>>().len();
    let pictures = if num == 1 { "1 picture".to_owned() } else { format!("{num} pictures") };
    format!("{pictures} drawn with {}, scored by {}", settings.model, settings.metric_model)
}

fn remarks(remarks: &[Remark]) -> Markup {
    let told = |tone: Tone| match tone {
        Tone::Good => ("✓", "told-good", "Good: "),
        Tone::Plain => ("•", "told", ""),
        Tone::Caution => ("!", "told-caution", "Careful: "),
    };
    html! {
        ul.remarks.card {
            @for (Remark { text, .. }, (mark, class, word)) in remarks.iter().map(|remark| (remark, told(remark.tone))) {
                li class=(class) {
                    span.mark aria-hidden="true" { (mark) }
                    p { span.unseen { (word) } (text) }
                }
            }
        }
    }
}

/// Shows one picture large; `zoom.js` fills it.
fn dialog() -> Markup {
    html! {
        dialog #zoom aria-label="Picture" {
            figure { img alt=""; figcaption {} }
            div.turn {
                button type="button" data-turn="-1" aria-label="Previous picture" { "←" }
                button type="button" data-turn="0" aria-label="Close" autofocus { "×" }
                button type="button" data-turn="1" aria-label="Next picture" { "→" }
            }
        }
    }
}
