//! What lies in the bytes of a torch file.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use super::directory::Directory;
use super::error::TorchError;
use super::flatten::{Flat, PlainValue, flatten};
use super::machine::unpickle;
use super::place::Place;
use super::{stream, tar};
use crate::TensorInfo;

const ZIP_START: &[u8] = b"PK\x03\x04";
/// First byte of a pickle of protocol 2 or newer; the protocol follows.
const PICKLE_START: u8 = 0x80;

/// Tensors and plain values in the bytes of a torch file, and where they lie.
///
/// For bytes that are in memory already; [`TorchFile`](crate::TorchFile) is for files.
#[derive(Debug)]
pub struct TorchIndex {
    tensors: BTreeMap<String, TensorInfo>,
    places: BTreeMap<String, Place>,
    values: BTreeMap<String, PlainValue>,
}

impl TorchIndex {
    /// Finds tensors and values; the data is not looked at.
    ///
    /// Members of dictionaries, lists and tuples are named by their keys or numbers, joined by points.
    /// Members under other keys than texts, integers and classes are left out. A single tensor without a
    /// container is called `tensor`.
    ///
    /// # Errors
    /// The first thing that is not as torch writes it, or that would run code.
    pub fn new(bytes: &[u8]) -> Result<Self, TorchError> {
        let Flat { tensors, places, values } = match bytes {
            _ if bytes.starts_with(ZIP_START) => read_zip(bytes)?,
            _ if tar::is_tar(bytes) => tar::read(bytes)?,
            [PICKLE_START, ..] => stream::read(bytes)?,
            _ => return Err(TorchError::NotTorch),
        };
        Ok(Self { tensors, places, values })
    }

    /// Element types and shapes of the tensors by name.
    pub fn tensors(&self) -> &BTreeMap<String, TensorInfo> {
        &self.tensors
    }

    /// What is no tensor, by name: steps, settings, and classes of objects that are not looked into.
    pub fn values(&self) -> &BTreeMap<String, PlainValue> {
        &self.values
    }

    /// Little-endian bytes of a tensor, row-major, from the bytes that were indexed.
    ///
    /// Borrowed where the tensor lies so in the file, otherwise copied; never more bytes than its storage has.
    pub fn data<'a>(&self, name: &str, bytes: &'a [u8]) -> Option<Cow<'a, [u8]>> {
        self.places.get(name)?.data(bytes)
    }
}

/// Whether a file begins as torch saves one; some safetensors headers begin as a pickle does, but end otherwise.
pub(crate) fn is_torch(bytes: &[u8]) -> bool {
    let may_be_safetensors = bytes.get(8) == Some(&b'{');
    bytes.starts_with(ZIP_START)
        || (matches!(bytes, [PICKLE_START, 2..=5, ..]) && !may_be_safetensors)
        || (tar::is_tar(bytes) && !may_be_safetensors)
}

fn read_zip(bytes: &[u8]) -> Result<Flat, TorchError> {
    let directory = Directory::read(bytes)?;
    if directory.entry("constants.pkl").is_some() {
        return Err(TorchError::Script);
    }
    if let Some(order) = directory.entry("byteorder") {
        match &bytes[order] {
            b"little" => {}
            b"big" => return Err(TorchError::BigEndian),
            _ => {
                return Err(TorchError::Archive {
                    entry: "byteorder".to_owned(),
                    problem: "is neither `little` nor `big`",
                });
            }
        }
    }
    let missing = TorchError::Archive {
        entry: "data.pkl".to_owned(),
        problem: "is missing, so torch did not write this archive",
    };
    let pickle = directory.entry("data.pkl").ok_or(missing)?;
    flatten(&unpickle(&bytes[..pickle.end], pickle.start)?, &directory.folder("data/"), &HashMap::new())
}
