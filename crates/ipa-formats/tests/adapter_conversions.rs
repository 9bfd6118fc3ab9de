//! An adapter is the same to the byte whichever way it went, and what trainers leave becomes one.
#![allow(clippy::unwrap_used)]

#[path = "support/contents.rs"]
mod contents;
#[path = "support/published.rs"]
mod published;

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use contents::{contents, save};
use ipa_formats::{
    AdapterConversion, AdapterDialect, AdapterKind, AdapterLora, AdapterOptions, AdapterVariant, ConvertedAdapter,
    Dtype, FormatError, LoraDialect, SafetensorsFile, TensorBytes, TensorFile, TensorInfo, UnetLayers, convert_adapter,
    read_json, sha256_file, write_safetensors,
};
use proptest::prelude::*;
use published::{Sizes, adapter, info};
use serde_json::{Value, json};

const DIALECTS: [AdapterDialect; 4] =
    [AdapterDialect::Published, AdapterDialect::Trainer, AdapterDialect::Processors, AdapterDialect::Diffusers];

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/trainer_checkpoints")
}

fn to(dialect: AdapterDialect) -> AdapterConversion {
    AdapterConversion { to: dialect, ..AdapterConversion::default() }
}

fn convert(input: &Path, output: &Path, options: &AdapterConversion) -> Result<ConvertedAdapter, FormatError> {
    let converted = convert_adapter(input, options)?;
    converted.adapter.write(output, None, Some(&converted.metadata))?;
    Ok(converted)
}

/// Writes tensors filled with numbers that depend on name and place.
fn write(path: &Path, tensors: &published::Tensors, metadata: Option<&Value>) {
    let tensor = |(name, info): (&String, &TensorInfo)| {
        let seed = name.bytes().fold(7u32, |seed, byte| seed.wrapping_mul(31).wrapping_add(u32::from(byte)));
        let byte = |place: u32| (seed.wrapping_add(place).wrapping_mul(2_654_435_761) >> 24) as u8;
        TensorBytes {
            name: name.clone(),
            dtype: info.dtype,
            shape: info.shape.clone(),
            data: (0..info.num_bytes() as u32).map(byte).collect::<Vec<_>>().into(),
        }
    };
    write_safetensors(path, tensors.iter().map(tensor).collect(), metadata).unwrap();
}

fn reason(error: &FormatError) -> String {
    error.source().map(ToString::to_string).unwrap_or_default()
}

