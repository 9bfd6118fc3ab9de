//! `ipa inspect`: what a file or folder is, from its headers alone.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

use serde_json::{Value, json};
use support::Ipa;
use support::files::{cut, fixture, make_model, shapes, tiny_sd};

fn inspect(path: &Path) -> Ipa {
    Ipa::new("inspect").and(path)
}

/// The one object that is told about a path.
#[track_caller]
fn told(path: &Path) -> Value {
    let mut lines = inspect(path).and("--json").run().done().json_lines();
    assert_eq!(lines.len(), 1);
    lines.remove(0)
}

#[test]
fn an_adapter_tells_its_kind_its_sizes_and_its_tensors() {
    let path = tiny_sd("ip_adapter.safetensors");
    let told = told(&path);
    let adapter = &told["content"]["adapter"];
    let (kind, base) = (&adapter["kind"], &adapter["base"]);
    assert_eq!([kind, base], [&json!("classic"), &json!("other")]);
    let sizes = [("num_layers", 16), ("num_tokens", 4), ("cross_attention_dim", 32), ("image_embed_dim", 24)];
    for (field, size) in sizes {
        assert_eq!(adapter[field], size, "{field}");
    }
    let listed = told["tensors"].as_array().unwrap();
    let listed = listed.iter().map(|tensor| (tensor["name"].as_str().unwrap().to_owned(), tensor["shape"].clone()));
    assert!(listed.eq(shapes(&path).into_iter().map(|(name, shape)| (name, json!(shape)))));
}

#[test]
fn people_see_the_same_in_words() {
    let path = tiny_sd("ip_adapter.safetensors");
    let told = inspect(&path).run().done().stdout;
    for words in ["IP-Adapter", "base", "16 cross-attention layers", "the image embedding, width 24"] {
        assert!(told.contains(words), "nothing of `{words}` in {told}");
    }
    assert!(!told.contains("to_v_ip"), "{told}");
    let told = inspect(&path).and("--tensors").run().done().stdout;
    let listed = shapes(&path).into_keys().filter(|name| told.contains(name.as_str())).count();
    assert_eq!(listed, shapes(&path).len(), "{told}");
}

#[test]
fn a_model_tells_its_components() {
    let told = told(&tiny_sd(""));
    assert_eq!(told["class"], "StableDiffusionPipeline");
    let components = told["components"].as_array().unwrap();
    let class = |name: &str| &components.iter().find(|component| component["name"] == name).unwrap()["class"];
    assert_eq!([class("unet"), class("vae")], [&json!("UNet2DConditionModel"), &json!("AutoencoderKL")]);
    assert!(components.iter().all(|component| component["problems"] == json!([])), "{told}");
}

#[test]
fn a_broken_model_tells_every_problem_and_fails() {
    let model = make_model();
    cut(&model.path().join("unet/diffusion_pytorch_model.safetensors"));
    fs::remove_file(model.path().join("vae/config.json")).unwrap();
    let ended = inspect(model.path()).run().refused(1, &["2 problems", "unet"]);
    for file in ["unet/diffusion_pytorch_model.safetensors", "vae"] {
        let is_told = |line: &str| line.contains("problem") && line.contains(file);
        assert!(ended.stdout.lines().any(is_told), "nothing of {file} in {ended:#?}");
    }
}

/// Of 64 GiB on the disk, none of them written.
#[test]
fn a_large_file_is_known_from_its_header() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large.safetensors");
    let bytes = 64_u64 << 30;
    let header = json!({"weight": {"dtype": "F32", "shape": [bytes / 4], "data_offsets": [0, bytes]}}).to_string();
    let mut file = File::create(&path).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    file.set_len(8 + header.len() as u64 + bytes).unwrap();
    assert_eq!(told(&path)["num_parameters"], bytes / 4);
}

#[test]
fn what_is_no_model_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let [text, missing] = ["notes.safetensors", "nowhere.safetensors"].map(|name| folder.path().join(name));
    fs::write(&text, "notes of a meeting").unwrap();
    for path in [&text, &missing, &folder.path().to_owned()] {
        inspect(path).run().refused(1, &[path.to_str().unwrap()]);
    }
}

#[test]
fn a_single_file_tells_what_it_was_recognised_as() {
    let path = support::files::fixture("single_file/tiny_v2.safetensors");
    let content = &told(&path)["content"];
    assert_eq!([&content["kind"], &content["checkpoint"]["version"]], [&json!("single-file"), &json!("sd-2.x")]);
    assert_eq!(content["checkpoint"]["components"], json!(["unet", "vae", "text_encoder"]));
    let words = inspect(&path).run().done().stdout;
    assert!(words.contains("Stable Diffusion 2.x for inpainting, single file with unet, vae, text_encoder"), "{words}");
}

#[test]
fn every_adapter_among_the_fixtures_is_told_by_its_variant() {
    for (file, line) in [
        ("tiny_sd/ip_adapter.safetensors", "  variant    base"),
        ("variants/plus.safetensors", "  variant    plus"),
        ("variants/full_face.safetensors", "  variant    full-face"),
        ("faces/face_id.safetensors", "  LoRA       inside, rank 4"),
        ("faces/face_id_bare.safetensors", "  LoRA       in a file of its own: name it with `--lora`"),
        ("faces/face_id_plus.safetensors", "  variant    faceid-plus"),
        ("faces/portrait.safetensors", "  variant    portrait"),
        ("faces/portrait_unnorm.safetensors", "  variant    portrait-unnorm"),
        ("research/prefusion.safetensors", "  variant    prefusion"),
        ("research/simple.safetensors", "  variant    simple"),
    ] {
        let told = inspect(&fixture(file)).run().done().stdout;
        assert!(told.contains("IP-Adapter") && told.lines().any(|found| found == line), "{file}: {told}");
    }
    let v2 = inspect(&fixture("faces/face_id_plus.safetensors")).with("--adapter-variant", "faceid-plusv2");
    let told = v2.run().done().stdout;
    assert!(told.lines().any(|line| line == "  variant    faceid-plusv2"), "{told}");
    let told = inspect(&fixture("faces/face_id_lora.safetensors")).run().done().stdout;
    assert!(told.contains("LoRA of a UNet"), "{told}");
}
