//! A file of named tensors, of whichever kind.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use crate::mapped::map_file;
use crate::pickle::is_torch;
use crate::{FormatError, PlainValue, SafetensorsFile, TensorInfo, TorchFile};

/// A memory-mapped file of named tensors: safetensors, or what `torch.save` wrote.
///
/// ```
/// use ipa_formats::{Dtype, TensorBytes, TensorFile, write_safetensors};
///
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("weights.bin"); // names do not matter
/// let bias = TensorBytes { name: "bias".into(), dtype: Dtype::U8, shape: vec![2], data: vec![3, 4].into() };
/// write_safetensors(&path, vec![bias], None)?;
///
/// let file = TensorFile::open(&path)?;
/// assert_eq!(file.tensors()["bias"].shape, [2]);
/// assert_eq!(file.data("bias").as_deref(), Some(&[3, 4][..]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub enum TensorFile {
    /// A safetensors file, which may carry metadata.
    Safetensors(SafetensorsFile),
    /// A torch file, which may carry plain values.
    Torch(TorchFile),
}

impl TensorFile {
    /// Maps a file and tells its kind by its first bytes; the file's name does not matter.
    ///
    /// # Errors
    /// [`FormatError::Read`], [`FormatError::NotAFile`] and [`FormatError::NotWeights`]; [`FormatError::Torch`] if it
    /// begins as torch begins one of its files, otherwise [`FormatError::Header`].
    pub fn open(path: &Path) -> Result<Self, FormatError> {
        let mapped = map_file(path)?;
        // A header of safetensors is JSON after eight bytes; a file that ends before that is told as one cut short.
        let may_be_safetensors = mapped.get(8).is_none_or(|byte| *byte == b'{');
        match is_torch(&mapped) {
            true => TorchFile::from_map(path, mapped).map(Self::Torch),
            false if !may_be_safetensors => Err(FormatError::NotWeights { path: path.to_owned() }),
            false => SafetensorsFile::open(path).map(Self::Safetensors),
        }
    }

    /// Path the file was opened by.
    pub fn path(&self) -> &Path {
        match self {
            Self::Safetensors(file) => file.path(),
            Self::Torch(file) => file.path(),
        }
    }

    /// Element types and shapes of the tensors by name.
    pub fn tensors(&self) -> &BTreeMap<String, TensorInfo> {
        match self {
            Self::Safetensors(file) => &file.header().tensors,
            Self::Torch(file) => file.tensors(),
        }
    }

    /// Names of the tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors().keys().map(String::as_str)
    }

    /// Element type and shape of a tensor.
    pub fn info(&self, name: &str) -> Option<TensorInfo> {
        self.tensors().get(name).cloned()
    }

    /// Little-endian bytes of a tensor, row-major: borrowed from the file where they lie so, otherwise copied.
    pub fn data(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        match self {
            Self::Safetensors(file) => file.data(name).map(Cow::Borrowed),
            Self::Torch(file) => file.data(name),
        }
    }

    /// Lets the system take back the memory that holds what was read of the file; it is read again when touched.
    pub(crate) fn release(&self) {
        match self {
            Self::Safetensors(file) => file.release(),
            Self::Torch(file) => file.release(),
        }
    }

    /// Free text entries of a safetensors header; empty if there are none.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        static NONE: BTreeMap<String, String> = BTreeMap::new();
        match self {
            Self::Safetensors(file) => file.metadata(),
            Self::Torch(_) => &NONE,
        }
    }

    /// What a torch file holds besides tensors, by name; empty for safetensors.
    pub(crate) fn values(&self) -> &BTreeMap<String, PlainValue> {
        static NONE: BTreeMap<String, PlainValue> = BTreeMap::new();
        match self {
            Self::Safetensors(_) => &NONE,
            Self::Torch(file) => file.values(),
        }
    }

    /// The number of training steps that `.ckpt` files store beside their tensors.
    pub fn global_step(&self) -> Option<u64> {
        match self {
            Self::Torch(file) => match file.values().get("global_step") {
                Some(PlainValue::Int(steps)) => u64::try_from(*steps).ok(),
                _ => None,
            },
            Self::Safetensors(_) => None,
        }
    }

    /// Length of the whole file in bytes.
    pub fn file_len(&self) -> u64 {
        match self {
            Self::Safetensors(file) => file.header().file_len,
            Self::Torch(file) => file.file_len(),
        }
    }
}
