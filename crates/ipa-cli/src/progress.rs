//! Progress on standard error, for people who watch.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar over `length` steps; it clears itself when dropped.
///
/// Invisible if `quiet` (with `--json`) or if standard error is no terminal. Say what is under way, such as the loss,
/// with `set_message`.
pub(crate) fn bar(length: u64, title: &'static str, quiet: bool) -> ProgressBar {
    let target = if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
    let style = ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len}  {msg}  {eta} left")
        .expect("the template is well-formed");
    ProgressBar::with_draw_target(Some(length), target).with_style(style).with_prefix(title)
}
