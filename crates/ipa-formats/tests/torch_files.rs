//! Files that torch wrote, against what torch reads from them.
//! Reference values: tests/fixtures/torch_files.py
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use ipa_formats::{
    AdapterDialect, AdapterFile, AdapterOptions, FormatError, PlainValue, SafetensorsFile, TensorFile, TorchError,
    TorchFile, TorchIndex,
};
use serde_json::Value;

const READABLE: [&str; 11] = [
    "checkpoint.ckpt",
    "checkpoint_stream.ckpt",
    "checkpoint_protocol_4.ckpt",
    "checkpoint_protocol_5_stream.ckpt",
    "adapter.bin",
    "bare.pt",
    "list.pt",
    "repacked.bin",
    "tar.pt",
    "small.pt",
    "small_stream.pt",
];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/torch_files").join(name)
}

fn refusal(name: &str) -> TorchError {
    match TensorFile::open(&fixture(name)).unwrap_err() {
        error @ FormatError::Torch { .. } => {
            assert!(error.to_string().contains(name), "{error}");
            let FormatError::Torch { source, .. } = error else { unreachable!() };
            *source
        }
        other => panic!("{name}: {other}"),
    }
}

#[test]
fn tensors_are_those_that_torch_reads() {
    for name in READABLE {
        let file = TensorFile::open(&fixture(name)).unwrap();
        let expected = SafetensorsFile::open(&fixture(&format!("{name}.safetensors"))).unwrap();
        assert_eq!(file.tensors(), &expected.header().tensors, "{name}");
        for tensor in file.names() {
            assert_eq!(file.data(tensor).as_deref(), expected.data(tensor), "{name}: {tensor}");
        }
        assert_eq!(file.data("nothing of this name"), None);
        assert_eq!(file.file_len(), fs::metadata(fixture(name)).unwrap().len());
    }
}

fn json(value: &PlainValue) -> Option<Value> {
    (!matches!(value, PlainValue::Opaque(_))).then(|| serde_json::to_value(value).unwrap())
}

#[test]
fn plain_values_are_those_that_torch_reads() {
    let text = fs::read_to_string(fixture("values.json")).unwrap();
    let expected: BTreeMap<String, BTreeMap<String, Value>> = serde_json::from_str(&text).unwrap();
    assert!(READABLE.iter().all(|name| expected.contains_key(*name)));
    for name in READABLE {
        let file = TorchFile::open(&fixture(name)).unwrap();
        let values = file.values().iter().filter_map(|(name, value)| Some((name.clone(), json(value)?)));
        assert_eq!(values.collect::<BTreeMap<_, _>>(), expected[name], "{name}");
    }
}

#[test]
fn what_is_not_looked_into_is_named() {
    let file = TorchFile::open(&fixture("checkpoint.ckpt")).unwrap();
    let callback = "callbacks.pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint";
    for (name, class) in [
        ("hyper_parameters", "omegaconf.dictconfig.DictConfig"),
        ("namespace", "argparse.Namespace"),
        ("device", "torch.device"),
        ("dtype", "torch.float16"),
        ("bytes", "bytes"),
        ("array", "numpy._core.multiarray._reconstruct"),
        (&format!("{callback}.current"), "numpy._core.multiarray.scalar"),
        ("defaults", "collections.defaultdict"),
    ] {
        assert_eq!(file.values().get(name), Some(&PlainValue::Opaque(class.to_owned())), "{name}");
    }
}

#[test]
fn only_tensors_out_of_order_are_copied() {
    let file = TensorFile::open(&fixture("checkpoint.ckpt")).unwrap();
    let copied = file.names().filter(|name| matches!(file.data(name), Some(std::borrow::Cow::Owned(_))));
    let expected = ["channels_last", "every_second", "halves_swapped", "transposed"];
    assert!(copied.eq(expected.map(|name| format!("state_dict.{name}"))));
}

#[test]
fn tied_tensors_share_their_bytes() {
    let file = TensorFile::open(&fixture("checkpoint.ckpt")).unwrap();
    let at = |name: &str| file.data(&format!("state_dict.tied.{name}")).unwrap().as_ptr();
    assert_eq!(at("a"), at("b"));
    assert_eq!(at("tail"), at("a").wrapping_add(4 * 4));
}

#[test]
fn a_pickled_adapter_has_the_published_names() {
    let adapter = AdapterFile::open(&fixture("adapter.bin"), &AdapterOptions::default()).unwrap();
    let info = adapter.info();
    assert_eq!((info.num_tokens, info.num_layers, info.cross_attention_dim), (4, 2, 8));
    assert_eq!(adapter.dialect(), AdapterDialect::Published);
}

#[test]
fn safetensors_are_told_by_their_content() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.bin");
    fs::copy(fixture("adapter.bin.safetensors"), &path).unwrap();
    let file = TensorFile::open(&path).unwrap();
    assert!(matches!(&file, TensorFile::Safetensors(_)) && file.path() == path && file.metadata().is_empty());
    let other = TensorFile::open(&fixture("adapter.bin")).unwrap();
    assert_eq!(file.tensors(), other.tensors());
}

#[test]
fn a_safetensors_header_may_begin_like_a_pickle() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    let mut bytes = 0x0280u64.to_le_bytes().to_vec();
    bytes.extend(format!("{:640}", "{}").bytes());
    fs::write(&path, bytes).unwrap();
    assert!(matches!(TensorFile::open(&path), Ok(TensorFile::Safetensors(_))));
}

