//! Face embeddings from files: a few rows of numbers, as numpy, torch or safetensors store them.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use npyz::{Deserialize, NpyFile, Order};

use crate::floats::floats;
use crate::{FormatError, Weights};

/// More faces than one picture is made from.
const MAX_ROWS: usize = 64;
/// Face embeddings have 512 numbers.
const MAX_WIDTH: usize = 4096;
/// Numpy's headers for arrays of plain numbers take 118 bytes.
const MAX_HEADER_BYTES: usize = 512;
const MAGIC: &[u8] = b"\x93NUMPY";
/// The tensor that is meant where there are several.
const NAME: &str = "face_embeds";

/// Rows of numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Vectors {
    /// How many there are.
    pub rows: usize,
    /// Numbers in each.
    pub width: usize,
    /// All numbers, row by row.
    pub data: Vec<f32>,
}

/// Reads face embeddings: `.npy`, or a safetensors or torch file with one tensor or one called `face_embeds`.
///
/// Shapes are `[width]`, `[rows, width]`, `[rows, 1, width]` and `[1, rows, width]`, at most 64 rows of at most 4096;
/// elements are floating-point numbers of any size and byte order.
///
/// # Errors
/// [`FormatError::Read`]; as [`Weights::open`]; [`FormatError::Vectors`] for anything but such numbers, all finite.
pub fn read_vectors(path: &Path) -> Result<Vectors, FormatError> {
    let start = read_start(path)?;
    let found = match start.starts_with(MAGIC) {
        true => from_npy(&start),
        false => match Weights::open(path) {
            Ok(weights) => from_weights(&weights),
            Err(FormatError::Read { path, source }) => return Err(FormatError::Read { path, source }),
            Err(_) => Err("it is neither .npy nor safetensors nor a torch file, or is damaged".to_owned()),
        },
    };
    found.and_then(finite).map_err(|problem| FormatError::Vectors { path: path.to_owned(), problem })
}

/// As many bytes as the largest accepted array takes.
fn read_start(path: &Path) -> Result<Vec<u8>, FormatError> {
    let fault = |source| FormatError::Read { path: path.to_owned(), source };
    let limit = MAX_HEADER_BYTES + MAX_ROWS * MAX_WIDTH * size_of::<f64>();
    if !path.metadata().map_err(fault)?.is_file() {
        return Err(FormatError::NotAFile { path: path.to_owned() });
    }
    let mut start = Vec::new();
    File::open(path).map_err(fault)?.take(limit as u64).read_to_end(&mut start).map_err(fault)?;
    Ok(start)
}

fn from_weights(weights: &Weights) -> Result<Vectors, String> {
    let names: Vec<&str> = weights.names().collect();
    let name = match names[..] {
        [only] => only,
        _ if names.contains(&NAME) => NAME,
        _ => return Err(format!("it holds {} tensors, none of which is called `{NAME}`", names.len())),
    };
    let info = weights.info(name).ok_or("its tensor cannot be read")?;
    let (rows, width) = sizes(info.shape.iter().map(|&size| size as u64))?;
    let bytes = weights.data(name).ok_or("its tensor cannot be read")?;
    let data = floats(info.dtype, &bytes).ok_or_else(|| format!("its numbers are {}", info.dtype))?;
    Ok(Vectors { rows, width, data: data.into_iter().map(|number| number as f32).collect() })
}

fn from_npy(bytes: &[u8]) -> Result<Vectors, String> {
    if !has_plain_header(bytes) {
        return Err("its header is not that of an array of plain numbers".to_owned());
    }
    let file = NpyFile::new(bytes).map_err(|error| error.to_string())?;
    let (rows, width) = sizes(file.shape().iter().copied())?;
    let by_columns = file.order() == Order::Fortran;
    let dtype = file.dtype().descr();
    let data = match dtype.trim_matches(['\'', '<', '>', '=']) {
        "f2" => numbers::<half::f16>(file, half::f16::to_f32),
        "f4" => numbers::<f32>(file, |number| number),
        "f8" => numbers::<f64>(file, |number| number as f32),
        _ => Err(format!("its numbers are {dtype}")),
    }?;
    let place = |index: usize| if by_columns { index % width * rows + index / width } else { index };
    Ok(Vectors { rows, width, data: (0..data.len()).map(|index| data[place(index)]).collect() })
}

