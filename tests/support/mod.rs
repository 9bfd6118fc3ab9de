//! What the test files share: fixtures, the tiny model's folder, and closeness.
#![allow(dead_code)] // each test file uses a part

pub(crate) mod runs;

use std::collections::BTreeMap;
use std::ops::Index;
use std::path::{Path, PathBuf};

use ipa_adapter::IpAdapter;
use ipa_core::tch::{Device, Kind, Tensor};
use ipa_core::{Checkpoint, save_tensors};
use ipa_unet::UnetConfig;

/// What every fixture was computed in.
pub(crate) const F32: (Device, Kind) = (Device::Cpu, Kind::Float);

/// How far f32 results may lie from the reference's, relative to the largest value. Orders of summation differ by
/// at most 1.2e-6 for these models.
pub(crate) const TOLERANCE: f64 = 1e-5;

/// A file or folder of tests/fixtures.
pub(crate) fn fixture_path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// A part of the tiny random Stable Diffusion (tests/fixtures/tiny_sd.py); the whole of it for `""`.
pub(crate) fn tiny_sd(part: &str) -> PathBuf {
    fixture_path("tiny_sd").join(part)
}

/// A model of tests/fixtures whose folder holds what differs from the tiny Stable Diffusion, completed by that.
pub(crate) fn completed(model: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for source in [tiny_sd(""), fixture_path(model)] {
        for part in std::fs::read_dir(source).unwrap().map(|entry| entry.unwrap().path()) {
            let target = folder.path().join(part.file_name().unwrap());
            match part.is_dir() {
                true => copy_files(&part, &target),
                false => drop(std::fs::copy(&part, &target).unwrap()),
            }
        }
    }
    folder
}

/// Copies the files of a folder, which replace those of the target.
fn copy_files(source: &Path, target: &Path) {
    std::fs::create_dir_all(target).unwrap();
    for file in std::fs::read_dir(source).unwrap().map(|entry| entry.unwrap().path()) {
        std::fs::copy(&file, target.join(file.file_name().unwrap())).unwrap();
    }
}

/// The tensors of one safetensors file, by name.
pub(crate) struct Fixture(BTreeMap<String, Tensor>);

impl Fixture {
    /// Opens `tests/fixtures/<name>.safetensors`.
    pub(crate) fn open(name: &str) -> Self {
        Self::read(&fixture_path(&format!("{name}.safetensors")))
    }

    /// Reads a safetensors file wherever it lies.
    pub(crate) fn read(path: &Path) -> Self {
        let checkpoint = Checkpoint::open(path).unwrap();
        Self(checkpoint.names().map(|name| (name.to_owned(), checkpoint.tensor(name).unwrap())).collect())
    }

    /// The names of its tensors, sorted.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

impl Index<&str> for Fixture {
    type Output = Tensor;

    #[track_caller]
    fn index(&self, name: &str) -> &Tensor {
        self.0.get(name).unwrap_or_else(|| panic!("the fixture has no `{name}`"))
    }
}

impl IntoIterator for Fixture {
    type Item = (String, Tensor);
    type IntoIter = <BTreeMap<String, Tensor> as IntoIterator>::IntoIter;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// The adapter that a file with these tensors holds.
pub(crate) fn adapter_of(tensors: impl IntoIterator<Item = (String, Tensor)>, unet: &UnetConfig) -> IpAdapter {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ip_adapter.safetensors");
    save_tensors(&path, tensors, None).unwrap();
    IpAdapter::load(&path, unet, F32).unwrap()
}

/// The largest difference of two pictures, in levels of 255.
#[track_caller]
pub(crate) fn levels(found: &image::RgbImage, expected: &image::RgbImage) -> u8 {
    assert_eq!(found.dimensions(), expected.dimensions());
    found.as_raw().iter().zip(expected.as_raw()).map(|(a, b)| a.abs_diff(*b)).max().unwrap()
}

/// `max |found − expected| / max |expected|`; not a number if either holds such.
#[track_caller]
pub(crate) fn relative_error(found: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(found.size(), expected.size(), "shapes differ");
    let (found, expected) = (found.detach().to_kind(Kind::Double), expected.detach().to_kind(Kind::Double));
    ((found - &expected).abs().max() / expected.abs().max()).double_value(&[])
}

/// Asserts that the largest difference is at most `tolerance` of the largest value expected.
#[track_caller]
pub(crate) fn assert_close(found: &Tensor, expected: &Tensor, tolerance: f64) {
    let error = relative_error(found, expected);
    assert!(error <= tolerance, "relative error {error:.2e}, allowed {tolerance:.0e}");
}

/// Asserts that every value differs by at most `tolerance` of itself, for values of many magnitudes.
#[track_caller]
pub(crate) fn assert_each_close(found: &Tensor, expected: &Tensor, tolerance: f64) {
    assert_eq!(found.size(), expected.size(), "shapes differ");
    let (found, expected) = (found.detach().to_kind(Kind::Double), expected.detach().to_kind(Kind::Double));
    let excess = (found - &expected).abs() - expected.abs() * tolerance;
    let worst = excess.max().double_value(&[]);
    assert!(worst <= 0.0, "a value lies {worst:.2e} beyond {tolerance:.0e} of itself");
}
