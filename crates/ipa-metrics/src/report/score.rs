//! Score cards: reference and picture, the combined percentage and its grade, with the two parts and their raw cosines
//! below.

use maud::{Markup, html};

use super::picture::img;
use crate::{CaseScore, Grade, MAPPING};

/// A picture that was drawn from a reference and a prompt, and what it scored.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoredPicture {
    /// What the case is called.
    pub name: String,
    /// What it was drawn from, beside the reference.
    pub prompt: String,
    /// The reference, a PNG file.
    pub reference: Vec<u8>,
    /// The picture, a PNG file.
    pub drawn: Vec<u8>,
    /// Its score.
    pub score: CaseScore,
}

pub(super) fn cards(cases: &[ScoredPicture]) -> Markup {
    html! {
        div.scores {
            @for case in cases { (card(case)) }
        }
        p.note { (MAPPING) }
    }
}

fn card(ScoredPicture { name, prompt, reference, drawn, score }: &ScoredPicture) -> Markup {
    html! {
        article.card.score {
            h3 { (name) }
            p.prompt { (prompt) }
            div.pair {
                @for (label, png) in [("reference", reference), ("drawn", drawn)] {
                    figure { (img(&format!("{name}, {label}"), png)) figcaption { (label) } }
                }
            }
            p.total {
                span.percent { (format!("{:.1}", score.combined)) small { " %" } }
                span class={ "grade " (tone(score.grade)) } aria-label={ "Grade " (score.grade) } { (score.grade) }
            }
            (bar("Reference preservation", score.reference_preservation, score.image_cosine))
            (bar("Prompt following", score.prompt_following, score.text_cosine))
        }
    }
}

pub(crate) fn bar(name: &str, percent: f64, cosine: f64) -> Markup {
    html! {
        div.part {
            span { (name) }
            span.value { (format!("{percent:.1} %")) }
            div.bar aria-hidden="true" { div style={ "width:" (format!("{:.2}", percent.clamp(0.0, 100.0))) "%" } {} }
            span.raw { (format!("raw cosine {cosine:.3}")) }
        }
    }
}

pub(crate) fn tone(grade: Grade) -> &'static str {
    match grade {
        Grade::APlus | Grade::A => "good",
        Grade::B => "fair",
        Grade::C => "weak",
        Grade::F => "poor",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_shows_both_pictures_percentages_cosines_and_the_mapping() {
        let png = crate::encode_png(&image::RgbImage::new(2, 2));
        let case = ScoredPicture {
            name: "test 1".to_owned(),
            prompt: "on a hill".to_owned(),
            reference: png.clone(),
            drawn: png,
            score: CaseScore::new(0.75, 0.25),
        };
        let html = cards(&[case]).into_string();
        for shown in ["test 1, reference", "test 1, drawn", "on a hill"] {
            assert!(html.contains(shown), "{shown}");
        }
        for shown in ["75.0 %", "62.5 %", "68.8", "raw cosine 0.750", "raw cosine 0.250", "Grade C", MAPPING] {
            assert!(html.contains(shown), "{shown}");
        }
    }
}
