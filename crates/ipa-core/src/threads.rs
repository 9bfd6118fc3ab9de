//! How many threads libtorch uses for one operation.

/// Sets libtorch's threads for as long as it lives, then what was set before.
///
/// Small models spend most of their time in operations too short to share among threads: callers that run several
/// models at once are faster with a thread each.
#[derive(Debug)]
pub struct ThreadLimit {
    before: i32,
}

impl ThreadLimit {
    /// `num_threads` an operation, at least one.
    pub fn new(num_threads: i32) -> Self {
        let before = tch::get_num_threads();
        tch::set_num_threads(num_threads.max(1));
        Self { before }
    }

    /// An equal share of the threads for each of `num_callers`.
    pub fn shared_by(num_callers: i32) -> Self {
        Self::new(tch::get_num_threads() / num_callers.max(1))
    }
}

impl Drop for ThreadLimit {
    fn drop(&mut self) {
        tch::set_num_threads(self.before);
    }
}
