//! Hand-made pickles and archives.
#![allow(dead_code)] // each test file uses its own part

/// What follows `PROTO 2` and precedes `STOP`.
pub(crate) type Code = Vec<u8>;

pub(crate) fn pickle(code: &[u8]) -> Vec<u8> {
    [b"\x80\x02", code, b"."].concat()
}

pub(crate) fn global(module: &str, name: &str) -> Code {
    format!("c{module}\n{name}\n").into_bytes()
}

pub(crate) fn text(text: &str) -> Code {
    [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
}

pub(crate) fn int(number: i64) -> Code {
    [b"\x8a\x08", &number.to_le_bytes()[..]].concat()
}

pub(crate) fn tuple(members: &[Code]) -> Code {
    [b"(", &members.concat()[..], b"t"].concat()
}

pub(crate) fn call(function: Code, arguments: &[Code]) -> Code {
    [function, tuple(arguments), b"R".to_vec()].concat()
}

pub(crate) fn dict(members: &[(&str, Code)]) -> Code {
    let members: Vec<u8> = members.iter().flat_map(|(key, value)| [text(key), value.clone()].concat()).collect();
    [b"}(", &members[..], b"u"].concat()
}

pub(crate) fn storage(class: &str, key: &str, len: i64) -> Code {
    let id = [text("storage"), global("torch", class), text(key), text("cpu"), int(len)];
    [tuple(&id), b"Q".to_vec()].concat()
}

pub(crate) fn tensor(storage: Code, offset: i64, sizes: &[i64], strides: &[i64]) -> Code {
    let ints = |numbers: &[i64]| tuple(&numbers.iter().map(|&number| int(number)).collect::<Vec<_>>());
    let hooks = call(global("collections", "OrderedDict"), &[]);
    let arguments = [storage, int(offset), ints(sizes), ints(strides), b"\x89".to_vec(), hooks];
    call(global("torch._utils", "_rebuild_tensor_v2"), &arguments)
}

/// The four pickles of the stream format in front of the last one and the storages.
pub(crate) fn stream(code: &[u8], rest: &[u8]) -> Vec<u8> {
    let magic = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19";
    let system = dict(&[("little_endian", b"\x88".to_vec())]);
    [pickle(magic), pickle(b"M\xe9\x03"), pickle(&system), pickle(code), rest.to_vec()].concat()
}

/// The archive of torch 0.1 with one float storage, one tensor of it, and this pickle.
pub(crate) fn tar(code: &[u8]) -> Vec<u8> {
    let storage = pickle(&tuple(&[int(1), text("cpu"), global("torch", "FloatStorage")]));
    let storages = [pickle(&int(1)), storage, 1_i64.to_le_bytes().into(), vec![0; 4], pickle(b"]")].concat();
    let tensor = pickle(&tuple(&[int(2), int(1), global("torch", "FloatTensor")]));
    let tensors = [pickle(&int(1)), tensor, vec![0; 8], 0_i64.to_le_bytes().into()].concat();
    tar_of(&[("pickle", b'0', pickle(code)), ("storages", b'0', storages), ("tensors", b'0', tensors)])
}

/// A tar archive of entries with their kinds.
pub(crate) fn tar_of(entries: &[(&str, u8, Vec<u8>)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, kind, data) in entries {
        let mut header = [0_u8; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[124..136].copy_from_slice(format!("{:011o}\0", data.len()).as_bytes());
        header[148..156].fill(b' ');
        header[156] = *kind;
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        out.extend(header);
        out.extend(data);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.resize(out.len() + 1024, 0);
    out
}

/// An archive of stored entries, in the folder `archive/`.
#[derive(Clone, Debug)]
pub(crate) struct Archive {
    pub(crate) entries: Vec<(String, Vec<u8>)>,
    pub(crate) zip64: bool,
    /// What the directory says of an entry, changed after it was laid out: number of the entry, place in its record, bytes.
    pub(crate) lies: Vec<(usize, usize, Vec<u8>)>,
}

/// Places in an entry's record of the directory.
pub(crate) const FLAGS: usize = 8;
pub(crate) const METHOD: usize = 10;
pub(crate) const COMPRESSED: usize = 20;
pub(crate) const LEN: usize = 24;
pub(crate) const HEADER: usize = 42;
pub(crate) const NAME: usize = 46;

impl Archive {
    pub(crate) fn new(pickle: Vec<u8>, storages: &[Vec<u8>]) -> Self {
        let data = storages.iter().enumerate().map(|(key, bytes)| (format!("archive/data/{key}"), bytes.clone()));
        let entries = std::iter::once(("archive/data.pkl".to_owned(), pickle)).chain(data).collect();
        Self { entries, zip64: false, lies: Vec::new() }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut directory = Vec::new();
        for (index, (name, data)) in self.entries.iter().enumerate() {
            let mut record = self.record(name, data, out.len());
            for (_, place, lie) in self.lies.iter().filter(|(entry, ..)| *entry == index) {
                record[*place..place + lie.len()].copy_from_slice(lie);
            }
            directory.extend(record);
            out.extend(local_header(name, data));
            out.extend(data);
        }
        let start = out.len();
        out.extend(&directory);
        self.finish(out, start, directory.len())
    }

    fn record(&self, name: &str, data: &[u8], header: usize) -> Vec<u8> {
        let (len, header) = (data.len() as u64, header as u64);
        let wide = [len, len, header].map(u64::to_le_bytes).concat();
        let extra = if self.zip64 { [&b"\xff\xff\x02\0ab\x01\0\x18\0"[..], &wide].concat() } else { Vec::new() };
        let small = |number: u64| if self.zip64 { u32::MAX } else { number as u32 }.to_le_bytes();
        let mut record = b"PK\x01\x02\x2d\0\x2d\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec();
        record.extend([small(len), small(len)].concat());
        record.extend((name.len() as u16).to_le_bytes());
        record.extend((extra.len() as u16).to_le_bytes());
        record.extend([0; 10]);
        record.extend(small(header));
        record.extend(name.as_bytes());
        record.extend(extra);
        record
    }

    fn finish(&self, mut out: Vec<u8>, start: usize, len: usize) -> Vec<u8> {
        let count = self.entries.len() as u64;
        let at = out.len() as u64;
        if self.zip64 {
            out.extend(b"PK\x06\x06\x2c\0\0\0\0\0\0\0\x2d\0\x2d\0\0\0\0\0\0\0\0\0");
            out.extend([count, count, len as u64, start as u64].map(u64::to_le_bytes).concat());
            out.extend(b"PK\x06\x07\0\0\0\0");
            out.extend(at.to_le_bytes());
            out.extend(1u32.to_le_bytes());
        }
        let small = |number: usize| if self.zip64 { u32::MAX } else { number as u32 }.to_le_bytes();
        let count = if self.zip64 { u16::MAX } else { count as u16 }.to_le_bytes();
        out.extend(b"PK\x05\x06\0\0\0\0");
        out.extend([count, count].concat());
        out.extend([small(len), small(start)].concat());
        out.extend([0; 2]);
        out
    }
}

fn local_header(name: &str, data: &[u8]) -> Vec<u8> {
    let mut header = b"PK\x03\x04\x2d\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec();
    let len = (data.len() as u32).to_le_bytes();
    header.extend([len, len].concat());
    header.extend((name.len() as u16).to_le_bytes());
    header.extend([0; 2]);
    header.extend(name.as_bytes());
    header
}