/// A UNet of random blocks.
fn unet() -> impl Strategy<Value = Value> {
    let blocks = proptest::collection::vec((any::<bool>(), 1..3_usize, 1..4_usize), 1..4);
    (blocks, any::<bool>()).prop_map(|(blocks, mid)| {
        let of = |attends: &str, plain: &str| -> Vec<String> {
            blocks.iter().map(|(attend, ..)| if *attend { attends } else { plain }.to_owned()).collect()
        };
        let up: Vec<String> = of("CrossAttnUpBlock2D", "UpBlock2D").into_iter().rev().collect();
        json!({
            "down_block_types": of("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": up,
            "layers_per_block": blocks.iter().map(|(_, layers, _)| layers).collect::<Vec<_>>(),
            "transformer_layers_per_block": blocks.iter().map(|(.., depth)| depth).collect::<Vec<_>>(),
            "mid_block_type": if mid { Some("UNetMidBlock2DCrossAttn") } else { None },
        })
    })
}

prop_compose! {
    fn sizes()(
        unet in unet(), context in 2..9_usize, input in 2..9_usize, face in 2..7_usize, face_hidden in 2..7_usize,
        tokens in 2..6_usize, width in 2..9_usize, heads in 1..3_usize, depth in 1..12_usize, rank in 1..4_usize,
        widths in proptest::collection::vec(1..9_usize, 64),
    ) -> (UnetLayers, Sizes) {
        let layers = UnetLayers::from_config(&unet).unwrap();
        let widths = (0..layers.len()).map(|layer| widths[layer % widths.len()]).collect();
        (layers, Sizes { layers: widths, context, input, face, face_hidden, tokens, width, heads, depth, rank })
    }
}

fn with_prefusion(mut tensors: published::Tensors, context: usize) -> published::Tensors {
    for (name, shape) in [("norm.weight", &[context][..]), ("norm.bias", &[context])] {
        tensors.insert(format!("prefusion.{name}"), info(shape));
    }
    for name in ["to_q", "to_k", "to_v", "to_out"] {
        tensors.insert(format!("prefusion.{name}.weight"), info(&[context, context]));
    }
    tensors
}

/// Every variant at these sizes.
fn variants(sizes: &Sizes) -> Vec<(AdapterVariant, published::Tensors)> {
    use AdapterKind::*;
    let of = |kind| adapter(kind, sizes);
    let projection = |kind| published::projection(kind, sizes);
    vec![
        (AdapterVariant::Base, of(Classic)),
        (AdapterVariant::Plus, of(Plus)),
        (AdapterVariant::FullFace, of(FullFace)),
        (AdapterVariant::FaceId, of(FaceId)),
        (AdapterVariant::FaceIdPlus, of(FaceIdPlus)),
        (AdapterVariant::FaceIdPlusV2, of(FaceIdPlusV2)),
        (AdapterVariant::Portrait, of(Portrait)),
        (AdapterVariant::PortraitUnnorm, of(PortraitUnnorm)),
        (AdapterVariant::Prefusion, with_prefusion(of(Plus), sizes.context)),
        (AdapterVariant::Simple, projection(Classic)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_way_round_is_the_identity((layers, sizes) in sizes()) {
        prop_assume!(!layers.is_empty());
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(format!("{name}.safetensors"));
        let options = |dialect| AdapterConversion { layers: Some(layers.clone()), ..to(dialect) };
        for (variant, tensors) in variants(&sizes) {
            write(&at("in"), &tensors, Some(&json!({"variant": variant.name()})));
            convert(&at("in"), &at("start"), &options(AdapterDialect::Published)).unwrap();
            prop_assert_eq!(contents(&at("start")), contents(&at("in")));
            let bytes = fs::read(at("start")).unwrap();
            for first in DIALECTS {
                convert(&at("in"), &at("first"), &options(first)).unwrap();
                for second in DIALECTS {
                    let converted = convert(&at("first"), &at("second"), &options(second)).unwrap();
                    prop_assert_eq!(converted.info.unwrap().variant(), variant);
                    convert(&at("second"), &at("end"), &options(AdapterDialect::Published)).unwrap();
                    prop_assert_eq!(&fs::read(at("end")).unwrap(), &bytes, "{} {:?} {:?}", variant, first, second);
                }
            }
        }
    }

    #[test]
    fn a_lora_split_off_and_joined_again_is_the_same((layers, sizes) in sizes()) {
        prop_assume!(!layers.is_empty());
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(format!("{name}.safetensors"));
        for kind in [AdapterKind::FaceId, AdapterKind::FaceIdPlus] {
            write(&at("in"), &adapter(kind, &sizes), Some(&json!({"variant": variant_of(kind)})));
            for names in [LoraDialect::Kohya, LoraDialect::Diffusers] {
                let options = |lora| AdapterConversion { layers: Some(layers.clone()), lora, ..Default::default() };
                let split = convert(&at("in"), &at("apart"), &options(AdapterLora::Split(names))).unwrap();
                split.lora.unwrap().write(&at("lora"), None, None).unwrap();
                prop_assert!(contents(&at("apart")).keys().all(|name| !name.contains("_lora")));
                convert(&at("apart"), &at("whole"), &options(AdapterLora::Join(at("lora")))).unwrap();
                prop_assert_eq!(contents(&at("whole")), contents(&at("in")));
            }
        }
    }
}

fn variant_of(kind: AdapterKind) -> &'static str {
    AdapterVariant::of(kind, Default::default()).name()
}

#[test]
fn what_the_reference_trainers_save_becomes_their_adapter() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("trained_ip_adapter.safetensors");
    for (file, left_out) in [
        ("base/model.safetensors", 0),
        ("plus/model.safetensors", 0),
        ("faceid/model.safetensors", 0),
        ("base/pytorch_model.bin", 8),
        ("base/data_parallel.bin", 8),
        ("base/mp_rank_00_model_states.pt", 8),
    ] {
        let input = fixtures().join(file);
        let converted = convert(&input, &output, &AdapterConversion::default()).unwrap();
        let expected = input.with_file_name("expected.safetensors");
        assert_eq!(contents(&output), contents(&expected), "{file}");
        let report = converted.adapter.report(None);
        let opened = TensorFile::open(&input).unwrap();
        let dropped = report.dropped.iter().filter(|dropped| opened.info(&dropped.name).is_some()).count();
        let read: usize = report.tensors.iter().map(|moved| moved.from.len()).sum();
        assert_eq!(read + dropped, opened.names().count(), "{file}: every tensor is accounted for");
        let again = report.dropped.iter().filter(|dropped| dropped.reason.starts_with("the same tensor as")).count();
        assert_eq!(again, left_out, "{file}");
        assert!(report.missing.is_empty());
        for dialect in DIALECTS {
            let other = folder.path().join("other.safetensors");
            convert(&input, &other, &to(dialect)).unwrap();
            assert_eq!(
                contents(&other).len(),
                contents(&expected).len() + if dialect == AdapterDialect::Diffusers { halves(&expected) } else { 0 }
            );
        }
    }
}

/// Matrices that are two tensors in diffusers.
fn halves(path: &Path) -> usize {
    contents(path).keys().filter(|name| name.ends_with(".to_kv.weight")).count()
}

#[test]
fn what_is_no_tensor_is_told() {
    let input = fixtures().join("base/mp_rank_00_model_states.pt");
    let report = convert_adapter(&input, &AdapterConversion::default()).unwrap().adapter.report(None);
    let told = report.dropped.iter().find(|dropped| dropped.name == "ds_version").unwrap();
    assert_eq!(told.reason, "a text, no tensor");
}

#[test]
fn an_adapter_is_found_inside_what_was_saved_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("in.safetensors"), folder.path().join("out.safetensors"));
    let tensors = adapter(AdapterKind::Plus, &Sizes::tiny());
    for wrapper in ["state_dict.", "model.", "state_dict.module.", "module."] {
        let wrapped = tensors.iter().map(|(name, info)| (format!("{wrapper}{name}"), info.clone())).collect();
        write(&input, &wrapped, None);
        convert(&input, &output, &AdapterConversion::default()).unwrap();
        assert!(contents(&output).keys().eq(tensors.keys()), "{wrapper}");
    }
}

