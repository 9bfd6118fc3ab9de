//! Work on a card that is told once and done many times.

use std::ffi::{CStr, c_char, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{self, NonNull};

use tch::Cuda;

/// Why there is no graph.
#[derive(Debug, thiserror::Error)]
#[error("no CUDA graph: {0}")]
pub struct CudaGraphError(String);

/// Kernels with their arguments, recorded from a run on one card (CUDA's graphs, by way of libtorch's `CUDAGraph`).
///
/// A small network's step takes a card less time than it takes a processor to launch its kernels one by one; a graph launches
/// all of them at once. They read and write where they did when they were recorded: what changes from run to run has to be
/// copied into the same tensors, and what a run left has to be read before the next.
#[derive(Debug)]
pub struct CudaGraph {
    raw: NonNull<Raw>,
}

/// Of `shim.cpp`.
#[repr(C)]
struct Raw {
    _private: [u8; 0],
}

// `shim.cpp`
unsafe extern "C" {
    fn ipa_graph_new(device: c_int, like: *const Raw, text: *mut c_char, capacity: usize) -> *mut Raw;
    fn ipa_graph_delete(graph: *mut Raw);
    fn ipa_graph_begin(graph: *mut Raw, device: c_int, like: *mut Raw, text: *mut c_char, capacity: usize) -> c_int;
    fn ipa_graph_end(graph: *mut Raw, text: *mut c_char, capacity: usize) -> c_int;
    fn ipa_graph_replay(graph: *mut Raw, text: *mut c_char, capacity: usize) -> c_int;
}

// SAFETY: libtorch's graph belongs to no thread; only one at a time has it.
unsafe impl Send for CudaGraph {}

impl CudaGraph {
    /// Records what `work` does on the card of this number; the tensors that it returns are filled by [`CudaGraph::replay`] only.
    ///
    /// `work` must have been run before, so that libraries have set up what they need, and may not look at any number on the
    /// card nor copy anything to or from it. Everything that it reads must live as long as the graph is replayed. Its memory
    /// is that of `like`, if there is one, whose results are lost; it stays with the card for graphs to come as long as any
    /// of them is there.
    ///
    /// # Errors
    /// [`CudaGraphError`] if this libtorch cannot, or `work` did what cannot be recorded.
    pub fn capture<T>(
        device: usize,
        like: Option<&Self>,
        work: impl FnOnce() -> T,
    ) -> Result<(Self, T), CudaGraphError> {
        let graph = Self::new(device, like)?;
        let (raw, number) = (graph.raw, device as c_int);
        let like = like.map_or(ptr::null_mut(), |like| like.raw.as_ptr());
        // What was told on the usual stream is done before anything on the graph's.
        Cuda::synchronize(device as i64);
        // SAFETY: as above.
        done(|text, capacity| unsafe { ipa_graph_begin(raw.as_ptr(), number, like, text, capacity) })?;
        let capture = Capture { raw, is_ended: false };
        // What fails in recording, as for want of memory, can do without: the work may be done unrecorded still.
        let result = catch_unwind(AssertUnwindSafe(work));
        capture.end()?;
        let result = result.map_err(|_| CudaGraphError("the work failed while it was recorded".to_owned()))?;
        Ok((graph, result))
    }

    /// Whether this libtorch can record at all.
    ///
    /// # Errors
    /// [`CudaGraphError`] if not.
    pub fn check(device: usize) -> Result<(), CudaGraphError> {
        Self::new(device, None).map(drop)
    }

    /// Nothing is recorded yet.
    fn new(device: usize, like: Option<&Self>) -> Result<Self, CudaGraphError> {
        let like = like.map_or(ptr::null(), |like| like.raw.as_ptr().cast_const());
        let mut raw = None;
        told(|text, capacity| {
            // SAFETY: `like` is null or a live graph; the message's buffer is as large as is said, here and below.
            raw = NonNull::new(unsafe { ipa_graph_new(device as c_int, like, text, capacity) });
            raw.is_some()
        })
        .map_err(CudaGraphError)?;
        Ok(Self { raw: raw.expect("there is a graph or a message") })
    }

    /// Tells the card to do it all again.
    ///
    /// # Safety
    /// All that the recorded work read is still there, and so are the tensors that it returned; nothing is needed any more of
    /// what a graph made `like` this one has left.
    ///
    /// # Errors
    /// [`CudaGraphError`] if CUDA refuses.
    pub unsafe fn replay(&self) -> Result<(), CudaGraphError> {
        // SAFETY: the graph lives and was recorded to its end.
        done(|text, capacity| unsafe { ipa_graph_replay(self.raw.as_ptr(), text, capacity) })
    }
}

impl Drop for CudaGraph {
    fn drop(&mut self) {
        // SAFETY: nobody else has it.
        unsafe { ipa_graph_delete(self.raw.as_ptr()) };
    }
}

/// Ends the recording also where the work panics.
struct Capture {
    raw: NonNull<Raw>,
    is_ended: bool,
}

impl Capture {
    fn end(mut self) -> Result<(), CudaGraphError> {
        self.is_ended = true;
        // SAFETY: the graph is being recorded.
        done(|text, capacity| unsafe { ipa_graph_end(self.raw.as_ptr(), text, capacity) })
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        if !self.is_ended {
            let mut ignored: [c_char; 1] = [0];
            // SAFETY: the graph is being recorded.
            unsafe { ipa_graph_end(self.raw.as_ptr(), ignored.as_mut_ptr(), ignored.len()) };
        }
    }
}

/// Whether `call`, which answers 1, succeeded; otherwise its message.
fn done(call: impl FnOnce(*mut c_char, usize) -> c_int) -> Result<(), CudaGraphError> {
    told(|text, capacity| call(text, capacity) == 1).map_err(CudaGraphError)
}

/// The first line of the message that `call` writes, if it answers no.
pub(super) fn told(call: impl FnOnce(*mut c_char, usize) -> bool) -> Result<(), String> {
    let mut text: [c_char; 1024] = [0; 1024];
    if call(text.as_mut_ptr(), text.len()) {
        return Ok(());
    }
    // SAFETY: the buffer ends with a zero, whatever was written.
    let text = unsafe { CStr::from_ptr(text.as_ptr()) }.to_string_lossy();
    Err(text.lines().next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_card_there_is_an_error_and_no_work() {
        if tch::Cuda::is_available() {
            return; // a card records: `a_graph_does_the_same_again` in kernels.rs
        }
        let error = CudaGraph::capture(0, None, || panic!("called")).map(|(_, never): (_, ())| never);
        assert!(error.expect_err("no card").to_string().contains("no CUDA graph"));
    }
}
