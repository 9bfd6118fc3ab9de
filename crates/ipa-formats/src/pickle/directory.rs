//! The zip archive that torch writes since version 1.6, found by its central directory.
//!
//! Read by hand because a library for zip archives is made to find what it can: it looks for the
//! directory in several places, keeps the last of two entries of one name, lets entries overlap and
//! builds a record for each of millions. Here an archive has one meaning or is refused.

use std::collections::HashMap;
use std::ops::Range;

use super::cursor::Cursor;
use super::error::{TorchError, shown};

const END_SIGNATURE: [u8; 4] = *b"PK\x05\x06";
const END_BYTES: usize = 22;
const LOCATOR_SIGNATURE: [u8; 4] = *b"PK\x06\x07";
const LOCATOR_BYTES: usize = 20;
const END64_SIGNATURE: [u8; 4] = *b"PK\x06\x06";
const ENTRY_SIGNATURE: [u8; 4] = *b"PK\x01\x02";
const LOCAL_SIGNATURE: [u8; 4] = *b"PK\x03\x04";

/// Storages and some small entries; as many storages as tensors.
const MAX_ENTRIES: usize = 65_536 + 64;
const STORED: u16 = 0;
const ENCRYPTED: u16 = 1;
const ZIP64_FIELD: u16 = 1;
const DIRECTORY: &str = "the archive's directory";

/// Where the bytes of each entry lie in the file, by name.
#[derive(Debug)]
pub(super) struct Directory<'a> {
    /// The name of the folder that all of torch's entries lie in, with the `/` at its end.
    root: &'a str,
    entries: HashMap<&'a str, Range<usize>>,
}

impl<'a> Directory<'a> {
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, TorchError> {
        let end = end_record(bytes)?;
        let mut cursor = Cursor::new(bytes, end.directory.start);
        let mut extents = Vec::new();
        let mut entries = HashMap::new();
        let mut root = None;
        for _ in 0..end.num_entries {
            let entry = Entry::read(&mut cursor)?;
            let extent = entry.locate(bytes, end.directory.start)?;
            root.get_or_insert(entry.name.split_inclusive('/').next().unwrap_or_default());
            if entries.insert(entry.name, extent.data()).is_some() {
                return Err(fault(entry.name, "is in the archive twice"));
            }
            extents.push((extent, entry.name));
        }
        if cursor.at() != end.directory.end {
            return Err(fault(DIRECTORY, "is not as long as it says"));
        }
        extents.sort_unstable_by_key(|(extent, _)| extent.header);
        match extents.windows(2).find(|pair| pair[0].0.end > pair[1].0.header) {
            Some(pair) => Err(fault(pair[1].1, "lies within another entry")),
            None => Ok(Self { root: root.unwrap_or_default(), entries }),
        }
    }

    /// Where an entry lies, by its name within the root folder.
    pub(super) fn entry(&self, name: &str) -> Option<Range<usize>> {
        self.entries.get(format!("{}{name}", self.root).as_str()).cloned()
    }

    /// Entries of a folder within the root folder, such as `data/`.
    pub(super) fn folder(&self, folder: &str) -> HashMap<&'a str, Range<usize>> {
        let own = |name: &'a str| name.strip_prefix(self.root)?.strip_prefix(folder);
        self.entries.iter().filter_map(|(name, range)| Some((own(name)?, range.clone()))).collect()
    }
}

fn fault(entry: &str, problem: &'static str) -> TorchError {
    TorchError::Archive { entry: shown(entry), problem }
}

#[derive(Debug)]
struct End {
    num_entries: usize,
    directory: Range<usize>,
}

