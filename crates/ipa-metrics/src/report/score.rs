//! Score cards: the combined percentage and its grade, with the two parts and their raw cosines below.

use maud::{Markup, html};

use crate::{CaseScore, Grade, MAPPING};

pub(super) fn cards(cases: &[(impl AsRef<str>, CaseScore)]) -> Markup {
    html! {
        div.scores {
            @for (name, score) in cases { (card(name.as_ref(), score)) }
        }
        p.note { (MAPPING) }
    }
}

fn card(name: &str, score: &CaseScore) -> Markup {
    html! {
        article.card.score {
            h3 { (name) }
            p.total {
                span.percent { (format!("{:.1}", score.combined)) small { " %" } }
                span class={ "grade " (tone(score.grade)) } aria-label={ "Grade " (score.grade) } { (score.grade) }
            }
            (bar("Reference preservation", score.reference_preservation, score.image_cosine))
            (bar("Prompt following", score.prompt_following, score.text_cosine))
        }
    }
}

fn bar(name: &str, percent: f64, cosine: f64) -> Markup {
    html! {
        div.part {
            span { (name) }
            span.value { (format!("{percent:.1} %")) }
            div.bar aria-hidden="true" { div style={ "width:" (format!("{:.2}", percent.clamp(0.0, 100.0))) "%" } {} }
            span.raw { (format!("raw cosine {cosine:.3}")) }
        }
    }
}

fn tone(grade: Grade) -> &'static str {
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
    fn a_card_shows_percentages_cosines_and_the_mapping() {
        let html = cards(&[("case", CaseScore::new(0.75, 0.25))]).into_string();
        for shown in ["75.0 %", "62.5 %", "68.8", "raw cosine 0.750", "raw cosine 0.250", "Grade C", MAPPING] {
            assert!(html.contains(shown), "{shown}");
        }
    }
}
