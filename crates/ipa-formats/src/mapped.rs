//! Files mapped into memory.

use std::fs::{self, File};
use std::path::Path;

use memmap2::Mmap;

use crate::FormatError;

/// Maps a regular file, read-only.
pub(crate) fn map_file(path: &Path) -> Result<Mmap, FormatError> {
    let read_error = |source| FormatError::Read { path: path.to_owned(), source };
    if !fs::metadata(path).map_err(read_error)?.is_file() {
        return Err(FormatError::NotAFile { path: path.to_owned() }); // opening a pipe would wait forever
    }
    let file = File::open(path).map_err(read_error)?;
    // SAFETY: the map is read-only and never handed out as anything but bytes; a program that cuts
    // the file short in place meanwhile ends this one, as for every memory map.
    unsafe { Mmap::map(&file) }.map_err(read_error)
}

/// Lets the system take back the memory that holds what was read; it is read again from the file when touched.
pub(crate) fn release(mapped: &Mmap) {
    // SAFETY: a map of a file that nothing writes to through it holds the same bytes when it is read again. A
    // refusal costs memory and nothing else.
    #[cfg(unix)]
    let _ = unsafe { mapped.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
    #[cfg(not(unix))]
    let _ = mapped;
}
