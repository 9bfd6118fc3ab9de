//! What a file holds, to be compared and changed.
#![allow(dead_code)] // each test file uses its own part

use std::collections::BTreeMap;
use std::path::Path;

use ipa_formats::{TensorBytes, TensorInfo, Weights, write_safetensors};

/// Element type, shape and bytes by name.
pub(crate) type Contents = BTreeMap<String, (TensorInfo, Vec<u8>)>;

pub(crate) fn contents(path: &Path) -> Contents {
    let weights = Weights::open(path).unwrap();
    let tensor =
        |name: &str| (name.to_owned(), (weights.info(name).unwrap().clone(), weights.data(name).unwrap().into_owned()));
    weights.names().map(tensor).collect()
}

pub(crate) fn save(path: &Path, contents: &Contents) {
    let tensor = |(name, (info, data)): (&String, &(TensorInfo, Vec<u8>))| TensorBytes {
        name: name.clone(),
        dtype: info.dtype,
        shape: info.shape.clone(),
        data: data.clone().into(),
    };
    write_safetensors(path, contents.iter().map(tensor).collect(), None).unwrap();
}
