//! Progress on standard error, for people who watch.

use std::collections::HashMap;
use std::io::IsTerminal as _;
use std::sync::{Mutex, PoisonError};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::{Event, Plan};

/// A bar a file; they clear themselves. Invisible if standard error is no terminal, or if lines of `--json` would be
/// written between them: then only troubles are told.
#[derive(Debug)]
pub(super) struct Bars {
    all: MultiProgress,
    files: Mutex<HashMap<String, ProgressBar>>,
}

impl Bars {
    pub(super) fn new(plan: &Plan, json: bool) -> Self {
        let disturbs = json && std::io::stdout().is_terminal();
        let target = if disturbs { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let style = ProgressStyle::with_template(
            "{prefix} {wide_bar} {decimal_bytes}/{decimal_total_bytes}  {decimal_bytes_per_sec}  {eta} left",
        )
        .expect("the template is well-formed");
        let bar = |size| ProgressBar::new(size).with_style(style.clone());
        let files = plan.files().iter().map(|file| (file.name().to_owned(), bar(file.size())));
        Self { all: MultiProgress::with_draw_target(target), files: Mutex::new(files.collect()) }
    }

    pub(super) fn show(&self, file: &str, event: Event<'_>) {
        let files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(bar) = files.get(file) else { return };
        match event {
            Event::Waiting => self.note(&format!("{file}: another program is fetching it; waiting for that")),
            Event::Started { have } => {
                let bar = self.all.add(bar.clone());
                bar.set_prefix(file.to_owned());
                bar.set_position(have);
                bar.reset_eta();
            }
            Event::Received { bytes } => bar.inc(bytes),
            Event::Restarted => bar.set_position(0),
            Event::Retrying { reason, delay } => {
                self.note(&format!("{file}: {reason}; trying again in {:.1} s", delay.as_secs_f64()));
            }
            Event::Done => bar.finish_and_clear(),
        }
    }

    fn note(&self, text: &str) {
        self.all.suspend(|| eprintln!("{text}"));
    }
}