/// The library multiplies sizes without checking and reads brackets within brackets without limit, so a header with
/// more digits or brackets than one of numpy's for plain numbers does not reach it.
fn has_plain_header(bytes: &[u8]) -> bool {
    let length = match bytes.get(6..12) {
        Some(&[1, _, low, high, ..]) => Some((10, usize::from(u16::from_le_bytes([low, high])))),
        Some(&[2 | 3, _, ..]) => bytes.get(8..12).and_then(|length| length.try_into().ok()).map(|length| {
            let length = u32::from_le_bytes(length);
            (12, length as usize)
        }),
        _ => None,
    };
    let header = length.filter(|(_, length)| *length <= MAX_HEADER_BYTES);
    let Some(header) = header.and_then(|(start, length)| bytes.get(start..start + length)) else { return false };
    let count = |wanted: fn(&u8) -> bool| header.iter().filter(|byte| wanted(byte)).count();
    count(|byte| byte.is_ascii_digit()) <= 18
        && count(|byte| b"([{".contains(byte)) <= 2
        && count(|byte| b"xX\\".contains(byte)) == 0
}

fn numbers<T: Deserialize>(file: NpyFile<&[u8]>, number: impl Fn(T) -> f32) -> Result<Vec<f32>, String> {
    let numbers: Vec<T> = file.into_vec().map_err(|_| "it is cut short: write it again".to_owned())?;
    Ok(numbers.into_iter().map(number).collect())
}

fn sizes(shape: impl Iterator<Item = u64>) -> Result<(usize, usize), String> {
    let shape: Vec<u64> = shape.collect();
    let (rows, width) = match shape[..] {
        [width] => (1, width),
        [rows, width] | [rows, 1, width] | [1, rows, width] => (rows, width),
        _ => return Err(format!("its shape is {shape:?}")),
    };
    match (1..=MAX_ROWS as u64).contains(&rows) && (1..=MAX_WIDTH as u64).contains(&width) {
        true => Ok((rows as usize, width as usize)),
        false => Err(format!("its shape is {shape:?}")),
    }
}