/// The record that ends the archive and the file, and the larger one before it where numbers do not fit.
fn end_record(bytes: &[u8]) -> Result<End, TorchError> {
    let at = end_place(bytes).ok_or(TorchError::CutShort { what: DIRECTORY, at: bytes.len() })?;
    let mut cursor = Cursor::new(bytes, at + END_SIGNATURE.len());
    let disks = [cursor.u16(DIRECTORY)?, cursor.u16(DIRECTORY)?];
    let counts = [cursor.u16(DIRECTORY)?, cursor.u16(DIRECTORY)?];
    let (len, start) = (cursor.u32(DIRECTORY)?, cursor.u32(DIRECTORY)?);
    let small = counts.iter().all(|&count| count != u16::MAX) && len != u32::MAX && start != u32::MAX;
    let (disks, counts, len, start, limit) = match small {
        true => (disks.map(u32::from), counts.map(u64::from), len.into(), start.into(), at),
        false => end64_record(bytes, at)?,
    };
    if disks != [0, 0] || counts[0] != counts[1] {
        return Err(fault(DIRECTORY, "is spread over several archives"));
    }
    let num_entries = usize::try_from(counts[0]).unwrap_or(usize::MAX);
    if num_entries > MAX_ENTRIES {
        return Err(TorchError::Limit { what: "entries in its archive", limit: MAX_ENTRIES });
    }
    let end = start.checked_add(len).filter(|&end| end <= limit as u64);
    let end = end.ok_or(fault(DIRECTORY, "reaches beyond the file"))?;
    Ok(End { num_entries, directory: start as usize..end as usize })
}

/// The end record is the last whose comment reaches exactly to the end of the file.
fn end_place(bytes: &[u8]) -> Option<usize> {
    let last = bytes.len().checked_sub(END_BYTES)?;
    let first = last.saturating_sub(usize::from(u16::MAX));
    (first..=last).rev().find(|&at| {
        bytes[at..].starts_with(&END_SIGNATURE)
            && bytes[at + END_BYTES - 2..]
                .first_chunk()
                .is_some_and(|&len| usize::from(u16::from_le_bytes(len)) == last - at)
    })
}

type Numbers = ([u32; 2], [u64; 2], u64, u64, usize);

fn end64_record(bytes: &[u8], end: usize) -> Result<Numbers, TorchError> {
    let missing = || fault(DIRECTORY, "lacks its 64-bit part");
    let mut locator = Cursor::new(bytes, end.checked_sub(LOCATOR_BYTES).ok_or_else(missing)?);
    if locator.array(DIRECTORY)? != LOCATOR_SIGNATURE || locator.u32(DIRECTORY)? != 0 {
        return Err(missing());
    }
    let at = usize::try_from(locator.u64(DIRECTORY)?).map_err(|_| missing())?;
    let mut cursor = Cursor::new(bytes, at);
    if at > end - LOCATOR_BYTES || cursor.array(DIRECTORY)? != END64_SIGNATURE {
        return Err(missing());
    }
    let _size_and_versions = cursor.take(12, DIRECTORY)?;
    let disks = [cursor.u32(DIRECTORY)?, cursor.u32(DIRECTORY)?];
    let counts = [cursor.u64(DIRECTORY)?, cursor.u64(DIRECTORY)?];
    Ok((disks, counts, cursor.u64(DIRECTORY)?, cursor.u64(DIRECTORY)?, at))
}

/// An entry as the directory describes it.
#[derive(Debug)]
struct Entry<'a> {
    name: &'a str,
    len: u64,
    header: u64,
}

/// Bytes that an entry takes: its own header, at the start, and its data, up to the end.
#[derive(Debug)]
struct Extent {
    header: usize,
    start: usize,
    end: usize,
}

impl Extent {
    fn data(&self) -> Range<usize> {
        self.start..self.end
    }
}

