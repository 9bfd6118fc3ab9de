//! The page: prose by hand, and between marks what was measured.

use anyhow::{Context as _, Result};

use crate::draw::Condition;
use crate::results::Results;
use crate::tables;

/// The page before anything was measured.
const TEMPLATE: &str = include_str!("page.md");

/// The page, or the template for it, with every marked section made anew.
///
/// # Errors
/// If a mark is missing.
pub(crate) fn filled(page: Option<String>, results: &Results) -> Result<String> {
    let sections = [
        ("extent", tables::extent(results)),
        ("arms", tables::arms(results)),
        ("image", tables::condition(results, Condition::Image)),
        ("both", tables::condition(results, Condition::Both)),
        ("edit", tables::condition(results, Condition::Edit)),
        ("scales", tables::sweep(results)),
        ("paper", tables::paper(results)),
    ];
    let page = page.unwrap_or_else(|| TEMPLATE.to_owned());
    sections.iter().try_fold(page, |page, (name, text)| replaced(&page, name, text))
}

fn replaced(page: &str, name: &str, text: &str) -> Result<String> {
    let (begin, end) = (format!("<!-- measured: {name} -->\n"), format!("<!-- end: {name} -->"));
    let (before, rest) = page.split_once(&begin).with_context(|| format!("the page has no line `{}`", begin.trim()))?;
    let (_, after) = rest.split_once(&end).with_context(|| format!("the page has no line `{end}`"))?;
    Ok(format!("{before}{begin}{text}{end}{after}"))
}
