//! Writing safetensors: equal contents give equal bytes.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use super::header::LENGTH_BYTES;
use super::{Dtype, TensorInfo};
use crate::{FormatError, write_atomically};

/// Blocks that may be made and not yet written.
const BLOCKS_AHEAD: usize = 4;

/// Metadata key under which this project stores one JSON value.
pub const METADATA_KEY: &str = "ipa";

/// One tensor to be written.
#[derive(Clone, Debug)]
pub struct TensorBytes<'a> {
    /// Name in the file.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// Little-endian elements, row-major.
    pub data: Cow<'a, [u8]>,
}

/// One tensor that is made when its turn to be written comes.
pub(crate) struct LazyTensor<'a> {
    pub(crate) name: String,
    pub(crate) info: TensorInfo,
    /// Hands over little-endian elements, row-major, in blocks, until it is told `false`.
    pub(crate) pour: Box<Pour<'a>>,
}

type Pour<'a> = dyn FnOnce(&mut dyn FnMut(Cow<'a, [u8]>) -> bool) -> Result<(), FormatError> + Send + 'a;

/// Writes tensors and one JSON value of metadata, whole or not at all.
///
/// Tensors are ordered by element size, then name, so that each is aligned to its elements. The
/// metadata stands under the key `ipa` as JSON text with sorted keys; `"format": "pt"` is always
/// beside it because accelerate and older transformers want it.
///
/// # Errors
/// [`FormatError::Tensor`] if two tensors share a name or data and shape disagree, otherwise as
/// [`write_atomically`].
pub fn write_safetensors(
    path: &Path,
    tensors: Vec<TensorBytes>,
    metadata: Option<&serde_json::Value>,
) -> Result<(), FormatError> {
    let lazy = |TensorBytes { name, dtype, shape, data }| LazyTensor {
        name,
        info: TensorInfo { dtype, shape },
        pour: Box::new(move |sink| {
            sink(data);
            Ok(())
        }),
    };
    write_lazily(path, tensors.into_iter().map(lazy).collect(), &texts(metadata))
}

/// The entries of a header's metadata for one JSON value.
pub(crate) fn texts(metadata: Option<&serde_json::Value>) -> BTreeMap<String, String> {
    metadata.iter().map(|value| (METADATA_KEY.to_owned(), value.to_string())).collect()
}

/// As [`write_safetensors`], making one tensor after the other while those before are written, with any entries of
/// metadata.
pub(crate) fn write_lazily(
    path: &Path,
    mut tensors: Vec<LazyTensor>,
    metadata: &BTreeMap<String, String>,
) -> Result<(), FormatError> {
    let key = |tensor: &LazyTensor| (Reverse(tensor.info.dtype.size()), tensor.name.clone());
    tensors.sort_by_cached_key(key);
    let header = header_text(path, &tensors, metadata)?;
    let mut refused = None;
    let written = write_atomically(path, |out| {
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(&header)?;
        thread::scope(|scope| {
            let (send, receive) = sync_channel(BLOCKS_AHEAD);
            thread::Builder::new().spawn_scoped(scope, move || make(path, tensors, &send))?;
            for block in receive {
                match block {
                    Ok(block) => out.write_all(&block)?,
                    Err(error) => {
                        refused = Some(error);
                        return Err(io::ErrorKind::InvalidData.into());
                    }
                }
            }
            Ok(())
        })
    });
    refused.map_or(written, Err)
}

type Block<'a> = Result<Cow<'a, [u8]>, FormatError>;

/// Makes tensors in their order until one fails or nobody takes them any more.
fn make<'a>(path: &Path, tensors: Vec<LazyTensor<'a>>, send: &SyncSender<Block<'a>>) {
    for LazyTensor { name, info, pour } in tensors {
        let mut len = 0;
        let poured = pour(&mut |block| {
            len += block.len();
            len <= info.num_bytes() && send.send(Ok(block)).is_ok()
        });
        let whole = poured.and_then(|()| match len == info.num_bytes() {
            true => Ok(()),
            false => Err(fault(path, &name, "has data of another length than its shape asks for")),
        });
        if let Err(error) = whole {
            // Without a receiver the writer has failed already, and says so.
            let _ = send.send(Err(error));
            return;
        }
    }
}

