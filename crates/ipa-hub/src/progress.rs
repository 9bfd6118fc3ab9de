//! What happens to a file while it is fetched.

use std::time::Duration;

/// A step of one file's way into the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// Another process is fetching the same file and is waited for.
    Waiting,
    /// The download begins, or goes on behind what is there.
    Started {
        /// Bytes of an earlier download.
        have: u64,
    },
    /// More arrived.
    Received {
        /// How much more.
        bytes: u64,
    },
    /// All that arrived was thrown away, and it begins at the first byte.
    Restarted,
    /// An attempt failed and another follows.
    Retrying {
        /// What happened.
        reason: &'a str,
        /// The wait before it.
        delay: Duration,
    },
    /// The file is there, complete and verified.
    Done,
}