impl<'a> Entry<'a> {
    fn read(cursor: &mut Cursor<'a>) -> Result<Self, TorchError> {
        if cursor.array(DIRECTORY)? != ENTRY_SIGNATURE {
            return Err(fault(DIRECTORY, "is damaged"));
        }
        let _versions = cursor.u32(DIRECTORY)?;
        let (flags, method) = (cursor.u16(DIRECTORY)?, cursor.u16(DIRECTORY)?);
        let _time_and_checksum = cursor.take(8, DIRECTORY)?;
        let (compressed, len) = (cursor.u32(DIRECTORY)?, cursor.u32(DIRECTORY)?);
        let (name, extra) = (cursor.u16(DIRECTORY)?, cursor.u16(DIRECTORY)?);
        let (comment, disk) = (cursor.u16(DIRECTORY)?, cursor.u16(DIRECTORY)?);
        let _attributes = cursor.take(6, DIRECTORY)?;
        let header = cursor.u32(DIRECTORY)?;
        let name = cursor.take(name.into(), DIRECTORY)?;
        let name = std::str::from_utf8(name).map_err(|_| fault(DIRECTORY, "holds a name that is not UTF-8"))?;
        let extra = cursor.take(extra.into(), DIRECTORY)?;
        let _comment = cursor.take(comment.into(), DIRECTORY)?;
        let [len, compressed, header] =
            widened([len, compressed, header], extra).ok_or(fault(name, "has no 64-bit length or place"))?;
        match () {
            () if method != STORED && name.contains("/code/") => Err(TorchError::Script),
            () if flags & ENCRYPTED != 0 => Err(fault(name, "is encrypted")),
            () if method != STORED => Err(fault(name, "is compressed, which torch does not do")),
            () if compressed != len || disk != 0 => Err(fault(name, "has two different lengths")),
            () => Ok(Self { name, len, header }),
        }
    }

    /// Reads the header in front of the data, which may be longer than the directory knows, to find the data.
    fn locate(&self, bytes: &[u8], limit: usize) -> Result<Extent, TorchError> {
        let beyond = || fault(self.name, "reaches beyond the file or into the archive's directory");
        let header = usize::try_from(self.header).ok().filter(|&header| header < limit).ok_or_else(beyond)?;
        let mut cursor = Cursor::new(bytes, header);
        if cursor.array(DIRECTORY)? != LOCAL_SIGNATURE {
            return Err(fault(self.name, "is not where the archive's directory says"));
        }
        let _version_and_flags = cursor.u32(DIRECTORY)?;
        let method = cursor.u16(DIRECTORY)?;
        let _time_checksum_and_lengths = cursor.take(16, DIRECTORY)?;
        let (name, extra) = (cursor.u16(DIRECTORY)?, cursor.u16(DIRECTORY)?);
        if cursor.take(name.into(), DIRECTORY)? != self.name.as_bytes() || method != STORED {
            return Err(fault(self.name, "differs from what the archive's directory says"));
        }
        let _extra = cursor.take(extra.into(), DIRECTORY)?;
        let len = usize::try_from(self.len).map_err(|_| beyond())?;
        let end = cursor.at().checked_add(len).filter(|&end| end <= limit).ok_or_else(beyond)?;
        Ok(Extent { header, start: cursor.at(), end })
    }
}

/// Numbers that did not fit stand in an extra field, in the order of the arguments.
fn widened(numbers: [u32; 3], extra: &[u8]) -> Option<[u64; 3]> {
    let mut field = Cursor::new(zip64_field(extra), 0);
    let mut wide = [0; 3];
    for (wide, number) in wide.iter_mut().zip(numbers) {
        *wide = if number == u32::MAX { field.u64(DIRECTORY).ok()? } else { number.into() };
    }
    Some(wide)
}

fn zip64_field(mut extra: &[u8]) -> &[u8] {
    while let Some((&[id_0, id_1, len_0, len_1], rest)) = extra.split_first_chunk() {
        let len = usize::from(u16::from_le_bytes([len_0, len_1]));
        let Some((field, rest)) = rest.split_at_checked(len) else { break };
        if u16::from_le_bytes([id_0, id_1]) == ZIP64_FIELD {
            return field;
        }
        extra = rest;
    }
    &[]
}
