//! What the program reads and writes: fixtures, models to be damaged, small data, tensors.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};

use image::{Rgb, RgbImage};
use ipa_formats::{Dtype, SafetensorsFile, TensorBytes, write_safetensors};
use serde_json::Value;
use tempfile::TempDir;

/// A file or folder of tests/fixtures.
pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures").join(name)
}

/// A part of the tiny random Stable Diffusion (tests/fixtures/tiny_sd.py); the whole of it for `""`.
pub(crate) fn tiny_sd(part: &str) -> PathBuf {
    fixture("tiny_sd").join(part)
}

/// The tiny model in a folder of its own, to be damaged.
pub(crate) fn make_model() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    copy_folder(&tiny_sd(""), folder.path());
    folder
}

/// Copies a folder's contents into another.
pub(crate) fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (entry, target) = (entry.as_ref().unwrap().path(), to.join(entry.as_ref().unwrap().file_name()));
        if entry.is_dir() {
            copy_folder(&entry, &target);
        } else {
            fs::copy(&entry, &target).unwrap();
        }
    }
}

/// A folder with the pictures a.png and b.png and a data.json of this text.
pub(crate) fn make_dataset(list: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, shade) in [("a.png", 40), ("b.png", 200)] {
        let pixel = |x, y| Rgb([(5 * x) as u8, (6 * y) as u8, shade]);
        RgbImage::from_fn(48, 40, pixel).save(folder.path().join(name)).unwrap();
    }
    fs::write(folder.path().join("data.json"), list).unwrap();
    folder
}

/// Two captioned pictures.
pub(crate) fn two_pictures() -> TempDir {
    make_dataset(r#"[{"image_file": "a.png", "text": "a cat"}, {"image_file": "./b.png", "text": "a small red star"}]"#)
}

/// Everything below a folder, files and folders, sorted; nothing if it is not there.
pub(crate) fn entries_below(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if entry.file_type().unwrap().is_dir() {
            found.extend(entries_below(&entry.path()).into_iter().map(|below| format!("{name}/{below}")));
        }
        found.push(name);
    }
    found.sort();
    found
}

/// Asserts that nothing lies below a folder that may itself be there or not.
#[track_caller]
pub(crate) fn assert_empty(folder: &Path) {
    assert_eq!(entries_below(folder), Vec::<String>::new());
}

/// The request that a picture carries.
pub(crate) fn request_of(picture: &Path) -> Option<Value> {
    let reader = png::Decoder::new(BufReader::new(File::open(picture).unwrap())).read_info().unwrap();
    let chunk = reader.info().utf8_text.iter().find(|chunk| chunk.keyword == "ipa")?;
    let record: Value = serde_json::from_str(&chunk.get_text().unwrap()).unwrap();
    Some(record["request"].clone())
}

/// Writes the request that a picture carries as a request file.
pub(crate) fn write_request_of(picture: &Path, file: &Path) {
    let mut request = request_of(picture).unwrap();
    request.as_object_mut().unwrap().retain(|_, value| !value.is_null()); // TOML leaves out what is not set
    fs::write(file, toml::to_string(&request).unwrap()).unwrap();
}

/// Cuts a file in half.
pub(crate) fn cut(path: &Path) {
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_len(file.metadata().unwrap().len() / 2).unwrap();
}

/// Changes a JSON file.
pub(crate) fn edit_json(path: &Path, edit: impl FnOnce(&mut Value)) {
    let mut value = read_json(path);
    edit(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

/// Reads a JSON file.
pub(crate) fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The tensors of a safetensors file, to be written again; sorted by name.
pub(crate) fn read_tensors(path: &Path) -> Vec<TensorBytes<'static>> {
    let file = SafetensorsFile::open(path).unwrap();
    let tensor = |name: &str| {
        let info = file.info(name).unwrap();
        let data = file.data(name).unwrap().to_vec().into();
        TensorBytes { name: name.to_owned(), dtype: info.dtype, shape: info.shape, data }
    };
    file.names().map(tensor).collect()
}

/// Writes tensors to a safetensors file.
pub(crate) fn write_tensors(path: &Path, tensors: Vec<TensorBytes>) {
    write_safetensors(path, tensors, None).unwrap();
}

/// Changes the tensors of a safetensors file.
pub(crate) fn edit_tensors(path: &Path, edit: impl FnOnce(&mut Vec<TensorBytes<'static>>)) {
    let mut tensors = read_tensors(path);
    edit(&mut tensors);
    write_tensors(path, tensors);
}

/// A tensor of zeros in f32.
pub(crate) fn zeros(name: &str, shape: &[usize]) -> TensorBytes<'static> {
    let bytes = vec![0; shape.iter().product::<usize>() * Dtype::F32.size()];
    TensorBytes { name: name.to_owned(), dtype: Dtype::F32, shape: shape.to_vec(), data: bytes.into() }
}

/// The names and shapes of a safetensors file.
pub(crate) fn shapes(path: &Path) -> BTreeMap<String, Vec<usize>> {
    read_tensors(path).into_iter().map(|tensor| (tensor.name, tensor.shape)).collect()
}

/// Shape and values of a tensor in f32.
pub(crate) struct Values {
    pub(crate) shape: Vec<usize>,
    pub(crate) values: Vec<f32>,
}

/// Reads the f32 tensors of a safetensors file.
pub(crate) fn read_values(path: &Path) -> BTreeMap<String, Values> {
    let values = |TensorBytes { name, shape, data, .. }: TensorBytes| {
        let number = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().unwrap());
        (name, Values { shape, values: data.chunks_exact(4).map(number).collect() })
    };
    read_tensors(path).into_iter().filter(|tensor| tensor.dtype == Dtype::F32).map(values).collect()
}

/// `max |found − expected| / max |expected|`; infinite if a number is none.
#[track_caller]
pub(crate) fn relative_error(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    if found.iter().chain(expected).any(|value| !value.is_finite()) {
        return f64::INFINITY;
    }
    let largest = |values: &mut dyn Iterator<Item = f64>| values.fold(0.0, f64::max);
    let difference = largest(&mut found.iter().zip(expected).map(|(a, b)| f64::from((a - b).abs())));
    difference / largest(&mut expected.iter().map(|value| f64::from(value.abs())))
}