fn fault(path: &Path, name: &str, problem: &'static str) -> FormatError {
    FormatError::Tensor { path: path.to_owned(), name: name.to_owned(), problem }
}

/// The header, padded so that the data is aligned, of tensors in the order in which they will be written.
fn header_text(
    path: &Path,
    tensors: &[LazyTensor],
    metadata: &BTreeMap<String, String>,
) -> Result<Vec<u8>, FormatError> {
    let mut header = HeaderOut { metadata, tensors: Vec::with_capacity(tensors.len()) };
    let (mut names, mut begin) = (BTreeSet::new(), 0_usize);
    for LazyTensor { name, info, .. } in tensors {
        if !names.insert(name) {
            return Err(fault(path, name, "is given twice"));
        }
        if name == "__metadata__" {
            return Err(fault(path, name, "has a name that the format reserves"));
        }
        let end = info.checked_bytes().and_then(|bytes| begin.checked_add(bytes));
        let end = end.ok_or_else(|| fault(path, name, "is too large for any file"))?;
        header
            .tensors
            .push((name, TensorOut { dtype: info.dtype.name(), shape: &info.shape, data_offsets: (begin, end) }));
        begin = end;
    }
    let text = serde_json::to_vec(&header).map_err(io::Error::from);
    let mut text = text.map_err(|source| FormatError::Write { path: path.to_owned(), source })?;
    text.resize(text.len().next_multiple_of(LENGTH_BYTES), b' ');
    Ok(text)
}

struct HeaderOut<'a> {
    metadata: &'a BTreeMap<String, String>,
    tensors: Vec<(&'a str, TensorOut<'a>)>,
}

#[derive(Serialize)]
struct TensorOut<'a> {
    dtype: &'static str,
    shape: &'a [usize],
    data_offsets: (usize, usize),
}

