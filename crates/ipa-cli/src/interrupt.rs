//! Ctrl-C: a flag that is looked at between two steps, so that nothing is torn apart in the middle of one.

use std::ffi::c_int;
use std::io::{IsTerminal as _, Write as _};
use std::ops::ControlFlow;
use std::panic;
use std::sync::{Once, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use ipa_sample::PipelineError;

/// The user stopped the program; says what became of the work so far.
#[derive(Debug, thiserror::Error)]
#[error("interrupted; {0}")]
pub(crate) struct Interrupted(pub(crate) String);

/// Signals within this time are one request: `timeout` and some shells send theirs twice.
const ONE_REQUEST: Duration = Duration::from_millis(500);

/// When the user first asked.
static REQUESTED: OnceLock<Instant> = OnceLock::new();

/// From here on Ctrl-C (and a request to terminate) sets the flag in place of ending the program; a second one ends it
/// at once, whatever it is doing, and what it was writing is removed: files are renamed when they are whole.
///
/// # Errors
/// If the system lets no handler be set.
pub(crate) fn listen() -> Result<()> {
    static LISTENING: Once = Once::new();
    let mut result = Ok(());
    LISTENING.call_once(|| result = ctrlc::set_handler(note).context("cannot listen for Ctrl-C"));
    result
}

fn note() {
    let now = Instant::now();
    let first = *REQUESTED.get_or_init(|| now);
    let mut stderr = std::io::stderr();
    if first == now && stderr.is_terminal() {
        let _ = writeln!(stderr, "\nstopping after the step that is running; Ctrl-C again stops at once");
    }
    if now - first > ONE_REQUEST {
        leave();
    }
}

/// From here on Ctrl-C (and a request to terminate) ends the program at once, without what it has not finished: for
/// commands that have no steps.
///
/// # Errors
/// If the system lets no handler be set.
pub(crate) fn leave_at_once() -> Result<()> {
    ctrlc::set_handler(leave).context("cannot listen for Ctrl-C")
}

fn leave() {
    ipa_formats::remove_unfinished();
    _exit(1);
}

unsafe extern "C" {
    /// The C library's: ends the process without what `exit` runs first, libtorch's destructors, which the threads
    /// that still compute would not survive.
    safe fn _exit(status: c_int) -> !;
}

/// Whether the user wants the work to stop.
pub(crate) fn requested() -> bool {
    REQUESTED.get().is_some()
}

/// For callbacks that may stop what calls them.
pub(crate) fn flow() -> ControlFlow<()> {
    if requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}

/// What to say of a drawing that failed: if it was stopped, what became of the work so far.
pub(crate) fn told(error: PipelineError, state: &str) -> anyhow::Error {
    match error {
        PipelineError::Interrupted { .. } => Interrupted(state.to_owned()).into(),
        error => error.into(),
    }
}

/// Ends the command if the user wants it to stop; `state` says what became of the work so far.
///
/// For callbacks that cannot return an error: it unwinds to [`crate::failure::reported`], which tells it as one.
pub(crate) fn stop_if_requested(state: &str) {
    if requested() {
        panic::resume_unwind(Box::new(Interrupted(state.to_owned())));
    }
}