#[test]
fn a_layer_that_is_lost_is_missed() {
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("in.safetensors"), folder.path().join("out.safetensors"));
    write(&input, &adapter(AdapterKind::Classic, &Sizes::tiny()), None);
    for dialect in [AdapterDialect::Processors, AdapterDialect::Diffusers] {
        convert(&input, &output, &to(dialect)).unwrap();
        let whole = contents(&output);
        for lost in ["down_blocks.1.attentions.0.", "down_blocks.2.attentions.1.", "mid_block.", "up_blocks.3."] {
            let mut kept = whole.clone();
            kept.retain(|name, _| !name.contains(lost));
            let path = folder.path().join("lost.safetensors");
            save(&path, &kept);
            let error = reason(&convert(&path, &output, &AdapterConversion::default()).unwrap_err());
            assert!(
                error.contains(lost.trim_end_matches('.')) && error.contains("--unet-config"),
                "{dialect:?} {lost}: {error}"
            );
        }
    }
}

#[test]
fn copies_that_differ_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("model.safetensors"), folder.path().join("out.safetensors"));
    let mut dump = contents(&fixtures().join("base/pytorch_model.bin"));
    dump.get_mut("adapter_modules.3.to_v_ip.weight").unwrap().1[0] ^= 1;
    save(&input, &dump);
    let error = convert(&input, &output, &AdapterConversion::default()).unwrap_err();
    assert!(reason(&error).contains("adapter_modules.3.to_v_ip.weight") && reason(&error).contains("differ"));
    assert!(!output.exists());
}

