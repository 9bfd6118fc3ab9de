//! Base models from one form to another. Checkpoints: tests/fixtures/single_file.py, tests/fixtures/tiny_sd.py
#![allow(clippy::unwrap_used)]

#[path = "support/contents.rs"]
mod contents;
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use contents::{Contents, contents, save};
use half::{bf16, f16};
use ipa_formats::{
    Dtype, FormatError, ModelConversion, ModelConversionOptions, ModelForm, ModelReport, PredictionType, TensorInfo,
    weights_file,
};
use serde_json::{Value, json};
use support::*;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures").join(name)
}

fn of_folder(model: &Path) -> BTreeMap<&'static str, Contents> {
    let part = |part| (part, contents(&weights_file(&model.join(part)).unwrap()));
    ["unet", "vae", "text_encoder"].map(part).into_iter().collect()
}

fn convert(input: &Path, output: &Path, form: ModelForm, options: &ModelConversionOptions) -> ModelReport {
    let model = ModelConversion::plan(input, form, options).unwrap();
    model.write(output).unwrap();
    model.report()
}

fn refusal(input: &Path, form: ModelForm, options: &ModelConversionOptions) -> String {
    ModelConversion::plan(input, form, options).unwrap_err().to_string()
}

fn default() -> ModelConversionOptions {
    ModelConversionOptions::default()
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy_folder(&entry.path(), &to),
            false => assert!(fs::copy(entry.path(), to).is_ok()),
        }
    }
}

fn json_of(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn a_single_file_becomes_a_folder_and_the_same_file_again() {
    for name in ["tiny_v1", "tiny_v2"] {
        let place = tempfile::tempdir().unwrap();
        let single = fixture(&format!("single_file/{name}.safetensors"));
        let (folder, back) = (place.path().join("model"), place.path().join("back.safetensors"));
        let options = ModelConversionOptions { tokenizer: Some(fixture("tiny_sd/tokenizer")), ..default() };
        let report = convert(&single, &folder, ModelForm::Folder, &options);
        let pads_otherwise = report.notes.iter().any(|note| note.contains("trained with `!`"));
        assert_eq!(pads_otherwise, name == "tiny_v2", "{:?}", report.notes);
        assert!(report.files.contains(&"tokenizer/vocab.json".to_owned()), "{:?}", report.files);
        let index = json_of(&folder.join("model_index.json"));
        assert_eq!(index["unet"], json!(["diffusers", "UNet2DConditionModel"]));
        for (part, class) in index.as_object().unwrap().iter().filter(|(_, class)| class.is_array()) {
            assert_eq!(folder.join(part).is_dir(), class[0].is_string(), "{part}");
        }
        let text = fs::read_to_string(folder.join("unet/config.json")).unwrap();
        assert!(
            text.starts_with("{\n  \"_class_name\": \"UNet2DConditionModel\",\n  \"act_fn\"") && text.ends_with("}\n")
        );

        let report = convert(&folder, &back, ModelForm::SingleFile, &default());
        assert_eq!(report.notes, Vec::<String>::new(), "{name}"); // the folder says what the file is read as
        let (original, mut back) = (contents(&single), contents(&back));
        let mut lost: Vec<&String> = original.keys().filter(|name| !back.contains_key(*name)).collect();
        lost.retain(|name| !name.contains("resblocks.23.") && !name.ends_with("text_projection"));
        assert!(lost.iter().all(|name| name.ends_with("logit_scale")), "{lost:?}");
        assert!(back.len() > 100);
        back.retain(|name, tensor| original[name] != *tensor);
        assert!(back.is_empty(), "{:?}", back.keys());
    }
}

#[test]
fn what_is_not_carried_is_said() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("model.safetensors");
    let mut tensors = contents(&fixture("single_file/tiny_v1.safetensors"));
    let one = (TensorInfo { dtype: Dtype::F32, shape: vec![1] }, vec![0; 4]);
    tensors.insert("betas".to_owned(), one.clone());
    tensors.insert("embedding_manager.x".to_owned(), one);
    save(&file, &tensors);
    let report = convert(&file, &place.path().join("model"), ModelForm::Folder, &default());
    let dropped: Vec<&str> = report.dropped.iter().map(|dropped| &dropped.name[..]).collect();
    assert!(dropped.contains(&"betas") && dropped.contains(&"embedding_manager.x"), "{dropped:?}");
    let made: usize = report.weights.values().map(|made| made.tensors.len()).sum();
    assert_eq!(made + dropped.len(), tensors.len());
    let notes = report.notes.join("\n");
    assert!(notes.contains("no tokenizer") && notes.contains("`epsilon`"), "{notes}");
    assert!(notes.contains("first `embedding_manager.x`"), "{notes}");

    // Beside the file there is one now.
    copy_folder(&fixture("tiny_sd/tokenizer"), &place.path().join("tokenizer"));
    let report = convert(&file, &place.path().join("other"), ModelForm::Folder, &default());
    assert!(!report.notes.join("\n").contains("tokenizer"));
    assert_eq!(names(&place.path().join("other/tokenizer")), names(&place.path().join("tokenizer")));
}