#[test]
fn what_would_run_is_refused_by_name() {
    for (name, expected) in [
        ("runs.pt", "posix.system"),
        ("runs_stream.pt", "posix.system"),
        ("module.pt", "torch.nn.modules.linear.Linear"),
    ] {
        let error = refusal(name);
        assert!(matches!(&error, TorchError::Refused { callable } if callable == expected), "{name}: {error}");
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn what_is_not_computed_with_is_refused_by_name() {
    for name in ["big_endian.pt", "big_endian_stream.pt", "big_endian_tar.pt"] {
        let error = refusal(name);
        assert!(matches!(error, TorchError::BigEndian), "{name}: {error}");
    }
    assert!(matches!(refusal("script.pt"), TorchError::Script));
    assert!(matches!(refusal("plain_pickle.pt"), TorchError::NotTorch));
    for (name, words) in [
        ("compressed.pt", ["small/data.pkl", "compressed"]),
        ("complex.pt", ["spectrum", "torch.ComplexFloatStorage"]),
        ("float8.pt", ["`small`", "torch.float8_e4m3fn"]),
        ("expanded.pt", ["expanded", "contiguous()"]),
        ("negated.pt", ["negated", "resolve_neg()"]),
    ] {
        let error = refusal(name).to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{name}: {error}");
    }
}

#[test]
fn files_that_are_no_weights_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(TensorFile::open(folder.path()), Err(FormatError::NotAFile { .. })));
    assert!(matches!(TorchFile::open(&folder.path().join("nowhere")), Err(FormatError::Read { .. })));
    let path = folder.path().join("weights.pt");
    for content in [&b""[..], b"PK\x03\x04", b"not weights", &[0; 600]] {
        fs::write(&path, content).unwrap();
        let error = TorchFile::open(&path).unwrap_err();
        assert!(matches!(error, FormatError::Torch { .. }) && error.source().is_some(), "{error}");
        assert!(TensorFile::open(&path).is_err());
    }
}

/// Every tensor of what was accepted must be there in full.
fn check(bytes: &[u8]) -> Result<(), TorchError> {
    let index = TorchIndex::new(bytes)?;
    for (name, info) in index.tensors() {
        let data = index.data(name, bytes).unwrap();
        assert_eq!(data.len(), info.num_bytes(), "{name}");
        assert!(data.len() <= bytes.len(), "{name} has more bytes than the file");
    }
    Ok(())
}

#[test]
fn every_truncation_is_refused() {
    for name in ["small.pt", "small_stream.pt"] {
        let bytes = fs::read(fixture(name)).unwrap();
        check(&bytes).unwrap();
        for len in 0..bytes.len() {
            assert!(TorchIndex::new(&bytes[..len]).is_err(), "{name} cut to {len}");
        }
    }
}

/// A tar archive ends in blocks of zeros that hold nothing.
#[test]
fn every_truncation_of_a_tar_archive_is_refused_or_whole() {
    let bytes = fs::read(fixture("tar.pt")).unwrap();
    let whole = TorchIndex::new(&bytes).unwrap();
    let last = bytes.iter().rposition(|&byte| byte != 0).unwrap();
    for len in 0..bytes.len() {
        match TorchIndex::new(&bytes[..len]) {
            Ok(index) => assert!(index.tensors() == whole.tensors() && len > last, "cut to {len}"),
            Err(error) => assert!(len <= last || len % 512 != 0, "cut to {len}: {error}"),
        }
    }
}

/// SplitMix64, <https://prng.di.unimi.it/splitmix64.c>.
struct Draws(u64);

impl Draws {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
}

fn mutated(original: &[u8], draws: &mut Draws) -> Vec<u8> {
    const TELLING: [u8; 12] = [0, 1, 0x7f, 0x80, 0xff, b'(', b'.', b'R', b'h', b'q', b't', b'c'];
    let mut bytes = original.to_vec();
    for _ in 0..=draws.below(4) {
        let place = draws.below(bytes.len());
        let len = draws.below(9).min(bytes.len() - place);
        match draws.below(6) {
            0 => bytes[place] ^= 1 << draws.below(8),
            1 => bytes[place] = TELLING[draws.below(TELLING.len())],
            2 => bytes[place..place + len].fill(0xff),
            3 => drop(bytes.drain(place..place + len)),
            4 => {
                let copy = bytes[place..place + len].to_vec();
                let target = draws.below(bytes.len());
                bytes.splice(target..target, copy);
            }
            _ => bytes.insert(place, draws.next() as u8),
        }
        if bytes.is_empty() {
            break;
        }
    }
    bytes
}

#[test]
fn mutations_are_read_whole_or_refused() {
    let mut draws = Draws(17);
    for name in READABLE.into_iter().chain(["runs.pt", "runs_stream.pt"]) {
        let original = fs::read(fixture(name)).unwrap();
        let num_refused = (0..5_000).filter(|_| check(&mutated(&original, &mut draws)).is_err()).count();
        assert!(num_refused > 1_000, "{name}: {num_refused}"); // the mutations do reach what matters
    }
}

#[test]
fn every_value_of_every_byte_of_a_small_file_is_read_whole_or_refused() {
    let original = fs::read(fixture("small_stream.pt")).unwrap();
    for place in 0..original.len() {
        for value in 0..=255 {
            let mut bytes = original.clone();
            bytes[place] = value;
            let _either = check(&bytes);
        }
    }
}
