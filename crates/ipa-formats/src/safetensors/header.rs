//! The header of a safetensors file: parsed, limited, checked.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::Read;
use std::ops::Range;
use std::path::Path;

use ::safetensors::SafeTensorError;
use ::safetensors::tensor::{Metadata, TensorInfo as StoredInfo};
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};

use super::Dtype;
use crate::{FormatError, HeaderError};

/// Bytes that hold the length of the header, at the start of the file.
pub(super) const LENGTH_BYTES: usize = 8;

/// The limit of the reference library.
const MAX_HEADER_BYTES: u64 = 100_000_000;
/// The largest published models have a few thousand tensors.
const MAX_TENSORS: usize = 65_536;
const MAX_NAME_BYTES: usize = 1_024;
const MAX_RANK: usize = 16;

/// Element type and sizes of one tensor.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TensorInfo {
    /// Element type.
    pub dtype: Dtype,
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
}

impl TensorInfo {
    /// Number of elements.
    pub fn num_elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Number of bytes of the data.
    pub fn num_bytes(&self) -> usize {
        self.num_elements() * self.dtype.size()
    }

    /// Half of its rows; `None` if it has no two halves.
    pub(crate) fn half(&self) -> Option<Self> {
        let (&rows, others) = self.shape.split_first()?;
        let shape = std::iter::once(rows / 2).chain(others.iter().copied()).collect();
        rows.is_multiple_of(2).then_some(Self { dtype: self.dtype, shape })
    }

    /// Bytes that the tensor takes, `None` if no memory could hold it. A size of 0 counts as 1 here,
    /// so that the strides of an empty tensor cannot overflow either.
    pub(crate) fn checked_bytes(&self) -> Option<usize> {
        let bound = self.shape.iter().try_fold(self.dtype.size(), |bytes, &size| bytes.checked_mul(size.max(1)))?;
        isize::try_from(bound).ok()?;
        Some(self.num_bytes())
    }
}

/// What a safetensors file says about itself.
#[derive(Clone, Debug)]
pub struct Header {
    /// Tensors by name.
    pub tensors: BTreeMap<String, TensorInfo>,
    /// Free text entries by key; empty if there are none.
    pub metadata: BTreeMap<String, String>,
    /// Length of the whole file in bytes.
    pub file_len: u64,
}

/// Reads and checks the header alone; the data is neither read nor mapped.
///
/// # Errors
/// [`FormatError::Read`], [`FormatError::NotAFile`], [`FormatError::PickledWeights`] and [`FormatError::Header`].
pub fn read_header(path: &Path) -> Result<Header, FormatError> {
    Ok(open_checked(path)?.1.header)
}

/// A header and where the data of each tensor lies in the file.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) header: Header,
    pub(super) ranges: BTreeMap<String, Range<usize>>,
}

