//! Progress on standard error, for people who watch.

use std::io::IsTerminal as _;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar over `length` steps; it clears itself when dropped.
///
/// Invisible if standard error is no terminal, or if the lines of `--json` would be written into it on the same one.
/// Say what is under way, such as the loss, with `set_message`.
pub(crate) fn bar(length: u64, title: &'static str, json: bool) -> ProgressBar {
    with_template(length, title, json, "{prefix} {wide_bar} {pos}/{len}  {msg}  {eta} left")
}

/// As [`bar`], over bytes.
pub(crate) fn bytes(length: u64, title: &'static str, json: bool) -> ProgressBar {
    with_template(length, title, json, "{prefix} {wide_bar} {bytes}/{total_bytes}  {msg}  {eta} left")
}

fn with_template(length: u64, title: &'static str, json: bool, template: &str) -> ProgressBar {
    let disturbs = json && std::io::stdout().is_terminal();
    let target = if disturbs { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
    let style = ProgressStyle::with_template(template).expect("the template is well-formed");
    ProgressBar::with_draw_target(Some(length), target).with_style(style).with_prefix(title)
}