#[test]
fn what_a_single_file_cannot_say_is_noted() {
    let place = tempfile::tempdir().unwrap();
    let model = place.path().join("model");
    copy_folder(&fixture("tiny_sd"), &model);
    let schedule = model.join("scheduler/scheduler_config.json");
    let mut fields = json_of(&schedule);
    fields["prediction_type"] = "v_prediction".into();
    fields["rescale_betas_zero_snr"] = true.into();
    fs::write(&schedule, fields.to_string()).unwrap();
    let file = place.path().join("model.safetensors");
    let report = convert(&model, &file, ModelForm::SingleFile, &default());
    let notes = report.notes.join("\n");
    for expected in ["prediction_type \"v_prediction\"", "rescale_betas_zero_snr true", "attention_head_dim"] {
        assert!(notes.contains(expected), "{expected}: {notes}");
    }
    let told = ModelConversionOptions { prediction_type: Some(PredictionType::VPrediction), ..default() };
    let told = ModelConversion::plan(&model, ModelForm::SingleFile, &told).unwrap().report().notes.join("\n");
    assert!(!told.contains("prediction_type"), "{told}");
    let dropped: Vec<&str> = report.dropped.iter().map(|dropped| &dropped.name[..]).collect();
    let expected = [
        "feature_extractor/",
        "image_encoder/",
        "ip_adapter.safetensors",
        "model_index.json",
        "scheduler/",
        "tokenizer/",
    ];
    assert_eq!(dropped, expected);
}

#[test]
fn folders_get_another_element_type_and_keep_everything_else() {
    let place = tempfile::tempdir().unwrap();
    let (model, halves) = (fixture("tiny_sd"), place.path().join("halves"));
    let options = ModelConversionOptions { dtype: Some(Dtype::F16), ..default() };
    let report = convert(&model, &halves, ModelForm::Folder, &options);
    assert_eq!(report.dropped.iter().map(|dropped| &dropped.name[..]).collect::<Vec<_>>(), ["ip_adapter.safetensors"]);
    let mut expected = names(&model);
    expected.retain(|name| name != "ip_adapter.safetensors");
    assert_eq!(names(&halves), expected);
    let (before, after) = (of_folder(&model), of_folder(&halves));
    for (part, tensors) in &before {
        for (name, (info, data)) in tensors {
            let (made, bytes) = &after[part][name];
            assert_eq!(info.shape, made.shape, "{name}");
            let cast = data.as_chunks().0.iter().map(|bytes| f16::from_f32(f32::from_le_bytes(*bytes)).to_le_bytes());
            match info.dtype {
                Dtype::F32 => {
                    assert!(made.dtype == Dtype::F16 && *bytes == cast.flatten().collect::<Vec<_>>(), "{name}")
                }
                _ => assert_eq!((made.dtype, bytes), (info.dtype, data), "{name}"),
            }
        }
    }
    for file in ["model_index.json", "tokenizer/merges.txt", "scheduler/scheduler_config.json"] {
        assert_eq!(fs::read(model.join(file)).unwrap(), fs::read(halves.join(file)).unwrap(), "{file}");
    }
    let said = |model: &Path| json_of(&model.join("text_encoder/config.json"))["dtype"].clone();
    if said(&model).is_string() {
        assert_eq!(said(&halves), "float16");
    }
    // Halves are singles too, and one component is as good as all.
    let (singles, unet) = (place.path().join("singles"), place.path().join("unet"));
    let wide = ModelConversionOptions { dtype: Some(Dtype::F32), ..default() };
    convert(&halves, &singles, ModelForm::Folder, &wide);
    convert(&halves.join("unet"), &unet, ModelForm::Folder, &wide);
    let unet = contents(&weights_file(&unet).unwrap());
    assert!(unet == of_folder(&singles)["unet"] && unet.values().all(|(info, _)| info.dtype == Dtype::F32));
    let narrow = place.path().join("again");
    convert(&singles, &narrow, ModelForm::Folder, &options);
    assert_eq!(of_folder(&narrow), after);
}

