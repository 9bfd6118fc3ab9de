//! Torch files made to run code, to exhaust memory, or to reach beyond themselves: none is converted, each is named.
#![allow(clippy::unwrap_used)]

#[path = "support/attacks.rs"]
mod attacks;
#[path = "support/counting.rs"]
mod counting;
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fs;
use std::path::Path;

use attacks::{Answer, table};
use ipa_formats::{
    FormatError, LoraDialect, ModelConversion, ModelConversionOptions, ModelForm, TorchIndex, convert_lora,
};

/// No attack needs a larger file: every limit is reached with fewer bytes.
const MAX_FILE_BYTES: usize = 20 << 20;
/// What reading may allocate beside a small multiple of the file.
const SMALL_BYTES: usize = 64 << 10;
/// What it may allocate at most where as many objects as there may be are made.
const MOST_BYTES: usize = 160 << 20;

/// All files below a folder with their lengths.
fn files(folder: &Path) -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let name = entry.path().display().to_string();
        match entry.path().is_dir() {
            true => found.extend(files(&entry.path()).into_iter().chain([(name, 0)])),
            false => drop(found.insert(name, entry.metadata().unwrap().len())),
        }
    }
    found
}

/// The error and its causes.
fn chain(error: &FormatError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text += &format!("; {cause}");
        source = cause.source();
    }
    text
}

/// One test, since the count of what is allocated is of the whole process.
#[test]
fn every_attack_is_refused_by_name_within_bounds_and_nothing_is_written() {
    let cases = table();
    let names: BTreeSet<&String> = cases.iter().map(|(name, ..)| name).collect();
    assert!(names.len() == cases.len() && cases.len() >= 300, "{} of {}", names.len(), cases.len());
    let place = tempfile::tempdir().unwrap();
    let (input, output) = (place.path().join("in/model.ckpt"), place.path().join("out/deep/model"));
    fs::create_dir_all(input.parent().unwrap()).unwrap();
    fs::create_dir_all(output.parent().unwrap()).unwrap();
    let mut most = 0;
    for (name, bytes, answer) in &cases {
        assert!(bytes.len() <= MAX_FILE_BYTES, "{name}: {} bytes", bytes.len());
        let (peak, read) = counting::peak(|| TorchIndex::new(bytes).map(|index| index.tensors().len()));
        most = most.max(peak);
        let bound = if matches!(answer, Answer::SaysLate(_)) { MOST_BYTES } else { 4 * bytes.len() + SMALL_BYTES };
        assert!(peak <= bound, "{name}: {peak} bytes allocated for a file of {}", bytes.len());
        let expected = match (answer, read) {
            (Answer::Says(says) | Answer::SaysLate(says), Err(error)) => {
                assert!(error.to_string().contains(says), "{name}: {error}");
                says
            }
            (Answer::Inert, Ok(0)) => "no tensors",
            (_, read) => panic!("{name}: {read:?}"),
        };

        fs::write(&input, bytes).unwrap();
        let before = files(place.path());
        let options = ModelConversionOptions::default();
        let refusals = [
            ModelConversion::plan(&input, ModelForm::SingleFile, &options).and_then(|model| model.write(&output)),
            ModelConversion::plan(&input, ModelForm::Folder, &options).and_then(|model| model.write(&output)),
            convert_lora(&input, LoraDialect::Diffusers, None).and_then(|lora| lora.write(&output, None, None)),
        ]
        .map(|refusal| chain(&refusal.expect_err(name)));
        assert!(refusals[0].contains(expected) && refusals[0].contains("model.ckpt"), "{name}: {}", refusals[0]);
        if !matches!(answer, Answer::Inert) {
            assert!(refusals.iter().all(|refusal| refusal.contains(expected)), "{name}: {refusals:?}");
        }
        assert_eq!(files(place.path()), before, "{name}");
    }
    println!("{} attacks, at most {most} bytes allocated", cases.len());
}