#[test]
fn an_adapter_that_is_not_whole_is_written_on_request_only() {
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("in.safetensors"), folder.path().join("out.safetensors"));
    let lenient = AdapterConversion { allow_missing: true, ..AdapterConversion::default() };
    for (kind, gone) in [
        (AdapterKind::Classic, &["ip_adapter.1.to_k_ip.weight"][..]),
        (AdapterKind::Classic, &["ip_adapter.31.to_k_ip.weight", "ip_adapter.31.to_v_ip.weight"]),
        (AdapterKind::Plus, &["image_proj.layers.1.0.to_kv.weight"]),
        (AdapterKind::FaceId, &["ip_adapter.0.to_q_lora.up.weight", "ip_adapter.5.to_v_ip.weight"]),
    ] {
        let sizes = Sizes { context: 768, layers: Sizes::sd15().layers, rank: 2, ..Sizes::tiny() };
        let mut tensors = adapter(kind, &sizes);
        gone.iter().for_each(|name| assert!(tensors.remove(*name).is_some()));
        write(&input, &tensors, None);
        // A UNet without a middle block may have fifteen layers.
        if gone[0] != "ip_adapter.31.to_k_ip.weight" {
            let error = convert(&input, &output, &AdapterConversion::default()).unwrap_err();
            assert!(gone.iter().any(|name| reason(&error).contains(name)), "{}", reason(&error));
            assert!(!output.exists());
        }
        let converted = convert(&input, &output, &lenient).unwrap();
        let missing: BTreeSet<&str> = converted.adapter.missing().iter().map(String::as_str).collect();
        assert!(missing.iter().eq(gone));
        assert!(converted.info.is_none());
        assert_eq!(contents(&output), contents(&input));
        fs::remove_file(&output).unwrap();
    }
    let mut tensors = adapter(AdapterKind::Classic, &Sizes::tiny());
    tensors.retain(|name, _| name.starts_with("image_proj."));
    write(&input, &tensors, None);
    let empty = convert(&input, &output, &lenient).unwrap();
    assert_eq!(contents(&output).len(), 4);
    assert!(empty.info.is_none());
}

#[test]
fn foreign_tensors_are_left_out_on_request_only() {
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("in.safetensors"), folder.path().join("out.safetensors"));
    let mut tensors = adapter(AdapterKind::Classic, &Sizes::tiny());
    tensors.insert("logit_scale".to_owned(), info(&[1]));
    write(&input, &tensors, None);
    let strict = convert(&input, &output, &AdapterConversion::default()).unwrap_err();
    assert!(reason(&strict).contains("`logit_scale`"));
    let lenient = AdapterConversion { drop_unknown: true, ..AdapterConversion::default() };
    let report = convert(&input, &output, &lenient).unwrap().adapter.report(None);
    assert_eq!(report.dropped.iter().map(|dropped| dropped.name.as_str()).collect::<Vec<_>>(), ["logit_scale"]);
    tensors.remove("logit_scale");
    assert!(contents(&output).keys().eq(tensors.keys()));
}

#[test]
fn names_by_place_need_the_unet_that_is_not_published() {
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("in.safetensors"), folder.path().join("out.safetensors"));
    write(&input, &adapter(AdapterKind::Classic, &Sizes { layers: vec![4; 3], ..Sizes::tiny() }), None);
    for dialect in [AdapterDialect::Processors, AdapterDialect::Diffusers] {
        let error = reason(&convert(&input, &output, &to(dialect)).unwrap_err());
        assert!(error.contains("3 layers") && error.contains("--unet-config"), "{error}");
        let other = AdapterConversion { layers: UnetLayers::of_family(16), ..to(dialect) };
        let error = reason(&convert(&input, &output, &other).unwrap_err());
        assert!(error.contains('3') && error.contains("16"), "{error}");
    }
    convert(&input, &output, &to(AdapterDialect::Trainer)).unwrap();
}