fn finite(vectors: Vectors) -> Result<Vectors, String> {
    match vectors.data.iter().position(|number| !number.is_finite()) {
        Some(index) => {
            let (row, column) = (index / vectors.width, index % vectors.width);
            Err(format!("number {column} of row {row}, counted from 0, is not finite"))
        }
        None => Ok(vectors),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::error::Error;

    use super::*;
    use crate::{Dtype, TensorBytes, write_safetensors};

    fn npy(header: &str, data: &[u8]) -> Vec<u8> {
        let header = format!("{header:117}\n");
        [MAGIC, &[1, 0], &(header.len() as u16).to_le_bytes(), header.as_bytes(), data].concat()
    }

    fn described(descr: &str, fortran: bool, shape: &str) -> String {
        let order = if fortran { "True" } else { "False" };
        format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}")
    }

    fn read(bytes: &[u8]) -> Result<Vectors, FormatError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("face.npy");
        std::fs::write(&path, bytes).unwrap();
        read_vectors(&path)
    }

    fn vectors(rows: usize, width: usize) -> Vectors {
        Vectors { rows, width, data: (0..rows * width).map(|number| number as f32).collect() }
    }

    fn data<const SIZE: usize>(of: fn(f32) -> [u8; SIZE]) -> Vec<u8> {
        (0..6).flat_map(|number| of(number as f32)).collect()
    }

    #[test]
    fn numpy_arrays_of_every_size_and_byte_order_are_read() {
        for (descr, bytes) in [
            ("<f4", data(f32::to_le_bytes)),
            (">f4", data(f32::to_be_bytes)),
            ("<f8", data(|number| f64::from(number).to_le_bytes())),
            (">f8", data(|number| f64::from(number).to_be_bytes())),
            ("<f2", data(|number| half::f16::from_f32(number).to_le_bytes())),
            (">f2", data(|number| half::f16::from_f32(number).to_be_bytes())),
        ] {
            for (shape, rows) in [("(6,)", 1), ("(2, 3)", 2), ("(2, 1, 3)", 2), ("(1, 2, 3)", 2)] {
                let found = read(&npy(&described(descr, false, shape), &bytes)).unwrap();
                assert_eq!(found, vectors(rows, 6 / rows), "{descr} {shape}");
            }
        }
        let by_columns = read(&npy(&described("<f4", true, "(2, 3)"), &data(f32::to_le_bytes))).unwrap();
        assert_eq!(by_columns.data, [0., 2., 4., 1., 3., 5.]);
    }

    #[test]
    fn tensors_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("face.safetensors");
        let tensor = |name: &str, dtype, data: Vec<u8>| TensorBytes {
            name: name.to_owned(),
            dtype,
            shape: vec![2, 1, 3],
            data: data.into(),
        };
        for (dtype, bytes) in [
            (Dtype::F32, data(f32::to_le_bytes)),
            (Dtype::F64, data(|number| f64::from(number).to_le_bytes())),
            (Dtype::F16, data(|number| half::f16::from_f32(number).to_le_bytes())),
            (Dtype::BF16, data(|number| half::bf16::from_f32(number).to_le_bytes())),
        ] {
            write_safetensors(&path, vec![tensor("any", dtype, bytes.clone())], None).unwrap();
            assert_eq!(read_vectors(&path).unwrap(), vectors(2, 3), "{dtype}");
            let several = vec![tensor("any", dtype, vec![0; bytes.len()]), tensor(NAME, dtype, bytes.clone())];
            write_safetensors(&path, several, None).unwrap();
            assert_eq!(read_vectors(&path).unwrap(), vectors(2, 3), "{dtype}");
        }
        let others = ["a", "b"].map(|name| tensor(name, Dtype::I32, vec![0; 24]));
        write_safetensors(&path, others.to_vec(), None).unwrap();
        assert!(read_vectors(&path).unwrap_err().to_string().contains("`face_embeds`"));
        write_safetensors(&path, others[..1].to_vec(), None).unwrap();
        assert!(read_vectors(&path).unwrap_err().to_string().contains("numbers are I32"));
    }

    #[test]
    fn what_is_no_embedding_is_refused_with_file_and_reason() {
        let floats = data(f32::to_le_bytes);
        let nested = format!("{{'descr': {}'<f4'{}", "[".repeat(50), "]".repeat(50));
        for (header, expected) in [
            (described("<i4", false, "(6,)"), "its numbers are '<i4'"),
            (described("|O", false, "(6,)"), "'|O'"),
            (described("<f4", false, "(65, 6)"), "[65, 6]"),
            (described("<f4", false, "(4097,)"), "[4097]"),
            (described("<f4", false, "(0, 6)"), "[0, 6]"),
            (described("<f4", false, "()"), "[]"),
            (described("<f4", false, "(2, 3, 1)"), "[2, 3, 1]"),
            (described("<f4", false, "(7,)"), "face.npy"),
            (described("<f4", false, "(9999999999, 9999999999)"), "its header"),
            (described("<f4", false, "(0xffffffffff, 0xffffffffff)"), "its header"),
            (nested, "its header"),
            ("{".to_owned(), "face.npy"),
        ] {
            let error = read(&npy(&header, &floats)).unwrap_err();
            assert!(matches!(error, FormatError::Vectors { .. }) && error.source().is_none());
            let error = error.to_string();
            assert!(error.contains("face.npy") && error.contains(expected), "{error}");
        }
        let whole = npy(&described("<f4", false, "(6,)"), &floats);
        (6..whole.len()).for_each(|len| assert!(read(&whole[..len]).is_err(), "{len}"));
        let infinite = [&floats[..20], &f32::INFINITY.to_le_bytes()].concat();
        let error = read(&npy(&described("<f4", false, "(2, 3)"), &infinite)).unwrap_err().to_string();
        assert!(error.contains("number 2 of row 1"), "{error}");
        let huge = [MAGIC, &[2, 0], &u32::MAX.to_le_bytes()].concat();
        assert!(read(&huge).unwrap_err().to_string().contains("its header"));
    }
}
