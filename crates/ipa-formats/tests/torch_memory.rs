//! How much memory reading and converting a torch file takes, whatever the file claims; refused ones are in torch_refused.rs.
#![allow(clippy::unwrap_used)]

#[path = "support/counting.rs"]
mod counting;
mod support;

use std::fs;
use std::path::Path;

use ipa_formats::{Dtype, ModelConversion, ModelConversionOptions, ModelForm, TorchIndex};
use support::*;

/// Bytes that are allocated at most while a file is indexed and each of its tensors read in turn.
fn read_peak(bytes: &[u8]) -> usize {
    let read = || {
        if let Ok(index) = TorchIndex::new(bytes) {
            for name in index.tensors().keys() {
                assert!(index.data(name, bytes).is_some());
            }
        }
    };
    counting::peak(read).0
}

fn archive(code: &[u8]) -> Vec<u8> {
    Archive::new(pickle(code), &[vec![1; 64]]).bytes()
}

/// One test, since the count is of the whole process.
#[test]
fn memory_is_bounded_by_the_file_and_by_a_constant() {
    const SMALL: usize = 64 << 10;
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/torch_files");
    let files = fs::read_dir(fixtures).unwrap().map(|entry| entry.unwrap().path());
    for path in files.filter(|path| path.extension().is_some_and(|kind| kind != "json" && kind != "safetensors")) {
        let (bytes, name) = (fs::read(&path).unwrap(), path.display());
        let peak = read_peak(&bytes);
        println!("{name}: {} bytes, {peak} allocated", bytes.len());
        assert!(peak < 8 * bytes.len() + SMALL, "{name}: {peak}");
    }

    // The most that a file of instructions alone gets: limits on objects, members, memo and names.
    let members = [&b"]"[..], &b"Na".repeat(1 << 20)].concat();
    let keyed: Vec<u8> = (0..400_000u32).flat_map(|place| [&b")r"[..], &place.to_le_bytes()].concat()).collect();
    for code in [members, b"]0".repeat(1 << 20), b"(K\x01K\x02K\x03t0".repeat(1 << 19), [keyed, b"N".to_vec()].concat()]
    {
        let (bytes, start) = (archive(&code), code[..8].to_vec());
        let peak = read_peak(&bytes);
        println!("{start:?}…: {} bytes, {peak} allocated", bytes.len());
        assert!(peak < 160 << 20, "{peak}");
    }

    // A conversion holds some blocks, whatever the file's length.
    let weights =
        |index: i64| tensor(storage("FloatStorage", "0", 24 << 20), index << 22, &[1 << 12, 1 << 10], &[1 << 10, 1]);
    let names = ["a", "b", "c", "d", "e", "f"];
    let tensors: Vec<_> = names.iter().zip(0..).map(|(name, index)| (*name, weights(index))).collect();
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("large.ckpt"), folder.path().join("large.safetensors"));
    fs::write(&input, Archive::new(pickle(&dict(&tensors)), &[vec![0x3f; 96 << 20]]).bytes()).unwrap();
    let options = ModelConversionOptions { dtype: Some(Dtype::F16), ..ModelConversionOptions::default() };
    let convert = || {
        ModelConversion::plan(&input, ModelForm::SingleFile, &options).and_then(|model| model.write(&output)).unwrap();
    };
    let (peak, ()) = counting::peak(convert);
    println!("{} bytes converted, {peak} allocated", fs::metadata(&input).unwrap().len());
    assert!(fs::metadata(&output).unwrap().len() > 48 << 20 && peak < 12 << 20, "{peak}");
}
