//! Files, pictures and data of strangers: every refusal names the place, and nothing is written.
//! Arguments are in the tests of each command; Ctrl-C and a full disk in interrupted.rs.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs::{self, File};
use std::path::Path;

use ipa_formats::{Dtype, TensorBytes};
use serde_json::json;
use support::Ipa;
use support::files::{
    cut, edit_json, edit_tensors, entries_below, fixture, make_dataset, make_model, tiny_sd, two_pictures, zeros,
};
use tempfile::TempDir;

/// Every part of a model that has weights.
const WEIGHTS: [&str; 4] = [
    "unet/diffusion_pytorch_model.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
    "text_encoder/model.safetensors",
    "image_encoder/model.safetensors",
];

/// Asserts that `command`, told where to write, fails with every one of `words` and leaves at most an empty folder.
#[track_caller]
fn assert_refused(command: impl FnOnce(&Path) -> Ipa, words: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    command(&output).run().refused(1, words);
    let left: Vec<String> = entries_below(folder.path()).into_iter().filter(|entry| entry != "out").collect();
    assert!(left.is_empty() && !output.is_file(), "{left:?} was left");
}

/// Asserts that no picture can be drawn with a model.
#[track_caller]
fn assert_model_refused(model: &Path, words: &[&str]) {
    assert_refused(|output| Ipa::generate(model, &output.join("out.png")).with_reference(), words);
}

/// Asserts that an adapter cannot be used with the tiny model.
#[track_caller]
fn assert_adapter_refused(adapter: &Path, words: &[&str]) {
    let image = fixture("pictures/wide.png");
    assert_refused(|output| Ipa::embed(adapter, &image, &output.join("out.safetensors")), words);
}

/// Asserts that a picture cannot be referred to.
#[track_caller]
fn assert_image_refused(image: &Path, words: &[&str]) {
    let adapter = tiny_sd("ip_adapter.safetensors");
    assert_refused(|output| Ipa::embed(&adapter, image, &output.join("out.safetensors")), words);
}

/// Asserts that a dataset cannot be trained on.
#[track_caller]
fn assert_data_refused(data: &Path, words: &[&str]) {
    assert_refused(|output| Ipa::train(data, output), words);
}

/// The tiny model's adapter, changed.
fn make_adapter(edit: impl FnOnce(&mut Vec<TensorBytes<'static>>)) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("adapter.safetensors");
    fs::copy(tiny_sd("ip_adapter.safetensors"), &path).unwrap();
    edit_tensors(&path, edit);
    folder
}

#[track_caller]
fn assert_edited_adapter_refused(edit: impl FnOnce(&mut Vec<TensorBytes<'static>>), words: &[&str]) {
    let folder = make_adapter(edit);
    assert_adapter_refused(&folder.path().join("adapter.safetensors"), words);
}

fn named<'a>(tensors: &'a mut [TensorBytes<'static>], name: &str) -> &'a mut TensorBytes<'static> {
    tensors.iter_mut().find(|tensor| tensor.name == name).unwrap()
}

/// A safetensors file whose length field says `header_len`.
fn with_header(header_len: usize, header: &str) -> Vec<u8> {
    [(header_len as u64).to_le_bytes().as_slice(), header.as_bytes()].concat()
}

#[test]
fn files_that_are_not_whole_safetensors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("adapter.safetensors");
    let large = r#"{"image_proj.norm.bias":{"dtype":"F32","shape":[1000000000],"data_offsets":[0,4000000000]}}"#;
    let small = r#"{"image_proj.norm.bias":{"dtype":"F32","shape":[1000000000],"data_offsets":[0,4]}}"#;
    for (bytes, words) in [
        (Vec::new(), "0 bytes"),
        (b"PK\x03\x04 a pickle in an archive".to_vec(), "not a usable torch file"),
        (with_header(1 << 50, "{}"), "header claims"),
        (with_header(1000, "{}"), "header claims 1000 bytes"),
        (with_header(3, "{{}"), "header"),
        (with_header(large.len(), large), "cut short"),
        (with_header(small.len(), small), "`image_proj.norm.bias`"),
    ] {
        fs::write(&path, bytes).unwrap();
        assert_adapter_refused(&path, &["adapter.safetensors", words]);
    }
    fs::copy(tiny_sd("ip_adapter.safetensors"), &path).unwrap();
    cut(&path);
    assert_adapter_refused(&path, &["adapter.safetensors", "cut short"]);
    assert_adapter_refused(&folder.path().join("nowhere.safetensors"), &["nowhere.safetensors", "exists"]);
    assert_adapter_refused(folder.path(), &[folder.path().to_str().unwrap(), "file"]);
}

#[test]
fn adapters_with_missing_unexpected_or_misshapen_tensors() {
    let remove =
        |name: &'static str| move |tensors: &mut Vec<_>| tensors.retain(|tensor: &TensorBytes| tensor.name != name);
    let name = "image_proj.norm.bias";
    assert_edited_adapter_refused(remove(name), &["adapter.safetensors", name]);
    let name = "ip_adapter.31.to_v_ip.weight";
    assert_edited_adapter_refused(remove(name), &["adapter.safetensors", name]);
    let name = "image_proj.extra.weight";
    assert_edited_adapter_refused(|tensors| tensors.push(zeros(name, &[2])), &["adapter.safetensors", name]);
    let name = "image_proj.norm.bias";
    let reshape = |tensors: &mut Vec<_>| named(tensors, name).shape = vec![4, 8];
    assert_edited_adapter_refused(reshape, &["adapter.safetensors", name, "[4, 8]", "[32]"]);
    let name = "ip_adapter.1.to_k_ip.weight";
    let transpose = |tensors: &mut Vec<_>| named(tensors, name).shape = vec![32, 16];
    assert_edited_adapter_refused(transpose, &["adapter.safetensors", "ip_adapter.1.to_"]);
}

#[test]
fn an_adapter_for_another_base_model() {
    let widen = |tensors: &mut Vec<TensorBytes<'static>>| {
        for tensor in tensors {
            let shape = match tensor.name.as_str() {
                "image_proj.proj.weight" => vec![4 * 48, 24],
                "image_proj.proj.bias" => vec![4 * 48],
                "image_proj.norm.weight" | "image_proj.norm.bias" => vec![48],
                _ => vec![tensor.shape[0], 48],
            };
            *tensor = zeros(&tensor.name, &shape);
        }
    };
    assert_edited_adapter_refused(widen, &["adapter.safetensors", "width 48", "width 32", "base model"]);
    let shorten = |tensors: &mut Vec<TensorBytes>| tensors.retain(|tensor| !tensor.name.contains(".31."));
    assert_edited_adapter_refused(shorten, &["adapter.safetensors", "15 cross", "16 cross", "base model"]);
}

