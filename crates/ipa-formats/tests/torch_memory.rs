//! How much memory reading a torch file takes, whatever the file claims.
#![allow(clippy::unwrap_used)]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use ipa_formats::TorchIndex;
use support::*;

/// Counts what is allocated, and the most that was at once.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        PEAK.fetch_max(LIVE.fetch_add(layout.size(), Relaxed) + layout.size(), Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes that are allocated at most while a file is indexed and each of its tensors read in turn.
fn peak(bytes: &[u8]) -> usize {
    let before = LIVE.load(Relaxed);
    PEAK.store(before, Relaxed);
    if let Ok(index) = TorchIndex::new(bytes) {
        for name in index.tensors().keys() {
            assert!(index.data(name, bytes).is_some());
        }
    }
    PEAK.load(Relaxed) - before
}

fn archive(code: &[u8]) -> Vec<u8> {
    Archive::new(pickle(code), &[vec![1; 64]]).bytes()
}

/// One test, since the count is of the whole process.
#[test]
fn memory_is_bounded_by_the_file_and_by_a_constant() {
    const SMALL: usize = 64 << 10;
    let claims = [
        b"X\xff\xff\xff\xff".to_vec(),
        b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f".to_vec(),
        b"K\x05r\xff\xff\xff\xff".to_vec(),
        dict(&[("w", tensor(storage("FloatStorage", "0", i64::MAX), 0, &[1 << 40], &[1]))]),
        dict(&[("w", tensor(storage("FloatStorage", "0", 16), 0, &[1 << 40], &[0]))]),
        [&b"]q\0"[..], &b"]h\0ah\0aq\0".repeat(60)].concat(),
    ];
    for code in claims {
        let peak = peak(&archive(&code));
        assert!(peak < SMALL, "{peak} bytes for {code:?}");
    }

    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/torch_files");
    let files = fs::read_dir(fixtures).unwrap().map(|entry| entry.unwrap().path());
    for path in files.filter(|path| path.extension().is_some_and(|kind| kind != "json" && kind != "safetensors")) {
        let (bytes, name) = (fs::read(&path).unwrap(), path.display());
        let peak = peak(&bytes);
        println!("{name}: {} bytes, {peak} allocated", bytes.len());
        assert!(peak < 8 * bytes.len() + SMALL, "{name}: {peak}");
    }

    // The most that a file of instructions alone gets: limits on objects, members, memo and names.
    let members = [&b"]"[..], &b"Na".repeat(1 << 20)].concat();
    let keyed: Vec<u8> = (0..400_000u32).flat_map(|place| [&b")r"[..], &place.to_le_bytes()].concat()).collect();
    for code in [members, b"]0".repeat(1 << 20), b"(K\x01K\x02K\x03t0".repeat(1 << 19), [keyed, b"N".to_vec()].concat()]
    {
        let (bytes, start) = (archive(&code), code[..8].to_vec());
        let peak = peak(&bytes);
        println!("{start:?}…: {} bytes, {peak} allocated", bytes.len());
        assert!(peak < 160 << 20, "{peak}");
    }
}