pub(super) fn open_checked(path: &Path) -> Result<(File, Checked), FormatError> {
    let read_error = |source| FormatError::Read { path: path.to_owned(), source };
    let found = fs::metadata(path).map_err(read_error)?;
    if !found.is_file() {
        return Err(FormatError::NotAFile { path: path.to_owned() }); // opening a pipe would wait forever
    }
    let header_error = |source| FormatError::Header { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(read_error)?;
    let file_len = file.metadata().map_err(read_error)?.len();
    let mut length = [0; LENGTH_BYTES];
    if file_len < length.len() as u64 {
        return Err(header_error(HeaderError::TooShort { file_len }));
    }
    file.read_exact(&mut length).map_err(read_error)?;
    let length_error = |source| match is_pickle(length) {
        true => FormatError::PickledWeights { path: path.to_owned() },
        false => header_error(source),
    };
    let header_len = checked_length(u64::from_le_bytes(length), file_len).map_err(length_error)?;
    let mut text = vec![0; header_len];
    file.read_exact(&mut text).map_err(read_error)?;
    let checked = parse(&text, file_len).map_err(header_error)?;
    Ok((file, checked))
}

/// Whether a file that is no safetensors begins as torch saves one: an archive, or before version 1.6 a bare pickle.
fn is_pickle(start: [u8; LENGTH_BYTES]) -> bool {
    start.starts_with(b"PK\x03\x04") || start.starts_with(b"\x80\x02")
}

fn checked_length(header_len: u64, file_len: u64) -> Result<usize, HeaderError> {
    if header_len > MAX_HEADER_BYTES {
        return Err(HeaderError::TooLarge { header_len, limit: MAX_HEADER_BYTES });
    }
    if header_len > file_len - LENGTH_BYTES as u64 {
        return Err(HeaderError::BeyondFile { header_len, file_len });
    }
    Ok(header_len as usize)
}

fn parse(text: &[u8], file_len: u64) -> Result<Checked, HeaderError> {
    let Raw { tensors, metadata } = serde_json::from_str(std::str::from_utf8(text)?)?;
    let data_start = LENGTH_BYTES + text.len();
    let mut checked = BTreeMap::new();
    let mut ranges = BTreeMap::new();
    let mut stored = Vec::with_capacity(tensors.len());
    for (name, raw) in tensors {
        let info = raw.check(&name)?;
        let (begin, end) = raw.data_offsets;
        stored.push((
            name.clone(),
            StoredInfo { dtype: info.dtype.stored(), shape: info.shape.clone(), data_offsets: raw.data_offsets },
        ));
        ranges.insert(name.clone(), data_start.saturating_add(begin)..data_start.saturating_add(end));
        checked.insert(name, info);
    }
    stored.sort_by_key(|(_, info)| info.data_offsets);
    let layout = Metadata::new(None, stored).map_err(|fault| match fault {
        SafeTensorError::InvalidOffset(name) => HeaderError::Offsets { name },
        other => HeaderError::Inconsistent(other),
    })?;
    let expected = (data_start as u64).saturating_add(layout.data_len() as u64);
    if expected != file_len {
        return Err(HeaderError::Length { file_len, expected });
    }
    Ok(Checked { header: Header { tensors: checked, metadata, file_len }, ranges })
}

/// The header as it stands in the file, tensor names known to differ.
#[derive(Debug)]
struct Raw {
    tensors: BTreeMap<String, RawTensor>,
    metadata: BTreeMap<String, String>,
}

#[derive(Debug, serde::Deserialize)]
struct RawTensor {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (usize, usize),
}

impl RawTensor {
    fn check(&self, name: &str) -> Result<TensorInfo, HeaderError> {
        let dtype = Dtype::from_name(&self.dtype)
            .ok_or_else(|| HeaderError::Dtype { name: name.to_owned(), dtype: self.dtype.clone() })?;
        let info = TensorInfo { dtype, shape: self.shape.clone() };
        let needed = Some(&info)
            .filter(|info| info.shape.len() <= MAX_RANK)
            .and_then(TensorInfo::checked_bytes)
            .ok_or_else(|| HeaderError::Shape { name: name.to_owned(), shape: self.shape.clone() })?;
        let (begin, end) = self.data_offsets;
        if end.checked_sub(begin) != Some(needed) {
            return Err(HeaderError::Size { name: name.to_owned(), needed, begin, end });
        }
        Ok(info)
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(RawVisitor)
    }
}

/// A plain map would keep the last of two tensors of one name and hide the other.
struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors by name")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw, A::Error> {
        let mut tensors = BTreeMap::new();
        let mut metadata = None;
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                if metadata.replace(map.next_value::<Option<_>>()?).is_some() {
                    return Err(de::Error::duplicate_field("__metadata__"));
                }
                continue;
            }
            if name.len() > MAX_NAME_BYTES {
                return Err(de::Error::custom(format_args!("a tensor name of {} bytes", name.len())));
            }
            if tensors.len() == MAX_TENSORS {
                return Err(de::Error::custom(format_args!("more than {MAX_TENSORS} tensors")));
            }
            let tensor = map.next_value::<RawTensor>()?;
            if let Some(_earlier) = tensors.insert(name.clone(), tensor) {
                return Err(de::Error::custom(format_args!("tensor `{name}` appears twice")));
            }
        }
        Ok(Raw { tensors, metadata: metadata.flatten().unwrap_or_default() })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::SafetensorsFile;
    use super::*;

    /// Reads a file of a header with its right length and `data_len` bytes of data.
    fn read(header: &[u8], data_len: usize) -> Result<Header, FormatError> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header);
        bytes.resize(bytes.len() + data_len, 0);
        read_bytes(&bytes)
    }

    fn read_bytes(bytes: &[u8]) -> Result<Header, FormatError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hostile.safetensors");
        fs::write(&path, bytes).unwrap();
        let header = read_header(&path);
        assert_eq!(SafetensorsFile::open(&path).is_ok(), header.is_ok());
        header
    }

    fn fault(result: Result<Header, FormatError>) -> HeaderError {
        match result.unwrap_err() {
            error @ FormatError::Header { .. } => {
                assert!(error.to_string().contains("hostile.safetensors"), "{error}");
                let FormatError::Header { source, .. } = error else { unreachable!() };
                source
            }
            other => panic!("{other}"),
        }
    }

    fn tensor(name: &str, dtype: &str, shape: &str, begin: usize, end: usize) -> String {
        format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{begin},{end}]}}"#)
    }

    #[test]
    fn a_whole_header_is_read() {
        let text = format!(
            r#"{{"__metadata__":{{"format":"pt"}},{},{},{}}}  "#,
            tensor("b", "F32", "[2,3]", 4, 28),
            tensor("a", "BF16", "[2]", 0, 4),
            tensor("empty", "I64", "[0,5]", 28, 28),
        );
        let header = read(text.as_bytes(), 28).unwrap();
        assert!(header.tensors.keys().eq(["a", "b", "empty"]));
        assert_eq!(header.tensors["b"], TensorInfo { dtype: Dtype::F32, shape: vec![2, 3] });
        assert_eq!(header.metadata, BTreeMap::from([("format".to_owned(), "pt".to_owned())]));
        assert_eq!(header.file_len, (8 + text.len() + 28) as u64);
    }

    #[test]
    fn no_metadata_and_null_metadata_are_empty() {
        for text in ["{}", r#"{"__metadata__":null}"#] {
            assert!(read(text.as_bytes(), 0).unwrap().metadata.is_empty());
        }
    }

    #[test]
    fn files_shorter_than_a_header_are_refused() {
        assert!(matches!(fault(read_bytes(b"")), HeaderError::TooShort { file_len: 0 }));
        assert!(matches!(fault(read_bytes(b"1234567")), HeaderError::TooShort { file_len: 7 }));
        assert!(matches!(fault(read_bytes(&[0; 8])), HeaderError::Json(_)));
        let eight_bytes_only = 5u64.to_le_bytes();
        assert!(matches!(fault(read_bytes(&eight_bytes_only)), HeaderError::BeyondFile { header_len: 5, file_len: 8 }));
    }

    #[test]
    fn header_lengths_beyond_limit_or_file_are_refused() {
        assert!(matches!(fault(read_bytes(&[0xff; 64])), HeaderError::TooLarge { .. }));
        let mut bytes = MAX_HEADER_BYTES.to_le_bytes().to_vec();
        bytes.extend_from_slice(b"{}");
        assert!(matches!(fault(read_bytes(&bytes)), HeaderError::BeyondFile { .. }));
    }

    #[test]
    fn torch_pickles_are_told_from_damaged_files() {
        for start in [&b"PK\x03\x04\0\0\x08\x08archive/data.pkl"[..], b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P"] {
            assert!(matches!(read_bytes(start), Err(FormatError::PickledWeights { .. })));
        }
        // A header may well be 0x280 bytes long.
        let text = format!("{:640}", "{}");
        assert!(read(text.as_bytes(), 0).is_ok());
    }

    #[test]
    fn every_truncation_of_a_file_is_refused() {
        let text = format!("{{{}}}", tensor("a", "F32", "[2]", 0, 8));
        let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(text.as_bytes());
        bytes.extend_from_slice(&[0; 8]);
        assert!(read_bytes(&bytes).is_ok());
        for len in 0..bytes.len() {
            fault(read_bytes(&bytes[..len]));
        }
        bytes.push(0);
        assert!(matches!(fault(read_bytes(&bytes)), HeaderError::Length { .. }));
    }

    #[test]
    fn headers_that_are_not_the_expected_json_are_refused() {
        assert!(matches!(fault(read(b"{\"a\xff\":1}", 0)), HeaderError::NotUtf8(_)));
        let deep = "[".repeat(100_000);
        for text in
            ["", "[]", "null", "{", r#"{"a":1}"#, r#"{"a":{"dtype":"F32"}}"#, r#"{"__metadata__":{"a":1}}"#, &deep]
        {
            assert!(matches!(fault(read(text.as_bytes(), 0)), HeaderError::Json(_)), "{}", &text[..text.len().min(40)]);
        }
        let negative = r#"{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,0]}}"#;
        assert!(matches!(fault(read(negative.as_bytes(), 0)), HeaderError::Json(_)));
    }

    #[test]
    fn a_name_given_twice_is_refused() {
        let once = tensor("twin", "U8", "[1]", 0, 1);
        for again in [once.clone(), tensor("twin", "U8", "[1]", 1, 2)] {
            let HeaderError::Json(error) = fault(read(format!("{{{once},{again}}}").as_bytes(), 1)) else { panic!() };
            assert!(error.to_string().contains("`twin` appears twice"), "{error}");
        }
        let metadata = r#"{"__metadata__":{},"__metadata__":{}}"#;
        assert!(matches!(fault(read(metadata.as_bytes(), 0)), HeaderError::Json(_)));
    }

    #[test]
    fn overlaps_and_holes_are_refused_with_the_tensor() {
        for (begin, end) in [(2, 6), (6, 10), (3, 7)] {
            let text = format!("{{{},{}}}", tensor("a", "F32", "[1]", 0, 4), tensor("b", "F32", "[1]", begin, end));
            let error = fault(read(text.as_bytes(), end));
            assert!(matches!(&error, HeaderError::Offsets { name } if name == "b"), "{begin}: {error}");
        }
        let shared = format!("{{{},{}}}", tensor("a", "F32", "[1]", 0, 4), tensor("b", "F32", "[1]", 0, 4));
        assert!(matches!(fault(read(shared.as_bytes(), 4)), HeaderError::Offsets { .. }));
        let late = format!("{{{}}}", tensor("late", "U8", "[1]", 1, 2));
        assert!(matches!(fault(read(late.as_bytes(), 2)), HeaderError::Offsets { name } if name == "late"));
    }

    #[test]
    fn sizes_that_disagree_with_the_offsets_are_refused_with_the_tensor() {
        for (shape, begin, end) in [("[3]", 0, 8), ("[1]", 0, 8), ("[]", 0, 8), ("[2]", 8, 0), ("[0]", 0, 8)] {
            let text = format!("{{{}}}", tensor("odd", "F32", shape, begin, end));
            let error = fault(read(text.as_bytes(), 8));
            assert!(matches!(&error, HeaderError::Size { name, .. } if name == "odd"), "{shape}: {error}");
        }
        let text = format!("{{{}}}", tensor("end", "U8", "[1]", usize::MAX - 1, usize::MAX));
        fault(read(text.as_bytes(), 0));
    }

    #[test]
    fn shapes_that_no_memory_holds_are_refused() {
        let big = usize::MAX;
        let many = format!("{:?}", [1; MAX_RANK + 1]);
        for shape in
            [format!("[{big},2]"), format!("[{big}]"), format!("[0,{big}]"), "[4294967296,4294967296]".into(), many]
        {
            let text = format!("{{{}}}", tensor("huge", "F32", &shape, 0, 0));
            assert!(
                matches!(fault(read(text.as_bytes(), 0)), HeaderError::Shape { name, .. } if name == "huge"),
                "{shape}"
            );
        }
    }

    #[test]
    fn element_types_that_are_not_computed_with_are_refused_by_name() {
        for dtype in ["F8_E4M3", "F8_E5M2", "F4", "C64", "U64", "f32", ""] {
            let text = format!("{{{}}}", tensor("small", dtype, "[0]", 0, 0));
            let error = fault(read(text.as_bytes(), 0));
            assert!(matches!(&error, HeaderError::Dtype { name, .. } if name == "small"), "{error}");
            assert!(error.to_string().contains(dtype) && error.to_string().contains("convert"), "{error}");
        }
    }

    #[test]
    fn too_many_tensors_and_too_long_names_are_refused() {
        let names = (0..=MAX_TENSORS).map(|index| tensor(&index.to_string(), "U8", "[0]", 0, 0));
        let text = format!("{{{}}}", names.collect::<Vec<_>>().join(","));
        assert!(matches!(fault(read(text.as_bytes(), 0)), HeaderError::Json(_)));
        let text = format!("{{{}}}", tensor(&"n".repeat(MAX_NAME_BYTES + 1), "U8", "[0]", 0, 0));
        assert!(matches!(fault(read(text.as_bytes(), 0)), HeaderError::Json(_)));
    }

    #[test]
    fn folders_and_missing_files_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(read_header(folder.path()), Err(FormatError::NotAFile { .. })));
        assert!(matches!(read_header(&folder.path().join("nowhere")), Err(FormatError::Read { .. })));
    }

    /// No mutation of a small file may do anything but parse or return an error.
    #[test]
    fn every_flipped_byte_is_read_or_refused() {
        let text = format!("{{{},{}}}", tensor("a", "F32", "[2]", 0, 8), tensor("b", "F16", "[1,2]", 8, 12));
        let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(text.as_bytes());
        bytes.extend_from_slice(&[0; 12]);
        let file_len = bytes.len() as u64;
        for place in 8..8 + text.len() {
            for value in 0..=255 {
                let mut text = bytes[8..8 + text.len()].to_vec();
                text[place - 8] = value;
                if let Ok(checked) = parse(&text, file_len) {
                    assert!(checked.ranges.values().all(|range| range.end as u64 <= file_len));
                }
            }
        }
    }
}