#[test]
fn an_adapter_for_another_encoder_width() {
    let folder = make_adapter(|tensors| {
        let name = "image_proj.proj.weight";
        *named(tensors, name) = zeros(name, &[128, 40]);
    });
    let (adapter, data) = (folder.path().join("adapter.safetensors"), two_pictures());
    let words = ["width 24", "40", "--image-encoder"];
    assert_adapter_refused(&adapter, &words);
    let draw = |output: &Path| {
        let command = Ipa::generate(&tiny_sd(""), &output.join("out.png")).with_reference();
        command.with("--adapter", &adapter)
    };
    assert_refused(draw, &words);
    assert_refused(|output| Ipa::train(data.path(), output).with("--init-adapter", &adapter), &words);
}

#[test]
fn an_adapter_that_reads_something_else() {
    assert_adapter_refused(&fixture("faces/portrait.safetensors"), &["reads faces", "--face"]);
    let bare = fixture("faces/face_id_bare.safetensors");
    assert_adapter_refused(&fixture("faces/face_id_plus.safetensors"), &["reads faces", "--face"]);
    let vectors = fixture("faces/face_id.expected.safetensors");
    let draw = |adapter: &Path, output: &Path| {
        Ipa::generate(&tiny_sd(""), &output.join("out.png")).with("--adapter", adapter).with("--face", &vectors)
    };
    assert_refused(|output| draw(&bare, output), &["face_id_bare.safetensors", "changes to the model", "--lora"]);
    let twice = |output: &Path| {
        draw(&fixture("faces/face_id.safetensors"), output).with("--lora", fixture("faces/face_id_lora.safetensors"))
    };
    assert_refused(twice, &["leave out `--lora`", "face_id_lora.safetensors", "twice"]);
    let folder = tempfile::tempdir().unwrap();
    let classic = draw(&tiny_sd("ip_adapter.safetensors"), folder.path());
    classic.run().refused(2, &["`faces`", "reads pictures, not faces", "flag: `--face`"]);
}

#[test]
fn an_adapter_that_lacks_a_tensor_or_has_a_foreign_one() {
    let lacking =
        |tensors: &mut Vec<TensorBytes<'static>>| tensors.retain(|tensor| tensor.name != "image_proj.proj.bias");
    assert_edited_adapter_refused(lacking, &["adapter.safetensors", "`image_proj.proj.bias` is missing"]);
    let foreign = |tensors: &mut Vec<TensorBytes<'static>>| tensors.push(zeros("image_proj.gate", &[4]));
    assert_edited_adapter_refused(foreign, &["adapter.safetensors", "`image_proj.gate`"]);
}