impl Serialize for HeaderOut<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let given = self.metadata.iter().map(|(key, text)| (key.as_str(), text.as_str()));
        let metadata: BTreeMap<&str, &str> = given.chain([("format", "pt")]).collect();
        let mut map = serializer.serialize_map(Some(self.tensors.len() + 1))?;
        map.serialize_entry("__metadata__", &metadata)?;
        self.tensors.iter().try_for_each(|(name, entry)| map.serialize_entry(name, entry))?;
        map.end()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::super::SafetensorsFile;
    use super::*;

    fn tensor(name: &str, dtype: Dtype, shape: &[usize]) -> TensorBytes<'static> {
        let len = dtype.size() * shape.iter().product::<usize>();
        let data: Vec<u8> = (0..len).map(|index| index as u8).collect();
        TensorBytes { name: name.to_owned(), dtype, shape: shape.to_vec(), data: data.into() }
    }

    fn several() -> Vec<TensorBytes<'static>> {
        vec![
            tensor("odd", Dtype::U8, &[3]),
            tensor("halves", Dtype::F16, &[5]),
            tensor("scalar", Dtype::F32, &[]),
            tensor("empty", Dtype::F32, &[0, 4]),
            tensor("long", Dtype::I64, &[2, 1]),
            tensor("brain \" é", Dtype::BF16, &[2, 3]),
            tensor("flags", Dtype::Bool, &[1]),
        ]
    }

    #[test]
    fn what_was_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("several.safetensors");
        write_safetensors(&path, several(), Some(&json!({"step": 3, "a": [1.5]}))).unwrap();
        let file = SafetensorsFile::open(&path).unwrap();
        assert_eq!(file.path(), path);
        assert!(file.names().is_sorted() && file.names().count() == several().len());
        for TensorBytes { name, dtype, shape, data } in several() {
            assert_eq!(file.info(&name), Some(TensorInfo { dtype, shape }), "{name}");
            assert_eq!(file.data(&name), Some(&data[..]), "{name}");
        }
        assert_eq!((file.info("other"), file.data("other")), (None, None));
        assert_eq!(file.metadata()["ipa"], r#"{"a":[1.5],"step":3}"#);
        assert_eq!(file.metadata()["format"], "pt");
    }

    #[test]
    fn the_reference_library_reads_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("several.safetensors");
        write_safetensors(&path, several(), None).unwrap();
        let bytes = fs::read(&path).unwrap();
        let read = ::safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(read.len(), several().len());
        for TensorBytes { name, dtype, shape, data } in several() {
            let view = read.tensor(&name).unwrap();
            assert_eq!((view.dtype(), view.shape(), view.data()), (dtype.stored(), &shape[..], &data[..]), "{name}");
        }
    }

    #[test]
    fn equal_contents_give_equal_bytes_in_any_order() {
        let folder = tempfile::tempdir().unwrap();
        let written = |tensors, metadata: serde_json::Value| {
            let path = folder.path().join("again.safetensors");
            write_safetensors(&path, tensors, Some(&metadata)).unwrap();
            fs::read(path).unwrap()
        };
        let forwards = written(several(), json!({"a": {"x": 1, "y": 2}, "b": 2}));
        let backwards = written(several().into_iter().rev().collect(), json!({"b": 2, "a": {"y": 2, "x": 1}}));
        assert_eq!(forwards, backwards);
    }

    #[test]
    fn data_is_aligned_to_its_elements() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("aligned.safetensors");
        write_safetensors(&path, several(), None).unwrap();
        let file = SafetensorsFile::open(&path).unwrap(); // a map begins at a page
        for TensorBytes { name, dtype, .. } in several() {
            assert!((file.data(&name).unwrap().as_ptr() as usize).is_multiple_of(dtype.size()), "{name}");
        }
    }

    #[test]
    fn contradictions_are_refused_and_nothing_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("none.safetensors");
        let mut short = tensor("short", Dtype::F32, &[2]);
        short.data.to_mut().pop();
        let twice = vec![tensor("twice", Dtype::F32, &[1]), tensor("twice", Dtype::F16, &[1])];
        let reserved = vec![tensor("__metadata__", Dtype::U8, &[1])];
        for (tensors, name) in [(vec![short], "short"), (twice, "twice"), (reserved, "__metadata__")] {
            let error = write_safetensors(&path, tensors, None).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("none.safetensors"), "{error}");
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    /// A full disk ends the thread that makes tensors, at once and without an answer.
    #[test]
    fn nothing_is_made_that_nobody_takes() {
        let made = std::sync::atomic::AtomicUsize::new(0);
        let block = |_| made.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let lazy = |name: &str| LazyTensor {
            name: name.to_owned(),
            info: TensorInfo { dtype: Dtype::U8, shape: vec![1000] },
            pour: Box::new(|sink| {
                (0..1000).take_while(|index| block(*index) < 1000 && sink(vec![7].into())).for_each(drop);
                Ok(())
            }),
        };
        let tensors = vec![lazy("a"), lazy("b")];
        thread::scope(|scope| {
            let (send, receive) = sync_channel(BLOCKS_AHEAD);
            scope.spawn(move || make(Path::new("full"), tensors, &send));
            assert_eq!(*receive.recv().unwrap().unwrap(), [7]);
        });
        assert!(made.into_inner() <= BLOCKS_AHEAD + 3);
    }

    #[test]
    fn a_mapped_file_survives_its_replacement() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("replaced.safetensors");
        write_safetensors(&path, vec![tensor("old", Dtype::U8, &[4])], None).unwrap();
        let old = SafetensorsFile::open(&path).unwrap();
        write_safetensors(&path, vec![tensor("new", Dtype::U8, &[1])], None).unwrap();
        assert_eq!(old.data("old"), Some(&[0, 1, 2, 3][..]));
    }
}
