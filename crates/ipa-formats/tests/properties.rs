//! What holds for every file, by trying many: bytes of strangers are read or refused, and names go both ways.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use ipa_formats::{
    AdapterOptions, Component, FolderTensors, LoraDialect, ModelConversion, ModelConversionOptions, ModelForm,
    Numbering, SafetensorsFile, SingleFileOptions, TensorInfo, TorchIndex, convert_lora, inspect, plan_single_file,
    read_header, read_single_file, read_vectors, recognise_adapter,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

type Tensors = BTreeMap<String, TensorInfo>;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures").join(name)
}

fn bytes(name: &str) -> Vec<u8> {
    fs::read(fixture(name)).unwrap()
}

/// Bytes of `original` with some overwritten, some inserted, and perhaps the end cut off.
fn broken(original: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    let change = (any::<Index>(), any::<u8>(), any::<bool>());
    (vec(change, 0..12), any::<Index>(), any::<bool>()).prop_map(move |(changes, end, cut)| {
        let mut bytes = original.clone();
        for (place, byte, insert) in changes {
            let place = place.index(bytes.len());
            match insert {
                true => bytes.insert(place, byte),
                false => bytes[place] = byte,
            }
        }
        bytes.truncate(if cut { end.index(bytes.len()) } else { bytes.len() });
        bytes
    })
}

fn assert_read_or_refused(bytes: &[u8]) {
    if let Ok(index) = TorchIndex::new(bytes) {
        for (name, info) in index.tensors() {
            assert_eq!(index.data(name, bytes).unwrap().len(), info.num_bytes());
        }
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), bytes).unwrap();
    if let Ok(safetensors) = SafetensorsFile::open(file.path()) {
        for name in safetensors.names() {
            assert_eq!(safetensors.data(name).unwrap().len(), safetensors.info(name).unwrap().num_bytes());
        }
        assert!(read_header(file.path()).is_ok());
    }
    let _ = inspect(file.path());
    for form in [ModelForm::Folder, ModelForm::SingleFile] {
        let options = ModelConversionOptions { allow_missing: true, ..ModelConversionOptions::default() };
        let _ = ModelConversion::plan(file.path(), form, &options).map(|model| model.report());
    }
    for dialect in [LoraDialect::Diffusers, LoraDialect::Kohya] {
        let _ = convert_lora(file.path(), dialect, None).map(|lora| lora.report(None));
    }
}

fn tiny(name: &str) -> Tensors {
    let file = SafetensorsFile::open(&fixture(&format!("single_file/{name}.safetensors"))).unwrap();
    file.header().tensors.clone()
}

