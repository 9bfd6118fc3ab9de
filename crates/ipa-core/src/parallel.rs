//! Loops shared among libtorch's own threads, and the numbers that they read and write.

use std::ffi::{c_uint, c_void};
use std::slice;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use tch::{Device, Kind, Tensor};

/// `GOMP_parallel(fn, data, num_threads, flags)` of the OpenMP library that libtorch computes with.
type GompParallel = unsafe extern "C" fn(unsafe extern "C" fn(*mut c_void), *mut c_void, c_uint, c_uint);

/// Calls `body` for every index below `count`, on as many threads as libtorch uses for an operation.
///
/// They are libtorch's own, where it computes with GNU's OpenMP library: its threads wait for work by turning in place for a
/// while, and other threads beside them would fight for the same cores. Elsewhere the caller's thread does all of it.
pub(crate) fn for_each(count: usize, body: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(0);
    let share = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= count {
                return;
            }
            body(index);
        }
    };
    match (gomp(), tch::get_num_threads().min(i32::try_from(count).unwrap_or(i32::MAX))) {
        (Some(parallel), threads @ 2..) => on_threads(parallel, threads.unsigned_abs(), &share),
        _ => share(),
    }
}

/// Whether [`for_each`] uses as many threads as libtorch does.
pub(crate) fn is_shared() -> bool {
    gomp().is_some() || tch::get_num_threads() == 1
}

fn on_threads<F: Fn() + Sync>(parallel: GompParallel, threads: c_uint, share: &F) {
    unsafe extern "C" fn entry<F: Fn() + Sync>(data: *mut c_void) {
        // SAFETY: `data` is the `share` below, which outlives the call; `F` is `Sync`.
        let share = unsafe { &*data.cast::<F>() };
        share();
    }
    // SAFETY: the function is called on each thread before this returns, with the pointer it is given.
    unsafe { parallel(entry::<F>, std::ptr::from_ref(share).cast_mut().cast(), threads, 0) };
}

/// The function in the library that is loaded already, if it is that one.
fn gomp() -> Option<GompParallel> {
    static FOUND: OnceLock<Option<GompParallel>> = OnceLock::new();
    *FOUND.get_or_init(|| {
        #[cfg(unix)]
        {
            let program = libloading::os::unix::Library::this();
            // SAFETY: the symbol has had this signature since GCC 4.9, and the library stays loaded with libtorch.
            let found = unsafe { program.get::<GompParallel>(b"GOMP_parallel\0") };
            found.ok().map(|symbol| *symbol)
        }
        #[cfg(not(unix))]
        None
    })
}

/// Bytes that a thread copies at a time: enough that the loop costs nothing.
const CHUNK: usize = 1 << 20;

/// Fills a new tensor on the CPU with the bytes of its elements, on all threads.
///
/// # Panics
/// If there are more or fewer.
pub(crate) fn fill(tensor: &Tensor, bytes: &[u8]) {
    assert!(tensor.is_contiguous() && tensor.device() == Device::Cpu);
    assert_eq!(tensor.numel() * tensor.kind().elt_size_in_bytes(), bytes.len());
    let to = Shared { begin: tensor.data_ptr().cast::<u8>(), len: bytes.len() };
    for_each(bytes.len().div_ceil(CHUNK), |index| {
        let chunk = &bytes[index * CHUNK..bytes.len().min((index + 1) * CHUNK)];
        // SAFETY: every chunk goes to a place of its own.
        unsafe { to.part(index * CHUNK, chunk.len()) }.copy_from_slice(chunk);
    });
}

/// The numbers of a contiguous f32 tensor on the CPU.
pub(crate) fn floats(tensor: &Tensor) -> &[f32] {
    debug_assert!(tensor.is_contiguous() && tensor.kind() == Kind::Float && tensor.device() == Device::Cpu);
    // SAFETY: a contiguous tensor of that kind has as many numbers there, and nothing writes to it meanwhile.
    unsafe { slice::from_raw_parts(tensor.data_ptr().cast(), tensor.numel()) }
}

/// A new tensor that several threads fill, each its own parts.
pub(crate) struct Shared<T> {
    begin: *mut T,
    len: usize,
}

// SAFETY: parts are handed out by `part` alone, whose callers see to it that no two overlap.
unsafe impl<T: Send> Sync for Shared<T> {}

impl Shared<f32> {
    /// Of a contiguous f32 tensor on the CPU.
    pub(crate) fn new(tensor: &Tensor) -> Self {
        debug_assert!(tensor.is_contiguous() && tensor.kind() == Kind::Float && tensor.device() == Device::Cpu);
        Self { begin: tensor.data_ptr().cast(), len: tensor.numel() }
    }
}

impl<T> Shared<T> {
    /// Of numbers that nothing else reads or writes meanwhile.
    pub(crate) fn of(numbers: &mut [T]) -> Self {
        Self { begin: numbers.as_mut_ptr(), len: numbers.len() }
    }

    /// # Safety
    /// No two parts that live at the same time may overlap, and the tensor has to live as long.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn part(&self, begin: usize, len: usize) -> &mut [T] {
        assert!(begin + len <= self.len);
        // SAFETY: within the tensor, as was just asked; the caller sees to the rest.
        unsafe { slice::from_raw_parts_mut(self.begin.add(begin), len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tensor_holds_the_bytes_it_was_filled_with() {
        for len in [0, 5, CHUNK / 4 - 1, CHUNK / 4, CHUNK + 3] {
            let numbers: Vec<i32> = (0..len as i32).collect();
            let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_ne_bytes()).collect();
            let tensor = Tensor::empty([len as i64], (Kind::Int, Device::Cpu));
            fill(&tensor, &bytes);
            assert_eq!(Vec::<i32>::try_from(&tensor).expect("a vector"), numbers);
        }
    }

    #[test]
    fn every_index_is_done_once() {
        for count in [0, 1, 2, 1000] {
            let done: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
            for_each(count, |index| {
                done[index].fetch_add(1, Ordering::Relaxed);
            });
            assert!(done.iter().all(|done| done.load(Ordering::Relaxed) == 1));
        }
    }
}
