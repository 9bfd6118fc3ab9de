//! The libraries that a Linux shared library asks for: just enough of the ELF format.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use anyhow::{Context, Result, bail};

const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const DT_NEEDED: u64 = 1;
const DT_STRTAB: u64 = 5;
const DT_STRSZ: u64 = 10;
/// Far above any real table; a damaged file must not make us allocate without end.
const MAX_TABLE: u64 = 64 << 20;

struct Segment {
    kind: u32,
    offset: u64,
    address: u64,
    size: u64,
}

/// The `DT_NEEDED` names of a 64-bit little-endian shared library.
///
/// # Errors
/// If the file is not one, or is damaged.
pub(crate) fn needed(library: &Path) -> Result<Vec<String>> {
    let mut file = File::open(library)?;
    let segments = segments(&mut file)?;
    let dynamic = segments.iter().find(|segment| segment.kind == PT_DYNAMIC).context("no dynamic section")?;
    let entries: Vec<(u64, u64)> = read_at(&mut file, dynamic.offset, dynamic.size)?
        .chunks_exact(16)
        .map(|entry| (u64_at(entry, 0), u64_at(entry, 8)))
        .collect();
    let value = |tag| entries.iter().find(|entry| entry.0 == tag).map(|entry| entry.1).context("no string table");
    let (address, size) = (value(DT_STRTAB)?, value(DT_STRSZ)?);
    let strings = read_at(&mut file, file_offset(&segments, address)?, size)?;
    let needed = entries.iter().filter(|entry| entry.0 == DT_NEEDED);
    needed.map(|entry| name_at(&strings, entry.1)).collect()
}

fn segments(file: &mut File) -> Result<Vec<Segment>> {
    let header = read_at(file, 0, 64).context("not a shared library")?;
    if header[..6] != *b"\x7fELF\x02\x01" {
        bail!("not a 64-bit little-endian ELF file");
    }
    let (table, size, count) = (u64_at(&header, 32), u64::from(u16_at(&header, 54)), u64::from(u16_at(&header, 56)));
    if size != 56 {
        bail!("program headers of {size} bytes");
    }
    let segment = |entry: &[u8]| Segment {
        kind: u32::from_le_bytes(entry[..4].try_into().expect("four bytes")),
        offset: u64_at(entry, 8),
        address: u64_at(entry, 16),
        size: u64_at(entry, 32),
    };
    Ok(read_at(file, table, size * count)?.chunks_exact(56).map(segment).collect())
}

fn file_offset(segments: &[Segment], address: u64) -> Result<u64> {
    let holds = |segment: &&Segment| {
        segment.kind == PT_LOAD && address.checked_sub(segment.address).is_some_and(|into| into < segment.size)
    };
    let segment = segments.iter().find(holds).context("string table outside the file")?;
    Ok(address - segment.address + segment.offset)
}

fn name_at(strings: &[u8], start: u64) -> Result<String> {
    let rest = usize::try_from(start).ok().and_then(|start| strings.get(start..)).context("name outside its table")?;
    let name = rest.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(String::from_utf8_lossy(name).into_owned())
}

fn read_at(file: &mut File, offset: u64, size: u64) -> Result<Vec<u8>> {
    if size > MAX_TABLE {
        bail!("a table of {size} bytes");
    }
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = vec![0; size as usize];
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(all(test, target_os = "linux"))]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn this_program_needs_the_c_library() {
        let needed = needed(&std::env::current_exe().unwrap()).unwrap();
        assert!(needed.iter().any(|name| name == "libc.so.6"), "{needed:?}");
    }

    #[test]
    fn other_files_are_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(needed(file.path()).is_err());
        std::fs::write(file.path(), [b'x'; 200]).unwrap();
        assert!(needed(file.path()).unwrap_err().to_string().contains("ELF"));
    }
}