/// The folder's tensors by component.
fn folder(tensors: &Tensors) -> Result<BTreeMap<Component, Tensors>, ipa_formats::SingleFileError> {
    let options = SingleFileOptions { whole_text_tower: true, ..SingleFileOptions::default() };
    let mut folder = BTreeMap::<Component, Tensors>::new();
    for plan in read_single_file(tensors, &options)?.plans {
        folder.entry(plan.component).or_default().insert(plan.name, plan.info);
    }
    Ok(folder)
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(start in select(vec![&b""[..], b"PK\x03\x04", b"\x80\x02", b"\x40\0\0\0\0\0\0\0{"]), rest in vec(any::<u8>(), 0..512)) {
        assert_read_or_refused(&[start, &rest].concat());
    }

    #[test]
    fn broken_torch_files_are_read_or_refused(bytes in select(vec![
        "torch_files/small.pt", "torch_files/tar.pt", "torch_files/small_stream.pt", "torch_files/list.pt",
    ]).prop_flat_map(|name| broken(bytes(name)))) {
        assert_read_or_refused(&bytes);
    }

    #[test]
    fn broken_safetensors_are_read_or_refused(bytes in select(vec![
        "models/tokens.json", "training/adamw.safetensors", "single_file/tiny_v1.safetensors",
    ]).prop_flat_map(|name| broken(bytes(name).into_iter().take(4096).collect()))) {
        assert_read_or_refused(&bytes);
    }

    /// With any of its tensors gone, of another size or under another name, an adapter is refused, or is a whole one.
    #[test]
    fn adapters_with_holes_are_recognised_or_refused(
        name in select(vec!["tiny_sd/ip_adapter", "faces/face_id", "faces/face_id_plus", "research/prefusion"]),
        changed in vec((any::<Index>(), select(vec!["", "module.", "unet.", "x"]), vec(0usize..80, 0..4)), 1..3),
    ) {
        let file = SafetensorsFile::open(&fixture(&format!("{name}.safetensors"))).unwrap();
        let mut tensors = file.header().tensors.clone();
        for (index, prefix, shape) in changed {
            let name = tensors.keys().nth(index.index(tensors.len())).unwrap().clone();
            let info = tensors.remove(&name).unwrap();
            if !prefix.is_empty() {
                tensors.insert(format!("{prefix}{name}"), TensorInfo { shape, ..info });
            }
        }
        for numbering in [Numbering::Published, Numbering::Dense] {
            let options = AdapterOptions { numbering, variant: None };
            if let Ok(info) = recognise_adapter(&tensors, &options) {
                prop_assert!(info.num_tokens > 0 && info.cross_attention_dim > 0);
            }
        }
    }

    #[test]
    fn broken_vectors_are_read_or_refused(
        header in "\\{'descr': '[<>|][fiuU][1248]', 'fortran_order': (True|False), 'shape': \\([0-9, ]{0,12}\\), \\}",
        data in vec(any::<u8>(), 0..64),
    ) {
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend(u16::try_from(header.len() + 1).unwrap().to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.push(b'\n');
        bytes.extend(data);
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), bytes).unwrap();
        if let Ok(vectors) = read_vectors(file.path()) {
            prop_assert_eq!(vectors.data.len(), vectors.rows * vectors.width);
            prop_assert!(vectors.data.iter().all(|value| value.is_finite()));
        }
    }

    /// With any of its tensors gone or of another size, a checkpoint is refused or mapped, and what is mapped goes back.
    #[test]
    fn single_files_with_holes_are_mapped_or_refused(
        name in select(vec!["tiny_v1", "tiny_v2"]),
        gone in vec(any::<Index>(), 0..3),
        resized in vec((any::<Index>(), vec(0usize..5, 0..5)), 0..3),
    ) {
        let mut tensors = tiny(name);
        for index in gone {
            let name = tensors.keys().nth(index.index(tensors.len())).unwrap().clone();
            tensors.remove(&name);
        }
        for (index, shape) in resized {
            let name = tensors.keys().nth(index.index(tensors.len())).unwrap().clone();
            tensors.get_mut(&name).unwrap().shape = shape;
        }
        if let Ok(folder) = folder(&tensors) {
            let of = |component| folder.get(&component);
            let _ = plan_single_file(&FolderTensors {
                unet: of(Component::Unet),
                vae: of(Component::Vae),
                text_encoder: of(Component::TextEncoder),
                version: None,
            });
        }
    }

    /// Prefixes of wrappers and missing components change nothing about what is left.
    #[test]
    fn parts_of_a_checkpoint_are_what_they_are_in_the_whole(
        name in select(vec!["tiny_v1", "tiny_v2"]),
        kept in select(vec![["model.diffusion_model.", "first_stage_model."], ["model.diffusion_model.", "cond_stage_model."], ["first_stage_model.", "cond_stage_model."]]),
        wrapper in select(vec!["", "state_dict.", "module.model."]),
    ) {
        let whole = folder(&tiny(name)).unwrap();
        let part = tiny(name).into_iter().filter(|(name, _)| kept.iter().any(|start| name.starts_with(start)));
        let wrapped: Tensors = part.map(|(name, info)| (format!("{wrapper}{name}"), info)).collect();
        let part = folder(&wrapped).unwrap();
        prop_assert_eq!(part.len(), 2);
        for (component, tensors) in part {
            // A UNet alone does not show the generation of a tower that is not there; its tensors are the same.
            prop_assert_eq!(Some(&tensors), whole.get(&component));
        }
    }
}