#[test]
fn loras_that_do_not_fit_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let sizes = Sizes::tiny();
    let split = AdapterConversion { lora: AdapterLora::Split(LoraDialect::Kohya), ..AdapterConversion::default() };
    write(&at("classic"), &adapter(AdapterKind::Classic, &sizes), None);
    assert!(reason(&convert(&at("classic"), &at("out"), &split).unwrap_err()).contains("no LoRA"));
    write(&at("face"), &adapter(AdapterKind::FaceId, &sizes), None);
    let apart = convert(&at("face"), &at("apart"), &split).unwrap();
    apart.lora.unwrap().write(&at("lora"), None, None).unwrap();
    let join = |lora: &str| AdapterConversion { lora: AdapterLora::Join(at(lora)), ..AdapterConversion::default() };
    assert!(reason(&convert(&at("face"), &at("out"), &join("lora")).unwrap_err()).contains("brings its LoRA"));
    // One whose change is scaled, one for a part of the layers, and one of other sizes.
    let lora = contents(&at("lora"));
    let rewrite = |name: &str, alpha: Option<f32>, kept: &dyn Fn(&str) -> bool| {
        let mut changed = lora.clone();
        changed.retain(|name, _| kept(name));
        let first = lora.keys().next().unwrap().replace(".lora_down.weight", ".alpha");
        let alpha = alpha.map(|alpha| (TensorInfo { dtype: Dtype::F32, shape: vec![] }, alpha.to_le_bytes().to_vec()));
        changed.extend(alpha.map(|alpha| (first, alpha)));
        save(&at(name), &changed);
    };
    rewrite("halved", Some(sizes.rank as f32 / 2.0), &|_| true);
    convert(&at("apart"), &at("joined"), &join("halved")).unwrap();
    let (joined, whole) = (contents(&at("joined")), contents(&at("face")));
    let changed: Vec<_> =
        whole.iter().filter(|(name, tensor)| joined[*name] != **tensor).map(|(name, _)| name).collect();
    assert_eq!(changed, ["ip_adapter.0.to_k_lora.up.weight"]);
    rewrite("same", Some(sizes.rank as f32), &|_| true);
    convert(&at("apart"), &at("joined"), &join("same")).unwrap();
    assert_eq!(contents(&at("joined")), contents(&at("face")));
    rewrite("part", None, &|name| !name.contains("mid_block"));
    let error = convert(&at("apart"), &at("out"), &join("part")).unwrap_err();
    assert!(reason(&error).contains("ip_adapter.30.to_q_lora.down.weight"), "{}", reason(&error));
    assert!(!at("out").exists());
}

#[test]
fn an_adapter_says_what_it_is_in_its_new_file() {
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("face-plusv2.bin"), folder.path().join("out.safetensors"));
    write(&input, &adapter(AdapterKind::FaceIdPlus, &Sizes::tiny()), Some(&json!({"step": 7})));
    convert(&input, &output, &AdapterConversion::default()).unwrap();
    let metadata = SafetensorsFile::open(&output).unwrap().metadata()["ipa"].clone();
    assert_eq!(metadata, r#"{"num_tokens":4,"step":7,"variant":"faceid-plusv2"}"#);
    let told = AdapterOptions { variant: Some(AdapterVariant::FaceIdPlus), ..AdapterOptions::default() };
    let options = AdapterConversion { read: told, ..AdapterConversion::default() };
    let converted = convert(&input, &output, &options).unwrap();
    assert_eq!(converted.info.unwrap().variant(), AdapterVariant::FaceIdPlus);
}

/// Names, shapes and digests: tests/fixtures/conversions.py
#[test]
fn diffusers_has_the_same_names_and_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out.safetensors");
    let root = fixtures().join("..");
    let expected: BTreeMap<String, BTreeMap<String, String>> = read_json(&root.join("conversions.json")).unwrap();
    assert_eq!(expected.len(), 7);
    for (file, expected) in expected {
        convert(&root.join(&file), &output, &to(AdapterDialect::Diffusers)).unwrap();
        let described = |(name, (TensorInfo { shape, .. }, data))| {
            let path = folder.path().join("bytes");
            fs::write(&path, data).unwrap();
            (name, format!("{shape:?} {}", &sha256_file(&path).unwrap()[..32]))
        };
        let made: BTreeMap<String, String> = contents(&output).into_iter().map(described).collect();
        assert_eq!(made, expected, "{file}");
    }
}
