//! Where the files of a shard's samples lie, from tar headers alone.

use std::collections::HashSet;
use std::fs::File;
use std::io::{Read, Seek};
use std::path::{Component, Path};

use ipa_formats::FormatError;
use sha2::{Digest as _, Sha256};
use tar::{Archive, EntryType, PaxExtensions};

use super::DataError;
use super::list::PICTURE_ENDINGS;

/// Tar's unit.
const BLOCK: u64 = 512;
/// Long names and other extensions take less.
const MAX_EXTENSION_BYTES: u64 = 1 << 16;

/// What a file of a sample is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Picture,
    Text,
    Json,
    Reference,
    Mask,
    IdEmbed,
}

impl Part {
    /// By what follows the first dot of a file's name.
    fn of(ending: &str) -> Option<Self> {
        match ending {
            "txt" => Some(Self::Text),
            "json" => Some(Self::Json),
            "mask.png" => Some(Self::Mask),
            "id.npy" | "id.safetensors" => Some(Self::IdEmbed),
            _ if PICTURE_ENDINGS.contains(&ending) => Some(Self::Picture),
            _ if ending.strip_prefix("reference.").is_some_and(|ending| PICTURE_ENDINGS.contains(&ending)) => {
                Some(Self::Reference)
            }
            _ => None,
        }
    }
}

/// A file within the shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Location {
    /// What follows the sample's key and a dot.
    pub(super) ending: Box<str>,
    pub(super) offset: u64,
    pub(super) len: u64,
}

/// Consecutive files whose names agree up to the first dot.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ShardSample {
    pub(super) key: String,
    /// By [`Part`].
    locations: [Option<Location>; 6],
}

impl ShardSample {
    pub(super) fn location(&self, part: Part) -> Option<&Location> {
        self.locations[part as usize].as_ref()
    }
}

/// A shard's samples.
#[derive(Debug)]
pub(super) struct ShardIndex {
    pub(super) samples: Vec<ShardSample>,
    /// SHA-256 of all headers: names, sizes and times of the files.
    pub(super) digest: [u8; 32],
}

impl ShardIndex {
    /// Reads the headers of a tar file and skips what lies between them.
    pub(super) fn read(path: &Path) -> Result<Self, DataError> {
        let failed = |source| FormatError::Read { path: path.to_owned(), source };
        let file = File::open(path).map_err(failed)?;
        let len = file.metadata().map_err(failed)?.len();
        Self::of(path, file, len)
    }

    fn of(path: &Path, reader: impl Read + Seek, len: u64) -> Result<Self, DataError> {
        let mut end = 0;
        let mut archive = Archive::new(reader);
        let tar = |offset, source| DataError::Tar { path: path.into(), offset, source };
        let mut hasher = Sha256::new();
        let mut collector = Collector::new(path);
        let mut long_name = None;
        // Raw: the library would take an extension into memory whatever its size.
        for entry in archive.entries_with_seek().map_err(|source| tar(0, source))?.raw(true) {
            let mut entry = entry.map_err(|source| tar(end, source))?;
            let (offset, size) = (entry.raw_file_position(), entry.size());
            let name = match long_name.clone() {
                Some(name) => name,
                None => text_of(path, &entry.path_bytes())?,
            };
            hasher.update(entry.header().as_bytes());
            let Some(data_end) = offset.checked_add(size).filter(|&end| end <= len) else {
                return Err(DataError::CutOff { path: path.into(), len, entry: Some(name) });
            };
            end = data_end.div_ceil(BLOCK) * BLOCK;
            let fault = |problem| DataError::Entry { path: path.into(), entry: name.clone(), problem };
            match entry.header().entry_type() {
                EntryType::GNULongName | EntryType::XHeader => {
                    if size > MAX_EXTENSION_BYTES {
                        return Err(fault("is an extension longer than any name: make the shard again"));
                    }
                    let mut bytes = Vec::new();
                    entry.read_to_end(&mut bytes).map_err(|source| tar(offset, source))?;
                    hasher.update(&bytes);
                    long_name = match entry.header().entry_type() {
                        EntryType::GNULongName => {
                            Some(text_of(path, bytes.split(|&byte| byte == 0).next().unwrap_or_default())?)
                        }
                        _ => name_of_pax(&bytes).map_err(fault)?.or(long_name),
                    };
                }
                EntryType::XGlobalHeader | EntryType::GNULongLink => {}
                EntryType::Directory => long_name = None,
                EntryType::Regular | EntryType::Continuous => {
                    collector.file(&name, offset, size)?;
                    long_name = None;
                }
                _ => return Err(fault("is a link or another special file: put the file itself there")),
            }
        }
        if end + BLOCK > len {
            return Err(DataError::CutOff { path: path.into(), len, entry: None });
        }
        Ok(Self { samples: collector.finish()?, digest: hasher.finalize().into() })
    }
}

fn text_of(path: &Path, name: &[u8]) -> Result<String, DataError> {
    String::from_utf8(name.to_vec()).map_err(|_| DataError::Entry {
        path: path.into(),
        entry: String::from_utf8_lossy(name).into_owned(),
        problem: "has a name that is not UTF-8: rename it",
    })
}

