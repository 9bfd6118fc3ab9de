//! The stream that torch wrote before version 1.6: four pickles, the storages' keys, their bytes.

use std::collections::HashMap;
use std::ops::Range;

use super::cursor::Cursor;
use super::error::{TorchError, shown};
use super::flatten::{Flat, Storages, dtype_of, flatten};
use super::machine::{Unpickled, unpickle};
use super::objects::Value;
use crate::Dtype;

/// `0x1950a86a20f9469cfc6c`, little-endian.
const MAGIC_NUMBER: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
const PROTOCOL: i64 = 1001;

pub(super) fn read(bytes: &[u8]) -> Result<Flat, TorchError> {
    let magic = unpickle(bytes, 0)?;
    if magic.root != Value::Long(&MAGIC_NUMBER) {
        return Err(TorchError::NotTorch);
    }
    let protocol = unpickle(bytes, magic.end)?;
    if protocol.root != Value::Int(PROTOCOL) {
        return Err(TorchError::NotTorch);
    }
    let system = unpickle(bytes, protocol.end)?;
    check_byte_order(&system)?;
    let object = unpickle(bytes, system.end)?;
    let keys = unpickle(bytes, object.end)?;
    flatten(&object, &storages(bytes, &object, &keys)?, &HashMap::new())
}

/// Refuses what `sys_info` says to come from a big-endian machine.
pub(super) fn check_byte_order(system: &Unpickled<'_>) -> Result<(), TorchError> {
    let entries = system.objects.dict(system.root).unwrap_or_default();
    match entries.contains(&(Value::Text("little_endian"), Value::Bool(false))) {
        true => Err(TorchError::BigEndian),
        false => Ok(()),
    }
}

/// Finds the storages behind the pickles, where they lie in the order of their keys.
fn storages<'a>(bytes: &[u8], object: &Unpickled<'a>, keys: &Unpickled<'a>) -> Result<Storages<'a>, TorchError> {
    let mut dtypes = HashMap::new();
    for storage in object.objects.storages() {
        dtypes.entry(storage.key).or_insert(storage.class);
    }
    let mut storages = Storages::new();
    let mut cursor = Cursor::new(bytes, keys.end);
    let no_list = TorchError::Malformed { at: object.end, problem: "the keys of the storages are no list" };
    for &key in keys.objects.members(keys.root).ok_or(no_list)? {
        let Value::Text(key) = key else {
            return Err(TorchError::Malformed { at: object.end, problem: "the key of a storage is no text" });
        };
        let fault = |problem| TorchError::Storage { key: shown(key), problem };
        let class = dtypes.get(key).ok_or(fault("belongs to no tensor"))?;
        let dtype =
            dtype_of(class).map_err(|_| fault("holds numbers that are not supported; convert them to float32"))?;
        let range = counted_bytes(&mut cursor, dtype)?.ok_or(fault("is cut short"))?;
        if storages.insert(key, range).is_some() {
            return Err(fault("is there twice"));
        }
    }
    Ok(storages)
}

/// Steps over a storage that begins with its number of elements; `None` if it does not end in the file.
pub(super) fn counted_bytes(cursor: &mut Cursor<'_>, dtype: Dtype) -> Result<Option<Range<usize>>, TorchError> {
    let len = cursor.i64("the length of a storage")?;
    let start = cursor.at();
    let len = usize::try_from(len).ok().and_then(|len| len.checked_mul(dtype.size()));
    Ok(len.and_then(|len| cursor.take(len, "a storage").ok()).map(|_data| start..cursor.at()))
}
