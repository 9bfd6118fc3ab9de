//! The tar archive that torch 0.1 wrote: `storages`, `tensors` and `pickle`, and on some machines `sys_info`.
//!
//! `storages` and `tensors` alternate pickles and raw numbers; `pickle` refers to tensors by number.

use std::collections::HashMap;
use std::ops::Range;

use super::cursor::Cursor;
use super::error::{TorchError, shown};
use super::flatten::{Flat, Found, Storages, dtype_of, flatten, found, part};
use super::machine::{Unpickled, unpickle};
use super::objects::{Object, Value};
use super::stream::{check_byte_order, counted_bytes};
use crate::Dtype;

const BLOCK: usize = 512;
const NAME: Range<usize> = 0..100;
const LEN: Range<usize> = 124..136;
const CHECKSUM: Range<usize> = 148..156;
const KIND: usize = 156;
/// Files in such an archive; torch writes four.
const MAX_FILES: usize = 64;
/// Storages and tensors, as for the other formats.
const MAX_COUNT: i64 = 65_536;
const MAX_RANK: i32 = 16;

/// Whether the first block of a file is the header of a tar archive.
pub(super) fn is_tar(bytes: &[u8]) -> bool {
    bytes.get(..BLOCK).is_some_and(|block| checksum(block) == octal(&block[CHECKSUM]))
}

pub(super) fn read(bytes: &[u8]) -> Result<Flat, TorchError> {
    let files = files(bytes)?;
    // Every file is read as if the archive ended with it.
    let file = |name: &str| files.get(name).map(|range| (&bytes[..range.end], range.start));
    let required = |name: &str| file(name).ok_or(fault(name, "is missing from the archive"));
    if let Some((bytes, start)) = file("sys_info") {
        check_byte_order(&unpickle(bytes, start)?)?;
    }
    let (storage_bytes, start) = required("storages")?;
    let storages = storages(storage_bytes, start)?;
    let (tensor_bytes, start) = required("tensors")?;
    let tensors = tensors(tensor_bytes, start, &storages)?;
    let (pickle_bytes, start) = required("pickle")?;
    flatten(&unpickle(pickle_bytes, start)?, &Storages::new(), &tensors)
}

fn fault(entry: &str, problem: &'static str) -> TorchError {
    TorchError::Archive { entry: shown(entry), problem }
}

/// Where the files of an archive lie, up to its end or the first block of zeros.
fn files(bytes: &[u8]) -> Result<HashMap<&str, Range<usize>>, TorchError> {
    let mut files = HashMap::new();
    let mut cursor = Cursor::new(bytes, 0);
    while cursor.at() < bytes.len() {
        let header = cursor.take(BLOCK, "a header of its archive")?;
        if header.iter().all(|&byte| byte == 0) {
            break;
        }
        let name = header[NAME].split(|&byte| byte == 0).next().unwrap_or_default();
        let name = std::str::from_utf8(name).map_err(|_| fault("the archive", "holds a name that is not UTF-8"))?;
        if octal(&header[CHECKSUM]) != checksum(header) {
            return Err(fault(name, "has a damaged header"));
        }
        let len = octal(&header[LEN]).ok_or(fault(name, "has a length that is not octal"))?;
        if !matches!(header[KIND], b'0' | 0) {
            return Err(fault(name, "is no regular file"));
        }
        let start = cursor.at();
        cursor.take(len, "a file of its archive")?;
        if files.insert(name, start..cursor.at()).is_some() {
            return Err(fault(name, "is in the archive twice"));
        }
        if files.len() > MAX_FILES {
            return Err(TorchError::Limit { what: "files in its archive", limit: MAX_FILES });
        }
        cursor = Cursor::new(bytes, cursor.at().next_multiple_of(BLOCK));
    }
    Ok(files)
}

/// A number as tar writes it; `None` for anything else and for nothing.
fn octal(field: &[u8]) -> Option<usize> {
    let text = std::str::from_utf8(field).ok()?.trim_matches(['\0', ' ']);
    match text.bytes().all(|digit| digit.is_ascii_digit()) {
        true => usize::from_str_radix(text, 8).ok(),
        false => None,
    }
}

/// The sum of a header's bytes, those of the sum itself taken for spaces.
fn checksum(header: &[u8]) -> Option<usize> {
    let sum = |bytes: &[u8]| bytes.iter().map(|&byte| usize::from(byte)).sum::<usize>();
    Some(sum(&header[..CHECKSUM.start]) + CHECKSUM.len() * usize::from(b' ') + sum(&header[CHECKSUM.end..]))
}

type Located = HashMap<i64, (Dtype, Range<usize>)>;

