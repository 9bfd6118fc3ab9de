//! Weights by name: from `sd15` or `ip-adapter-plus` to files on the disk.
//!
//! [`Sets`] lists what has a name. [`Hub`] asks the hub for their sizes and digests, downloads what is missing into the
//! standard cache, several files at once, goes on where an earlier download ended, and verifies every byte before a
//! file gets its name. The cache is the one of Python's `huggingface_hub`: what either fetched, both find. Settings are
//! those of the same library, from the same variables ([`Settings::from_env`]).
//!
//! Answers are strangers' input. File names come from [`Sets`] alone, commits and digests have to look like such, sizes
//! are limits, redirects are few and never lead from `https` to `http`, and the token goes to the hub's own origin only.
//!
//! This crate does not know what the files mean: no tensors, no libtorch.
//!
//! # Why no client from elsewhere
//! The client that the hub's makers publish, `hf-hub` 1.0.0, was read first. Its download of a file into the cache
//! begins at the first byte after every interruption (it truncates `<etag>.incomplete`), compares neither length nor
//! digest before it gives the blob its final name, and does not look at the status of the answer that it writes there; it
//! retries until an answer begins but not when it breaks off, ignores `Retry-After`, has no timeout for silence, and gives
//! up a lock after a fixed time. Around it there would be nothing left to use. It builds 284 crates, this one 80.
//!
//! ```no_run
//! use ipa_hub::{Hub, Sets};
//!
//! let (hub, sets) = (Hub::from_env()?, Sets::bundled());
//! let plan = hub.plan(sets.get("ip-adapter-plus")?)?;
//! println!("{} bytes to fetch, licence {}", plan.bytes_to_fetch(), plan.set().licence());
//! let adapter = hub.fetch(&plan, &|_, _| {})?.path;
//! # Ok::<(), ipa_hub::HubError>(())
//! ```

mod cache;
pub mod command;
mod digest;
mod download;
mod error;
mod http;
mod hub;
mod listing;
mod partial;
mod plan;
mod progress;
mod retry;
mod sets;
mod settings;
mod url;

pub use error::HubError;
pub use hub::Hub;
pub use plan::{Local, Plan, PlannedFile};
pub use progress::Event;
pub use sets::{Kind, Set, Sets};
pub use settings::{Patience, Settings, Token};
