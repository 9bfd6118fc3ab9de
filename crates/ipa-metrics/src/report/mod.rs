//! One HTML page that shows what was measured: pictures, scores, tables and curves in a single file.
//!
//! Style, pictures and charts are inside the page; it has no scripts, but for those of [`crate::evaluation`], and asks nothing of a network, and
//! its content security policy holds it to that. All text is escaped.

mod chart;
mod contact;
mod layout;
mod page;
mod picture;
pub(crate) mod plot;
pub(crate) mod score;

pub use chart::{Chart, Series};
pub use contact::{Contact, Flag, Thumbnail};
pub use picture::{Column, Picture, encode_png};
pub use score::ScoredPicture;

use maud::{Markup, html};

/// A report under construction, block by block from top to bottom.
///
/// ```
/// use ipa_metrics::Report;
///
/// let mut report = Report::new("Mascot", "five pictures, ten epochs");
/// report.section("Scores").table(&["measure", "mean"], &[vec!["CLIP-I".into(), "0.912".into()]]);
/// report.section("Run").key_values(&[("Seed", "0"), ("Device", "cpu")]);
/// assert!(report.to_html().starts_with("<!DOCTYPE html>"));
/// ```
#[derive(Debug, Clone)]
pub struct Report {
    title: String,
    subtitle: String,
    lead: Vec<Markup>,
    sections: Vec<Section>,
    extras: Option<Extras>,
}

/// What a page has beyond those of all reports: rules of style, and a script that its policy allows by digest.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Extras {
    pub(crate) style: &'static str,
    pub(crate) script: &'static str,
    /// Comes last in the body.
    pub(crate) markup: fn() -> Markup,
}

#[derive(Debug, Clone)]
struct Section {
    title: String,
    blocks: Vec<Markup>,
}

impl Report {
    /// An empty report; the subtitle may be empty.
    pub fn new(title: impl Into<String>, subtitle: impl Into<String>) -> Self {
        let (title, subtitle) = (title.into(), subtitle.into());
        Self { title, subtitle, lead: Vec::new(), sections: Vec::new(), extras: None }
    }

    /// An empty report with more on its page.
    pub(crate) fn with_extras(self, extras: Extras) -> Self {
        Self { extras: Some(extras), ..self }
    }

    /// Opens a section: what follows belongs to it. What comes before the first one leads the page.
    pub fn section(&mut self, title: impl Into<String>) -> &mut Self {
        self.sections.push(Section { title: title.into(), blocks: Vec::new() });
        self
    }

    /// Running text.
    pub fn paragraph(&mut self, text: &str) -> &mut Self {
        self.push(html! { p.prose { (text) } })
    }

    /// Pictures side by side, each over its label; small ones are enlarged pixel by pixel.
    pub fn pictures(&mut self, caption: &str, pictures: &[Picture]) -> &mut Self {
        self.push(picture::row(caption, pictures))
    }

    /// A picture as wide as it is, up to the width of the page, below its label.
    pub fn large_picture(&mut self, picture: &Picture) -> &mut Self {
        self.push(picture::large(picture))
    }

    /// The same behind its label, which opens it.
    pub fn folded_picture(&mut self, picture: &Picture) -> &mut Self {
        self.push(picture::folded(picture))
    }

    /// PNG files in rows and columns, for comparisons; `None` leaves a cell empty.
    ///
    /// `cells[row][column]` belongs to `row_labels[row]` and `columns[column]`.
    ///
    /// # Panics
    /// If the labels and cells do not count the same rows and columns.
    pub fn picture_grid(
        &mut self,
        row_labels: &[impl AsRef<str>],
        columns: &[Column],
        cells: &[Vec<Option<Vec<u8>>>],
    ) -> &mut Self {
        self.push(picture::grid(self.heading(), row_labels, columns, cells))
    }

    /// A table, whose first column names the rows; columns of numbers are aligned to the right.
    ///
    /// # Panics
    /// If a row is not as wide as the header.
    pub fn table(&mut self, header: &[impl AsRef<str>], rows: &[Vec<String>]) -> &mut Self {
        self.push(layout::table(self.heading(), header, rows))
    }

    /// A card for each case, and the [`crate::MAPPING`] from cosines to percentages below them.
    pub fn scored_pictures(&mut self, cases: &[ScoredPicture]) -> &mut Self {
        self.push(score::cards(cases))
    }

    /// Small pictures with their captions and what is remarked on each, for a look over many.
    pub fn contact_sheet(&mut self, contacts: &[Contact]) -> &mut Self {
        self.push(contact::sheet(contacts))
    }

