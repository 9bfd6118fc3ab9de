//! What makes a run visible while it goes on and afterwards.
//!
//! - [`Monitor`]: smoothed losses, speed, time left and memory, for a progress bar and for `--json`;
//! - [`Events`]: the same for TensorBoard;
//! - [`write_report`]: the run as one HTML page.
//!
//! Nothing here changes a run: what it reads are numbers that a step has left.
//!
//! ```no_run
//! use ipa_train::watch::{Events, Monitor, Progress};
//! # fn steps() -> Vec<Progress> { Vec::new() }
//!
//! let mut monitor = Monitor::new(0..=999, &[]);
//! let mut events = Events::open("out".as_ref(), 1)?;
//! let mut losses = Vec::new();
//! for progress in steps() {
//!     losses.push(monitor.add(&progress));
//!     events.step(&monitor.status())?;
//!     println!("{}", monitor.message());
//! }
//! events.flush()?;
//! # Ok::<(), ipa_formats::FormatError>(())
//! ```

mod events;
mod memory;
mod monitor;
mod ranges;
mod report;
mod smooth;

pub use events::Events;
pub use memory::{peak_bytes, resident_bytes, total_bytes};
pub use monitor::{Monitor, Status};
pub use ranges::{NUM_RANGES, RangeLoss, Ranges};
pub use report::{BestStep, Fact, ReportInput, TrainedAdapter, write_report};

pub use crate::losses::StepLoss;
pub use crate::validation::ValidationResult;

/// Where a run stands after a step.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Progress {
    /// Steps done.
    pub step: u64,
    /// Steps in all.
    pub steps: u64,
    /// What this step minimised.
    pub loss: f64,
    /// The rows it learned from.
    pub rows: Vec<RowLoss>,
    /// The optimizer's step size.
    pub learning_rate: f64,
    /// Length of the gradient before it was shortened, where it was measured.
    pub grad_norm: Option<f64>,
    /// What the loss was multiplied with, where it had to be.
    pub loss_scale: Option<f64>,
}

/// One row of a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RowLoss {
    /// Its noise level.
    pub timestep: i64,
    /// Its squared error, without any weight.
    pub loss: f64,
}