#[test]
fn models_with_weights_cut_short() {
    for weights in WEIGHTS {
        let model = make_model();
        cut(&model.path().join(weights));
        assert_model_refused(model.path(), &[weights, "cut short"]);
    }
}

#[test]
fn models_with_a_tensor_missing() {
    for weights in WEIGHTS {
        let (model, mut removed) = (make_model(), String::new());
        edit_tensors(&model.path().join(weights), |tensors| removed = tensors.remove(0).name);
        assert_model_refused(model.path(), &[weights, &removed]);
    }
}

#[test]
fn models_with_tensors_unexpected_misshapen_or_of_whole_numbers() {
    let refused = |edit: fn(&mut Vec<TensorBytes<'static>>), words: &[&str]| {
        let model = make_model();
        edit_tensors(&model.path().join(WEIGHTS[0]), edit);
        assert_model_refused(model.path(), &[&[WEIGHTS[0]][..], words].concat());
    };
    refused(|tensors| tensors.push(zeros("surprise.weight", &[2])), &["surprise.weight"]);
    refused(|tensors| named(tensors, "conv_in.bias").shape = vec![4, 4], &["`conv_in.bias`", "[4, 4]", "[16]"]);
    refused(
        |tensors| *named(tensors, "conv_in.bias") = TensorBytes { dtype: Dtype::I32, ..zeros("conv_in.bias", &[16]) },
        &["`conv_in.bias`", "I32"],
    );
}

#[test]
fn folders_without_config_json() {
    for weights in WEIGHTS {
        let model = make_model();
        let config = Path::new(weights).with_file_name("config.json");
        fs::remove_file(model.path().join(&config)).unwrap();
        let component = config.parent().unwrap().to_str().unwrap();
        assert_model_refused(model.path(), &[component, "config.json"]);
    }
}

#[test]
fn configurations_that_do_not_fit() {
    let config = "unet/config.json";
    let refused = |field: &str, value: serde_json::Value, words: &[&str]| {
        let model = make_model();
        edit_json(&model.path().join(config), |config| config[field] = value);
        assert_model_refused(model.path(), words);
    };
    refused("block_out_channels", json!("wide"), &[config, "block_out_channels"]);
    refused("down_block_types", json!(vec!["DownBlock3D"; 4]), &[config, "DownBlock3D"]);
    refused("attention_head_dim", json!(0), &[config, "attention_head_dim"]);
    refused("cross_attention_dim", json!(40), &[config, "`cross_attention_dim`", "40", "`hidden_size`", "32"]);
    // More numbers than 64 bits can count.
    refused("block_out_channels", json!([16, 24, 32, 4_000_000_000_000_i64]), &["unet/"]);
    // Against its own weights, where no adapter is compared with it before.
    let model = make_model();
    edit_json(&model.path().join(config), |config| config["layers_per_block"] = json!(1));
    let draw = |output: &Path| Ipa::generate(model.path(), &output.join("out.png"));
    assert_refused(draw, &[WEIGHTS[0], "down_blocks.0.attentions.1."]);
    let model = make_model();
    fs::write(model.path().join(config), "{\"in_channels\": 4").unwrap();
    assert_model_refused(model.path(), &[config]);
}