/// The name in an extension by POSIX.
fn name_of_pax(bytes: &[u8]) -> Result<Option<String>, &'static str> {
    let mut name = None;
    for record in PaxExtensions::new(bytes) {
        let record = record.map_err(|_| "is a damaged extension: make the shard again")?;
        match record.key_bytes() {
            b"path" => name = Some(record.value().map_err(|_| "has a name that is not UTF-8: rename it")?.to_owned()),
            // Only what a header cannot count needs it, which is beyond all limits.
            b"size" => return Err("announces a file of more than 8 GiB: leave it out"),
            _ => {}
        }
    }
    Ok(name)
}

/// Puts files together to samples.
struct Collector<'a> {
    path: &'a Path,
    samples: Vec<ShardSample>,
    keys: HashSet<String>,
    current: ShardSample,
}

impl<'a> Collector<'a> {
    fn new(path: &'a Path) -> Self {
        Self { path, samples: Vec::new(), keys: HashSet::new(), current: ShardSample::default() }
    }

    fn fault(&self, entry: &str, problem: &'static str) -> DataError {
        DataError::Entry { path: self.path.into(), entry: entry.to_owned(), problem }
    }

    fn file(&mut self, name: &str, offset: u64, len: u64) -> Result<(), DataError> {
        let climbs = |part: Component| !matches!(part, Component::Normal(_) | Component::CurDir);
        if Path::new(name).components().any(climbs) {
            return Err(self.fault(name, "leads out of the shard: give files plain names"));
        }
        let plain = name.trim_start_matches("./");
        let start = plain.rfind('/').map_or(0, |slash| slash + 1);
        // Hidden files and those without an ending belong to no sample.
        let Some(dot) = plain[start..].find('.').filter(|&dot| dot > 0) else { return Ok(()) };
        let (key, ending) = (&plain[..start + dot], plain[start + dot + 1..].to_lowercase());
        let Some(part) = Part::of(&ending) else { return Ok(()) };
        if key != self.current.key {
            self.close()?;
            if !self.keys.insert(key.to_owned()) {
                return Err(
                    self.fault(key, "comes twice: put the files of a sample one after the other, each key once")
                );
            }
            self.current.key = key.to_owned();
        }
        // Names keep their case in errors.
        let ending = plain[start + dot + 1..].into();
        match self.current.locations[part as usize].replace(Location { ending, offset, len }) {
            None => Ok(()),
            Some(_) => Err(self.fault(name, "is the second of its kind in the sample: leave one of them out")),
        }
    }

    fn close(&mut self) -> Result<(), DataError> {
        let sample = std::mem::take(&mut self.current);
        if sample.key.is_empty() {
            return Ok(());
        }
        if sample.location(Part::Picture).is_none() {
            return Err(self.fault(&sample.key, "has no picture (.jpg, .png, .webp): add it, or leave the sample out"));
        }
        if sample.location(Part::Text).or(sample.location(Part::Json)).is_none() {
            return Err(
                self.fault(&sample.key, "has no caption: add a .txt, which may be empty, or a .json with `text`")
            );
        }
        self.samples.push(sample);
        Ok(())
    }