#[test]
fn parts_of_weights_become_one_file() {
    let place = tempfile::tempdir().unwrap();
    let (model, whole) = (place.path().join("model"), fixture("tiny_sd"));
    copy_folder(&whole, &model);
    let unet = contents(&weights_file(&whole.join("unet")).unwrap());
    fs::remove_file(model.join("unet/diffusion_pytorch_model.safetensors")).unwrap();
    let mut map = BTreeMap::new();
    for (number, part) in unet.iter().collect::<Vec<_>>().chunks(unet.len().div_ceil(2)).enumerate() {
        let file = format!("part-{number}.safetensors");
        let part: Contents = part.iter().map(|(name, tensor)| ((*name).clone(), (*tensor).clone())).collect();
        save(&model.join("unet").join(&file), &part);
        map.extend(part.into_keys().map(|name| (name, file.clone())));
    }
    let index = model.join("unet/diffusion_pytorch_model.safetensors.index.json");
    fs::write(&index, json!({ "weight_map": map }).to_string()).unwrap();
    let [folder, single, alone] =
        ["folder", "single.safetensors", "alone.safetensors"].map(|name| place.path().join(name));
    convert(&model, &folder, ModelForm::Folder, &default());
    assert_eq!(of_folder(&folder), of_folder(&whole));
    assert_eq!(names(&folder.join("unet")), ["config.json", "diffusion_pytorch_model.safetensors"]);
    convert(&model, &single, ModelForm::SingleFile, &default());
    let expected = place.path().join("expected.safetensors");
    convert(&whole, &expected, ModelForm::SingleFile, &default());
    assert_eq!(contents(&single), contents(&expected));
    for input in [&index, &model.join("unet")] {
        convert(input, &alone, ModelForm::SingleFile, &default());
        assert_eq!(contents(&alone), unet);
    }
}

/// What a trainer leaves behind: the model in `state_dict`, and much beside it.
#[test]
fn a_training_checkpoint_gives_its_model() {
    let floats: Vec<u8> = [1.0_f32, -2.5, 65504.0, 0.1].iter().flat_map(|number| number.to_le_bytes()).collect();
    let weight = |storage_name| tensor(storage(storage_name, "0", 4), 0, &[2, 2], &[1, 2]);
    let count = tensor(storage("LongStorage", "1", 1), 0, &[1], &[1]);
    let state = dict(&[("w", weight("FloatStorage")), ("num_batches_tracked", count)]);
    let optimizer = dict(&[("momentum", tensor(storage("FloatStorage", "0", 4), 0, &[4], &[1])), ("step", int(7))]);
    let code = dict(&[("state_dict", state), ("optimizer_states", optimizer), ("epoch", int(3))]);
    let place = tempfile::tempdir().unwrap();
    let (input, output) = (place.path().join("last.ckpt"), place.path().join("model.safetensors"));
    fs::write(&input, Archive::new(pickle(&code), &[floats, 9_i64.to_le_bytes().to_vec()]).bytes()).unwrap();
    let options = ModelConversionOptions { dtype: Some(Dtype::BF16), ..default() };
    let report = convert(&input, &output, ModelForm::SingleFile, &options);
    let made = contents(&output);
    assert_eq!(made.keys().collect::<Vec<_>>(), ["num_batches_tracked", "w"]);
    assert_eq!(
        made["num_batches_tracked"],
        (TensorInfo { dtype: Dtype::I64, shape: vec![1] }, 9_i64.to_le_bytes().to_vec())
    );
    let expected: Vec<u8> =
        [1.0, 65504.0, -2.5, 0.1].iter().flat_map(|&number| bf16::from_f32(number).to_le_bytes()).collect();
    assert_eq!(made["w"], (TensorInfo { dtype: Dtype::BF16, shape: vec![2, 2] }, expected)); // saved transposed
    assert_eq!(report.weights[""].tensors[1].from, ["state_dict.w"]);
    assert_eq!(report.weights[""].dropped[0].name, "optimizer_states.momentum");
    let dropped: Vec<&str> = report.dropped.iter().map(|dropped| &dropped.name[..]).collect();
    assert_eq!(dropped, ["epoch", "optimizer_states.step"]);
}