#[test]
fn models_that_lack_a_part_or_are_none() {
    let model = make_model();
    fs::remove_dir_all(model.path().join("vae")).unwrap();
    assert_model_refused(model.path(), &[model.path().to_str().unwrap(), "vae"]);

    let model = make_model();
    fs::remove_dir_all(model.path().join("image_encoder")).unwrap();
    assert_model_refused(model.path(), &["image_encoder", "--image-encoder"]);

    let model = make_model();
    fs::remove_file(model.path().join("tokenizer/vocab.json")).unwrap();
    assert_model_refused(model.path(), &["tokenizer", "vocab.json"]);

    let model = make_model();
    fs::remove_file(model.path().join(WEIGHTS[0])).unwrap();
    assert_model_refused(model.path(), &["unet", "holds no weights"]);
    let pickle = model.path().join(WEIGHTS[0]).with_extension("bin");
    fs::write(pickle, b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.").unwrap();
    assert_model_refused(model.path(), &["diffusion_pytorch_model.bin", "os.system"]);

    let folder = tempfile::tempdir().unwrap();
    for name in [folder.path(), &folder.path().join("nowhere"), &tiny_sd(WEIGHTS[0])] {
        assert_model_refused(name, &[name.to_str().unwrap(), "folder"]);
    }
}

#[test]
fn pictures_that_are_none() {
    for name in ["text.png", "cut.png", "cut.jpg", "empty.jpg", "picture.gif"] {
        assert_image_refused(&fixture("preprocess/refused").join(name), &[name]);
    }
    assert_image_refused(&fixture("preprocess/nowhere.png"), &["nowhere.png", "exists"]);
    assert_image_refused(&fixture("preprocess/refused"), &["preprocess/refused"]);
}

/// A PNG of a billion pixels by its header, and a few bytes by its contents.
fn write_huge_picture(path: &Path) {
    let mut writer = png::Encoder::new(File::create(path).unwrap(), 40_000, 25_000).write_header().unwrap();
    writer.write_chunk(png::chunk::IDAT, b"\x78\x9c\x63\x60").unwrap();
}

#[test]
fn a_picture_of_a_billion_pixels() {
    let data = two_pictures();
    let path = data.path().join("b.png");
    write_huge_picture(&path);
    assert_image_refused(&path, &["b.png", "40000 x 25000"]);
    assert_data_refused(data.path(), &["data.json", "row 1", "b.png", "40000 x 25000"]);
    let draw = |output: &Path| {
        let command = Ipa::generate(&tiny_sd(""), &output.join("out.png")).with_reference();
        command.with("--image", &path)
    };
    assert_refused(draw, &["b.png", "40000 x 25000"]);
}

#[test]
fn datasets_that_cannot_be_trained_on() {
    for (list, words) in [
        ("[]", "lists no pictures"),
        (r#"[{"image_file": "a.png", "text": "a cat"}, {"image_file": "../a.png", "text": ""}]"#, "row 1: `../a.png`"),
        (r#"[{"image_file": "b/../../a.png", "text": ""}]"#, "leaves the dataset's folder"),
        (r#"[{"image_file": "/etc/hostname", "text": ""}]"#, "leaves the dataset's folder"),
        (r#"[{"image_file": "c.png", "text": ""}]"#, "row 0: `c.png` does not exist"),
        (r#"[{"image_file": "a.png"}]"#, "text"),
        (r#"[{"image_file": "a.png", "text": 3}]"#, "text"),
        (r#"{"image_file": "a.png", "text": "a cat"}"#, "field"),
        ("a cat", "field"),
    ] {
        assert_data_refused(make_dataset(list).path(), &["data.json", words]);
    }
    assert_data_refused(tempfile::tempdir().unwrap().path(), &["data.json", "exists"]);
}

#[cfg(unix)]
#[test]
fn a_dataset_whose_link_leaves_its_folder() {
    let (outside, data) = (two_pictures(), make_dataset(r#"[{"image_file": "link.png", "text": ""}]"#));
    std::os::unix::fs::symlink(outside.path().join("a.png"), data.path().join("link.png")).unwrap();
    assert_data_refused(data.path(), &["data.json", "row 0", "`link.png` leaves"]);
}

#[test]
fn a_dataset_with_a_picture_that_is_none() {
    let data = two_pictures();
    fs::write(data.path().join("b.png"), "not a picture").unwrap();
    assert_data_refused(data.path(), &["data.json", "row 1", "b.png"]);
}

#[test]
fn outputs_below_a_file() {
    let (folder, data) = (tempfile::tempdir().unwrap(), two_pictures());
    let file = folder.path().join("file");
    fs::write(&file, "before").unwrap();
    let picture = Ipa::generate(&tiny_sd(""), &file.join("out.png"));
    let pictures = Ipa::generate(&tiny_sd(""), &file.join("out")).with("--num-images", "2");
    let latents = Ipa::generate(&tiny_sd(""), &folder.path().join("out.png"));
    let adapter = tiny_sd("ip_adapter.safetensors");
    let check = Ipa::on("check", &tiny_sd("")).with("--adapter", &adapter);
    let check = check.with("--data", data.path().join("data.json")).with("--output", file.join("out"));
    for command in [
        picture,
        pictures,
        latents.with("--save-latents", file.join("out.safetensors")),
        Ipa::embed(&adapter, &fixture("pictures/wide.png"), &file.join("out.safetensors")),
        Ipa::train(data.path(), &file.join("out")),
        Ipa::train(data.path(), &file),
        check,
    ] {
        command.run().refused(1, &[file.to_str().unwrap(), "cannot write"]);
        assert_eq!(entries_below(folder.path()), ["file"]);
        assert_eq!(fs::read(&file).unwrap(), b"before");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn outputs_where_the_system_lets_nobody_write() {
    let output = Path::new("/proc/ipa/out.png");
    Ipa::generate(&tiny_sd(""), output).run().refused(1, &["/proc/ipa/out.png", "cannot write"]);
    Ipa::generate(&tiny_sd(""), Path::new("/dev/full")).run().refused(1, &["/dev/full"]);
    assert!(!Path::new("/dev/full").is_file());
}