    /// A line chart over the whole width.
    pub fn chart(&mut self, chart: &Chart) -> &mut Self {
        self.push(chart.figure())
    }

    /// Small line charts side by side.
    pub fn charts(&mut self, charts: &[Chart]) -> &mut Self {
        self.push(html! { div.charts { @for chart in charts { (chart.small_figure()) } } })
    }

    /// Facts by name: settings, times, the machine.
    pub fn key_values(&mut self, facts: &[(impl AsRef<str>, impl AsRef<str>)]) -> &mut Self {
        self.push(layout::key_values(facts))
    }

    /// A link to a file that lies beside the page or below it, and what it is.
    pub fn file(&mut self, path: &str, what: &str) -> &mut Self {
        self.push(layout::file(path, what))
    }

    /// A command to be copied, with its line breaks.
    pub fn command(&mut self, text: &str) -> &mut Self {
        self.push(layout::command(text))
    }

    /// The finished page.
    pub fn to_html(&self) -> String {
        page::render(self).into_string()
    }

    /// What the blocks to come belong to.
    fn heading(&self) -> &str {
        self.sections.last().map_or(&self.title, |section| &section.title)
    }

    /// Any other block.
    pub(crate) fn push(&mut self, block: Markup) -> &mut Self {
        self.sections.last_mut().map_or(&mut self.lead, |section| &mut section.blocks).push(block);
        self
    }
}

#[cfg(test)]
mod tests {
    use image::RgbImage;

    use super::*;
    use crate::CaseScore;

    const NASTY: &str = "<script>alert('x')</script>\" onload=\"y\" & more";

    /// Every kind of block with the same text wherever text can go.
    fn everything(text: &str) -> String {
        let png = encode_png(&RgbImage::from_pixel(2, 2, image::Rgb([200, 30, 60])));
        let series = Series { name: text.into(), points: vec![(0.0, 1.0), (1.0, 0.5), (2.0, 0.25)] };
        let mut report = Report::new(text, text);
        report.paragraph(text).section(text).paragraph(text);
        let picture = Picture { label: text.into(), png: png.clone() };
        report.pictures(text, std::slice::from_ref(&picture));
        let column = || Column { group: text.into(), label: text.into() };
        report.picture_grid(&[text], &[column(), column()], &[vec![Some(png.clone()), None]]);
        report.table(&[text], &[vec![text.into()]]).key_values(&[(text, text)]);
        let (name, prompt, score) = (text.to_owned(), text.to_owned(), CaseScore::new(0.8, 0.3));
        report.scored_pictures(&[ScoredPicture { name, prompt, reference: png.clone(), drawn: png, score }]);
        report.file(text, text).command(text);
        let chart = Chart::new(text, [text, text], vec![series]).marked(1.0, text);
        report.chart(&chart).charts(&[chart.smoothed(3)]);
        report.large_picture(&picture).folded_picture(&picture);
        let thumbnail = Thumbnail { jpeg: Vec::new(), width: 2, height: 2 };
        let (flags, caption) = (vec![Flag { text: text.into(), is_fault: true }], text.to_owned());
        report.contact_sheet(&[Contact { title: text.into(), thumbnail: Some(thumbnail), caption, flags }]);
        report.to_html()
    }

    #[test]
    fn all_text_is_escaped() {
        let html = everything(NASTY);
        assert!(!html.contains("<script"));
        assert!(!html.contains("\" onload=\""));
        assert!(html.contains("&lt;script&gt;"));
    }

    #[test]
    fn the_page_needs_no_other_file() {
        let html = everything("plain");
        for outside in ["http:", "https:", "//", "<link", "<script", "@import", "url(", "srcset"] {
            let page =
                html.split("data:image/png;base64,").map(|part| part.split_once('"').map_or(part, |(_, rest)| rest));
            assert!(!page.collect::<String>().contains(outside), "{outside}");
        }
    }

    #[test]
    fn every_picture_and_chart_says_what_it_shows() {
        let html = everything("a red hat");
        assert_eq!(html.matches("<img").count(), html.matches("alt=\"a red hat").count());
        assert_eq!(html.matches("<svg").count(), html.matches("role=\"img\" aria-label=\"a red hat").count());
    }

    #[test]
    fn equal_reports_give_equal_bytes() {
        assert_eq!(everything("same"), everything("same"));
    }

    #[test]
    fn blocks_before_the_first_section_lead_the_page() {
        let mut report = Report::new("title", "");
        report.paragraph("first").section("one").paragraph("second");
        let html = report.to_html();
        let place = |text: &str| html.find(text).expect("it is on the page");
        assert!(place(">first<") < place(">one</h2>") && place(">one</h2>") < place(">second<"));
    }
}