fn storages(bytes: &[u8], start: usize) -> Result<Located, TorchError> {
    let (count, mut at) = count(bytes, start)?;
    let mut storages = Located::new();
    for _ in 0..count {
        let described = unpickle(bytes, at)?;
        let (key, dtype) =
            storage_class(&described).ok_or(malformed(at, "a storage is not described as torch does"))?;
        let fault = |problem| TorchError::Storage { key: key.to_string(), problem };
        let dtype = dtype.ok_or(fault("holds numbers that are not supported; convert them to float32"))?;
        let mut cursor = Cursor::new(bytes, described.end);
        let range = counted_bytes(&mut cursor, dtype)?.ok_or(fault("is cut short"))?;
        if storages.insert(key, (dtype, range)).is_some() {
            return Err(fault("is there twice"));
        }
        at = cursor.at();
    }
    add_views(&unpickle(bytes, at)?, at, &mut storages)?;
    Ok(storages)
}

/// `(key, location, class)`; the type is `None` if it is not computed with.
fn storage_class(described: &Unpickled<'_>) -> Option<(i64, Option<Dtype>)> {
    let &[Value::Int(key), _location, class] = described.objects.tuple(described.root)? else { return None };
    match described.objects.get(class)? {
        Object::Global(class) => Some((key, dtype_of(class).ok())),
        _ => None,
    }
}

/// Adds the storages that are parts of others: `(key, key of the whole, first element, number of elements)`.
fn add_views(views: &Unpickled<'_>, at: usize, storages: &mut Located) -> Result<(), TorchError> {
    let odd = || malformed(at, "a part of a storage is not described as torch does");
    for &view in views.objects.members(views.root).ok_or_else(odd)? {
        let Some(&[Value::Int(key), Value::Int(whole), Value::Int(start), Value::Int(len)]) = views.objects.tuple(view)
        else {
            return Err(odd());
        };
        let fault = |problem| TorchError::Storage { key: key.to_string(), problem };
        let (dtype, range) = storages.get(&whole).cloned().ok_or(fault("is part of one that is not in the file"))?;
        let num_elements = (range.len() / dtype.size()) as i64;
        let range = part(&range, num_elements, Some((start, len)), dtype).map_err(fault)?;
        if storages.insert(key, (dtype, range)).is_some() {
            return Err(fault("is there twice"));
        }
    }
    Ok(())
}

fn tensors(bytes: &[u8], start: usize, storages: &Located) -> Result<HashMap<i64, Found>, TorchError> {
    let (count, mut at) = count(bytes, start)?;
    let mut tensors = HashMap::new();
    for _ in 0..count {
        let described = unpickle(bytes, at)?;
        let Some(&[Value::Int(key), Value::Int(storage), _class]) = described.objects.tuple(described.root) else {
            return Err(malformed(at, "a tensor is not described as torch does"));
        };
        let fault = |problem| TorchError::Tensor { name: format!("#{key}"), problem };
        let (dtype, range) = storages.get(&storage).ok_or_else(|| fault("has no storage".to_owned()))?;
        let mut cursor = Cursor::new(bytes, described.end);
        let (sizes, strides, offset) = layout(&mut cursor)?;
        let tensor = found(*dtype, &sizes, &strides, offset, range).map_err(fault)?;
        if tensors.insert(key, tensor).is_some() {
            return Err(fault("is there twice".to_owned()));
        }
        at = cursor.at();
    }
    Ok(tensors)
}

/// Sizes, strides and offset behind a tensor's pickle; the number of dimensions takes 8 bytes, of which 4 count.
fn layout(cursor: &mut Cursor<'_>) -> Result<(Vec<i64>, Vec<i64>, i64), TorchError> {
    const LAYOUT: &str = "the shape of a tensor";
    let at = cursor.at();
    let rank = cursor.i32(LAYOUT)?;
    if !(0..=MAX_RANK).contains(&rank) {
        return Err(malformed(at, "a tensor has an impossible number of dimensions"));
    }
    let _unused = cursor.i32(LAYOUT)?;
    let mut numbers = || (0..rank).map(|_| cursor.i64(LAYOUT)).collect::<Result<Vec<_>, _>>();
    let (sizes, strides) = (numbers()?, numbers()?);
    Ok((sizes, strides, cursor.i64(LAYOUT)?))
}

/// The number of pickles that follow, and where.
fn count(bytes: &[u8], start: usize) -> Result<(i64, usize), TorchError> {
    let count = unpickle(bytes, start)?;
    match count.root {
        Value::Int(number @ 0..=MAX_COUNT) => Ok((number, count.end)),
        _ => Err(malformed(start, "a count is no number, or larger than any checkpoint's")),
    }
}

fn malformed(at: usize, problem: &'static str) -> TorchError {
    TorchError::Malformed { at, problem }
}