#[test]
fn averages_are_taken_on_request_in_both_forms() {
    let place = tempfile::tempdir().unwrap();
    let plain = contents(&fixture("single_file/tiny_v1.safetensors"));
    let mut both = plain.clone();
    for (name, (info, data)) in &plain {
        if let Some(inner) = name.strip_prefix("model.diffusion_model.") {
            let average = data.iter().map(|byte| byte ^ 1).collect();
            both.insert(format!("model_ema.diffusion_model{}", inner.replace('.', "")), (info.clone(), average));
        }
    }
    let [file, single, folder, again] =
        ["both.safetensors", "single.safetensors", "folder", "again.safetensors"].map(|name| place.path().join(name));
    save(&file, &both);
    let options = ModelConversionOptions { ema: true, ..default() };
    let report = convert(&file, &single, ModelForm::SingleFile, &options);
    let made = contents(&single);
    assert_eq!(made.keys().collect::<Vec<_>>(), plain.keys().collect::<Vec<_>>());
    assert_eq!(report.weights[""].dropped.len(), both.len() - plain.len());
    for (name, (_, data)) in &made {
        assert_eq!(*data != plain[name].1, name.starts_with("model.diffusion_model."), "{name}");
    }
    let report = convert(&file, &folder, ModelForm::Folder, &options);
    convert(&folder, &again, ModelForm::SingleFile, &default());
    assert!(contents(&again).iter().all(|(name, tensor)| made[name] == *tensor));
    let unused = |name: &str| report.dropped.iter().any(|dropped| dropped.name.starts_with(name));
    assert!(unused("model.diffusion_model.") && !unused("model_ema."));
    assert!(refusal(&folder, ModelForm::Folder, &options).contains("no single file"));
}

#[test]
fn nothing_is_written_when_it_fails() {
    let place = tempfile::tempdir().unwrap();
    let mut tensors = contents(&fixture("single_file/tiny_v1.safetensors"));
    let (info, data) = tensors.get_mut("first_stage_model.quant_conv.bias").unwrap();
    (info.dtype, *data) =
        (Dtype::F32, [1e30_f32].repeat(info.num_elements()).iter().flat_map(|n| n.to_le_bytes()).collect());
    let file = place.path().join("far.safetensors");
    save(&file, &tensors);
    let options = ModelConversionOptions { dtype: Some(Dtype::F16), ..default() };
    for (form, name) in [(ModelForm::Folder, "model"), (ModelForm::SingleFile, "model.safetensors")] {
        let model = ModelConversion::plan(&file, form, &options).unwrap();
        let error = model.write(&place.path().join(name)).unwrap_err();
        let FormatError::Overflow { name, .. } = &error else { panic!("{error}") };
        assert!(name.ends_with("quant_conv.bias"), "{error}");
        assert_eq!(names(place.path()), ["far.safetensors"]);
    }
    let occupied = place.path().join("occupied");
    copy_folder(&fixture("tiny_sd/tokenizer"), &occupied);
    let before = names(&occupied);
    let error = ModelConversion::plan(&file, ModelForm::Folder, &default()).unwrap().write(&occupied).unwrap_err();
    assert!(matches!(error, FormatError::FolderNotEmpty { .. }) && names(&occupied) == before, "{error}");
}

