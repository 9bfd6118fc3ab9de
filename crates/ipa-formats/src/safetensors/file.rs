//! A safetensors file, mapped into memory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use super::header::{Checked, open_checked};
use super::{Header, TensorInfo};
use crate::FormatError;
use crate::mapped::release;

/// A memory-mapped safetensors file with a checked header.
///
/// Data is read from the disk when it is touched. Replacing the file by renaming another over it
/// leaves this one intact; cutting it short in place while it is mapped ends the program, as for
/// every memory map.
#[derive(Debug)]
pub struct SafetensorsFile {
    path: PathBuf,
    checked: Checked,
    mapped: Mmap,
}

impl SafetensorsFile {
    /// Maps a file after checking its header.
    ///
    /// # Errors
    /// [`FormatError::Read`], [`FormatError::NotAFile`], [`FormatError::PickledWeights`] and [`FormatError::Header`].
    pub fn open(path: &Path) -> Result<Self, FormatError> {
        let (file, checked) = open_checked(path)?;
        // SAFETY: the map is read-only and never handed out as anything but bytes; see above for
        // what a program that shrinks the file meanwhile does to every memory map.
        let mapped =
            unsafe { Mmap::map(&file) }.map_err(|source| FormatError::Read { path: path.to_owned(), source })?;
        Ok(Self { path: path.to_owned(), checked, mapped })
    }

    /// Path the file was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the file says about itself: tensors, free text entries, length.
    pub fn header(&self) -> &Header {
        &self.checked.header
    }

    /// Names of the tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.checked.header.tensors.keys().map(String::as_str)
    }

    /// Element type and shape of a tensor.
    pub fn info(&self, name: &str) -> Option<TensorInfo> {
        self.checked.header.tensors.get(name).cloned()
    }

    /// Little-endian bytes of a tensor, row-major.
    pub fn data(&self, name: &str) -> Option<&[u8]> {
        self.mapped.get(self.checked.ranges.get(name)?.clone())
    }

    pub(crate) fn release(&self) {
        release(&self.mapped);
    }

    /// Free text entries of the header; empty if there are none.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.checked.header.metadata
    }
}
