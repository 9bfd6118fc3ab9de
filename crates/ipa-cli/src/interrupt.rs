//! Ctrl-C: a flag that is looked at between two steps, so that nothing is torn apart in the middle of one.

use std::io::{IsTerminal as _, Write as _};
use std::ops::ControlFlow;
use std::panic;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result};
use ipa_sample::PipelineError;

/// The user stopped the program; says what became of the work so far.
#[derive(Debug, thiserror::Error)]
#[error("interrupted; {0}")]
pub(crate) struct Interrupted(pub(crate) String);

static REQUESTED: AtomicBool = AtomicBool::new(false);

/// From here on Ctrl-C (and a request to terminate) sets the flag in place of ending the program.
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
    let mut stderr = std::io::stderr();
    if !REQUESTED.swap(true, Ordering::Relaxed) && stderr.is_terminal() {
        let _ = writeln!(stderr, "\nstopping after the step that is running");
    }
}

/// Whether the user wants the work to stop.
pub(crate) fn requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
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
