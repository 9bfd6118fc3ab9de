//! The page around the blocks: head, title, contents, sections.

use base64::{Engine, engine::general_purpose::STANDARD};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest, Sha256};

use super::Report;

const STYLE: &str = include_str!("style.css");
const POLICY: &str = "default-src 'none'; img-src data:; style-src 'unsafe-inline'";

pub(super) fn render(report: &Report) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta http-equiv="Content-Security-Policy" content=(policy(report));
                title { (report.title) }
                style { (PreEscaped(STYLE)) @if let Some(extras) = report.extras { (PreEscaped(extras.style)) } }
            }
            body {
                header {
                    h1 { (report.title) }
                    @if !report.subtitle.is_empty() { p.subtitle { (report.subtitle) } }
                    @if report.sections.len() > 1 { (contents(report)) }
                }
                main {
                    @if !report.lead.is_empty() {
                        section { @for block in &report.lead { (block) } }
                    }
                    @for (index, section) in report.sections.iter().enumerate() {
                        section id=(anchor(index)) {
                            h2 { (section.title) }
                            @for block in &section.blocks { (block) }
                        }
                    }
                }
                @if let Some(extras) = report.extras {
                    ((extras.markup)())
                    script { (PreEscaped(extras.script)) }
                }
            }
        }
    }
}

/// Allows the page's own script, by its digest, and no other.
fn policy(report: &Report) -> String {
    match report.extras {
        Some(extras) => format!("{POLICY}; script-src 'sha256-{}'", STANDARD.encode(Sha256::digest(extras.script))),
        None => POLICY.to_owned(),
    }
}

fn contents(report: &Report) -> Markup {
    html! {
        nav aria-label="Contents" {
            @for (index, section) in report.sections.iter().enumerate() {
                a href={ "#" (anchor(index)) } { (section.title) }
            }
        }
    }
}

fn anchor(index: usize) -> String {
    format!("section-{}", index + 1)
}