/// Tensors of one storage are written one by one: tied weights grow a file a little, a bomb a thousandfold.
#[test]
fn a_small_file_does_not_fill_the_disk() {
    let place = tempfile::tempdir().unwrap();
    let (input, output) = (place.path().join("tied.pt"), place.path().join("tied.safetensors"));
    let plan = |views: usize| {
        let names: Vec<String> = (0..views).map(|view| format!("w{view}")).collect();
        let view = || tensor(storage("FloatStorage", "0", 1 << 18), 0, &[1 << 18], &[1]);
        let code: Vec<_> = names.iter().map(|name| (&name[..], view())).collect();
        fs::write(&input, Archive::new(pickle(&dict(&code)), &[vec![1; 1 << 20]]).bytes()).unwrap();
        ModelConversion::plan(&input, ModelForm::SingleFile, &default()).unwrap()
    };
    let error = plan(1000).write(&output).unwrap_err().to_string();
    assert!(error.contains("tied.pt") && error.contains("would become 1048576000"), "{error}");
    assert_eq!(names(place.path()), ["tied.pt"]);
    plan(2).write(&output).unwrap();
    assert_eq!(contents(&output).len(), 2);
}

#[test]
fn what_cannot_be_converted_is_refused_with_the_next_step() {
    let place = tempfile::tempdir().unwrap();
    let vae = place.path().join("vae.safetensors");
    let mut tensors = contents(&fixture("single_file/tiny_v1.safetensors"));
    tensors.retain(|name, _| name.starts_with("first_stage_model."));
    save(&vae, &tensors);
    let error = refusal(&vae, ModelForm::Folder, &default());
    assert!(error.contains("no unet") && error.contains("--allow-missing"), "{error}");
    let partial = ModelConversionOptions { allow_missing: true, ..default() };
    let report = convert(&vae, &place.path().join("part"), ModelForm::Folder, &partial);
    assert_eq!((names(&place.path().join("part")), report.notes.len()), (vec!["vae".to_owned()], 3));

    let inversion = place.path().join("token.pt");
    let vector = tensor(storage("FloatStorage", "0", 4), 0, &[1, 4], &[4, 1]);
    let code = dict(&[("string_to_param", dict(&[("*", vector)])), ("name", text("cat"))]);
    fs::write(&inversion, Archive::new(pickle(&code), &[vec![0; 16]]).bytes()).unwrap();
    assert!(refusal(&inversion, ModelForm::SingleFile, &default()).contains("textual inversion"));
    let empty = place.path().join("empty.pt");
    fs::write(&empty, Archive::new(pickle(b"}"), &[]).bytes()).unwrap();
    assert!(refusal(&empty, ModelForm::SingleFile, &default()).contains("no tensors"));
    let folder = place.path().join("only-vae");
    copy_folder(&fixture("tiny_sd/vae"), &folder.join("vae"));
    fs::write(folder.join("model_index.json"), "{}").unwrap();
    assert!(refusal(&folder, ModelForm::SingleFile, &default()).contains("no unet"));
    let report = convert(&folder, &place.path().join("only-vae.safetensors"), ModelForm::SingleFile, &partial);
    assert_eq!(report.weights[""].tensors.len(), contents(&weights_file(&folder.join("vae")).unwrap()).len());
    let integers = ModelConversionOptions { dtype: Some(Dtype::I64), ..default() };
    assert!(refusal(&vae, ModelForm::SingleFile, &integers).contains("floating-point"));
    assert!(refusal(&place.path().join("nowhere"), ModelForm::Folder, &default()).contains("no model"));
    assert!(refusal(&fixture("tiny_sd/tokenizer"), ModelForm::SingleFile, &default()).contains("model folder"));
}