    fn finish(mut self) -> Result<Vec<ShardSample>, DataError> {
        self.close()?;
        Ok(self.samples)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::*;

    fn index(bytes: &[u8]) -> Result<ShardIndex, String> {
        let index = ShardIndex::of(Path::new("a.tar"), Cursor::new(bytes), bytes.len() as u64);
        index.map_err(|error| error.to_string())
    }

    fn tar(files: &[(&str, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, data) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(data.len() as u64);
            builder.append_data(&mut header, name, data.as_bytes()).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn refusal(files: &[(&str, &str)]) -> String {
        index(&tar(files)).unwrap_err()
    }

    #[test]
    fn files_of_one_key_are_a_sample() {
        let bytes = tar(&[
            ("./a/1.jpg", "first"),
            ("./a/1.txt", "caption"),
            ("a/1.cls", "7"),
            ("b.c/2.JSON", "{}"),
            ("b.c/2.reference.png", "reference"),
            ("b.c/2.png", "second"),
            ("b.c/2.mask.png", "mask"),
            ("b.c/2.id.npy", "id"),
            ("._b", "hidden"),
            ("readme", "no ending"),
        ]);
        let index = index(&bytes).unwrap();
        assert!(index.samples.iter().map(|sample| sample.key.as_str()).eq(["a/1", "b.c/2"]));
        let data = |sample: usize, part| {
            let Location { offset, len, .. } = index.samples[sample].location(part)?;
            Some(str::from_utf8(&bytes[*offset as usize..][..*len as usize]).unwrap())
        };
        assert_eq!(data(0, Part::Picture), Some("first"));
        assert_eq!(data(0, Part::Text), Some("caption"));
        assert_eq!(data(0, Part::Json), None);
        assert_eq!(data(1, Part::Picture), Some("second"));
        assert_eq!(data(1, Part::Json), Some("{}"));
        assert_eq!(data(1, Part::Reference), Some("reference"));
        assert_eq!(data(1, Part::Mask), Some("mask"));
        assert_eq!(data(1, Part::IdEmbed), Some("id"));
    }

    #[test]
    fn long_names_of_both_kinds_are_read() {
        let long = format!("{}/sample.jpg", "folder".repeat(40));
        let text = long.replace("jpg", "txt");
        let gnu = index(&tar(&[(&long, "p"), (&text, "t")])).unwrap();
        assert_eq!(gnu.samples[0].key, long.trim_end_matches(".jpg"));

        let mut builder = tar::Builder::new(Vec::new());
        for (name, path) in [("short.jpg", &long), ("short.txt", &text)] {
            builder.append_pax_extensions([("mtime", &b"1.5"[..]), ("path", path.as_bytes())]).unwrap();
            let mut header = tar::Header::new_ustar();
            header.set_size(1);
            builder.append_data(&mut header, name, &b"x"[..]).unwrap();
        }
        let pax = index(&builder.into_inner().unwrap()).unwrap();
        assert_eq!(pax.samples[0].key, gnu.samples[0].key);
    }

    #[test]
    fn faults_are_told_with_shard_and_entry() {
        let whole = [("a.jpg", "p"), ("a.txt", "t")];
        for (files, expected) in [
            (&[("a.jpg", "p"), ("b.txt", "t")][..], "`a` has no caption"),
            (&[("a.txt", "t")], "`a` has no picture"),
            (&[("a.jpg", "p"), ("a.png", "p"), ("a.txt", "t")], "`a.png` is the second of its kind"),
            (&[whole[0], whole[1], ("b.jpg", "p"), ("b.txt", "t"), whole[0]], "`a` comes twice"),
        ] {
            let error = refusal(files);
            assert!(error.contains("a.tar") && error.contains(expected), "{error}");
        }
        for name in ["/etc/a.jpg", "b/../../a.jpg"] {
            let mut bytes = tar(&[("a.jpg", "p")]);
            bytes[..100].fill(0);
            bytes[..name.len()].copy_from_slice(name.as_bytes());
            renew_checksum(&mut bytes[..512]);
            let error = index(&bytes).unwrap_err();
            assert!(error.contains("leads out") && error.contains(name), "{error}");
        }
    }

    fn renew_checksum(header: &mut [u8]) {
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }

    #[test]
    fn links_are_refused() {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(EntryType::Symlink);
        header.set_size(0);
        builder.append_link(&mut header, "a.jpg", "/etc/passwd").unwrap();
        let error = index(&builder.into_inner().unwrap()).unwrap_err();
        assert!(error.contains("`a.jpg` is a link"), "{error}");
    }

    #[test]
    fn a_shard_that_is_cut_anywhere_is_refused() {
        let bytes = tar(&[("a.jpg", &"p".repeat(700)), ("a.txt", "t")]);
        index(&bytes).unwrap();
        let end = bytes.len() - 1024; // two empty blocks are the mark of the end
        for len in (0..end + 512).step_by(100).chain([512, 1024, 1536, end]) {
            assert!(index(&bytes[..len]).is_err(), "{len}");
        }
        assert!(index(&bytes[..900]).unwrap_err().contains("in the middle of `a.jpg`"));
        assert!(index(&bytes[..end]).unwrap_err().contains("without tar's mark"));
    }

    #[test]
    fn an_extension_without_end_is_refused_unread() {
        let mut bytes = tar(&[("a.jpg", "p")]);
        bytes[156] = b'L';
        bytes[124..136].copy_from_slice(b"00000300000\0");
        renew_checksum(&mut bytes[..512]);
        bytes.resize(200_000, 0);
        let error = index(&bytes).unwrap_err();
        assert!(error.contains("longer than any name"), "{error}");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
            let _ = index(&bytes);
        }

        /// Whatever is changed in a good shard, the parts that are found lie within it.
        #[test]
        fn damaged_shards_never_panic(
            changes in proptest::collection::vec((0..3072_usize, any::<u8>()), 1..8),
            len in 0..4096_usize,
            mend in any::<bool>(),
        ) {
            let mut bytes = tar(&[("a.jpg", "p"), ("a.txt", "t"), ("b.png", "q"), ("b.json", "{}")]);
            for (place, byte) in changes {
                bytes[place] = byte;
            }
            if mend {
                (0..3).for_each(|header| renew_checksum(&mut bytes[header * 1024..][..512]));
            }
            bytes.truncate(len.max(1024));
            if let Ok(index) = index(&bytes) {
                let parts = [Part::Picture, Part::Text, Part::Json, Part::Reference, Part::Mask, Part::IdEmbed];
                for sample in &index.samples {
                    for location in parts.iter().filter_map(|&part| sample.location(part)) {
                        prop_assert!(location.offset + location.len <= bytes.len() as u64);
                    }
                }
            }
        }
    }
}
