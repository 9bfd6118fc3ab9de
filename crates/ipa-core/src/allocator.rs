//! An allocator that reaches libtorch's own allocations, and keeps them.
//!
//! Every operation of a model asks for its result's memory and gives it back soon after. The system's allocator maps and
//! unmaps large blocks each time, and the kernel clears every page anew: a fifth of a full-size UNet's call on a CPU.
//!
//! ```
//! use ipa_core::allocator::{Allocator, keep_memory};
//!
//! #[global_allocator]
//! static ALLOCATOR: Allocator = Allocator;
//!
//! fn main() {
//!     keep_memory();
//! }
//! ```

use libmimalloc_sys::{mi_option_set_default, mi_option_t};

pub use mimalloc::MiMalloc as Allocator;

/// `mi_option_purge_delay` of mimalloc's header, in milliseconds; the bindings leave it out.
const PURGE_DELAY: mi_option_t = 15;
/// No purging at all.
const NEVER: std::ffi::c_long = -1;

/// Keeps freed memory for what comes next, rather than giving it back to the system after 10 ms.
///
/// For programs that compute and end; `MIMALLOC_PURGE_DELAY` in the environment goes first.
pub fn keep_memory() {
    // SAFETY: an option of that number exists, and any number of milliseconds is one.
    unsafe { mi_option_set_default(PURGE_DELAY, NEVER) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_option_is_the_one_before_the_next() {
        assert_eq!(PURGE_DELAY, libmimalloc_sys::mi_option_use_numa_nodes - 1);
        keep_memory();
        // SAFETY: as above.
        let delay = unsafe { libmimalloc_sys::mi_option_get(PURGE_DELAY) };
        assert!(delay == NEVER || std::env::var_os("MIMALLOC_PURGE_DELAY").is_some());
    }
}
