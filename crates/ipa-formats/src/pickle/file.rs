//! A torch file, mapped into memory.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use super::{PlainValue, TorchIndex};
use crate::mapped::{map_file, release};
use crate::{FormatError, TensorInfo};

/// A memory-mapped file that `torch.save` wrote, whose pickle has been read without running anything.
///
/// Data is read from the disk when it is touched. Replacing the file by renaming another over it
/// leaves this one intact; cutting it short in place while it is mapped ends the program, as for
/// every memory map.
///
/// ```no_run
/// use ipa_formats::TorchFile;
///
/// let file = TorchFile::open("v1-5-pruned-emaonly.ckpt".as_ref())?;
/// println!("{:?}", file.values().get("global_step"));
/// for (name, info) in file.tensors() {
///     println!("{name} {:?}, {} bytes", info.shape, file.data(name).map_or(0, |data| data.len()));
/// }
/// # Ok::<(), ipa_formats::FormatError>(())
/// ```
#[derive(Debug)]
pub struct TorchFile {
    path: PathBuf,
    index: TorchIndex,
    mapped: Mmap,
}

impl TorchFile {
    /// Maps a file after reading its pickle; see [`TorchIndex::new`] for how tensors are named.
    ///
    /// # Errors
    /// [`FormatError::Read`], [`FormatError::NotAFile`] and [`FormatError::Torch`].
    pub fn open(path: &Path) -> Result<Self, FormatError> {
        Self::from_map(path, map_file(path)?)
    }

    pub(crate) fn from_map(path: &Path, mapped: Mmap) -> Result<Self, FormatError> {
        let index = TorchIndex::new(&mapped)
            .map_err(|source| FormatError::Torch { path: path.to_owned(), source: Box::new(source) })?;
        Ok(Self { path: path.to_owned(), index, mapped })
    }

    /// Path the file was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Element types and shapes of the tensors by name.
    pub fn tensors(&self) -> &BTreeMap<String, TensorInfo> {
        self.index.tensors()
    }

    /// What is no tensor, by name: steps, settings, and classes of objects that are not looked into.
    pub fn values(&self) -> &BTreeMap<String, PlainValue> {
        self.index.values()
    }

    /// Little-endian bytes of a tensor, row-major: borrowed where it lies so in the file, otherwise copied.
    pub fn data(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        self.index.data(name, &self.mapped)
    }

    pub(crate) fn release(&self) {
        release(&self.mapped);
    }

    /// Length of the whole file in bytes.
    pub fn file_len(&self) -> u64 {
        self.mapped.len() as u64
    }
}
