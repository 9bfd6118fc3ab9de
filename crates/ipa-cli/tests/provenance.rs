//! What pictures say of themselves, and `ipa generate --like`.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::path::Path;

use serde_json::Value;
use support::Ipa;
use support::files::{edit_json, entries_below, fixture, make_model, tiny_sd};

/// Two pictures drawn together, with a reference; their folder is `pictures`.
fn two_pictures(folder: &Path, model: &Path, reference: &Path) {
    let draw = Ipa::generate(model, &folder.join("pictures")).with("--num-images", "2");
    let draw = draw.with("--adapter", tiny_sd("ip_adapter.safetensors")).with("--image", reference);
    draw.with("--image-encoder", tiny_sd("image_encoder")).run().done();
}

fn text(picture: &Path, keyword: &str) -> String {
    let file = std::io::BufReader::new(fs::File::open(picture).unwrap());
    let reader = png::Decoder::new(file).read_info().unwrap();
    let info = reader.info();
    let plain = info.uncompressed_latin1_text.iter().find(|chunk| chunk.keyword == keyword);
    let wide = || info.utf8_text.iter().find(|chunk| chunk.keyword == keyword).unwrap().get_text().unwrap();
    plain.map_or_else(wide, |chunk| chunk.text.clone())
}

fn like(picture: &Path, output: &Path) -> Ipa {
    Ipa::new("generate").with("--device", "cpu").with("--like", picture).with("--output", output)
}

#[test]
fn a_picture_is_drawn_again_byte_for_byte() {
    let folder = tempfile::tempdir().unwrap();
    two_pictures(folder.path(), &tiny_sd(""), &fixture("pictures/wide.png"));
    for name in ["000.png", "001.png"] {
        let (picture, again) = (folder.path().join("pictures").join(name), folder.path().join(name));
        like(&picture, &again).run().done();
        assert!(fs::read(&picture).unwrap() == fs::read(&again).unwrap(), "{name}");
    }
}

#[test]
fn other_formats_carry_the_same() {
    let folder = tempfile::tempdir().unwrap();
    two_pictures(folder.path(), &tiny_sd(""), &fixture("pictures/wide.png"));
    let picture = folder.path().join("pictures/001.png");
    for format in ["webp", "jpg"] {
        let (other, again) = (folder.path().join("other").with_extension(format), folder.path().join("again.png"));
        like(&picture, &other).run().done();
        like(&other, &again).run().done();
        assert!(fs::read(&picture).unwrap() == fs::read(&again).unwrap(), "{format}");
    }
    let many = Ipa::generate(&tiny_sd(""), &folder.path().join("many")).with("--num-images", "2");
    many.with("--format", "webp").run().done();
    assert_eq!(entries_below(&folder.path().join("many")), ["000.webp", "001.webp"]);
}

#[test]
fn flags_beside_the_picture_win() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (folder.path().join("first.png"), folder.path().join("second.png"));
    Ipa::generate(&tiny_sd(""), &first).with("--seed", "3").run().done();
    like(&first, &second).with("--prompt", "a blue star").run().done();
    let request = |picture: &Path| serde_json::from_str::<Value>(&text(picture, "ipa")).unwrap()["request"].clone();
    assert_eq!(request(&second)["prompt"], "a blue star");
    assert_eq!(request(&second)["seed"], 3);
    let drawn = folder.path().join("drawn.png");
    Ipa::generate(&tiny_sd(""), &drawn).with("--seed", "3").with("--prompt", "a blue star").run().done();
    assert!(fs::read(&second).unwrap() == fs::read(&drawn).unwrap());
}

#[test]
fn other_files_of_the_same_names_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (model, reference) = (make_model(), folder.path().join("reference.png"));
    fs::copy(fixture("pictures/wide.png"), &reference).unwrap();
    two_pictures(folder.path(), model.path(), &reference);
    let (picture, output) = (folder.path().join("pictures/000.png"), folder.path().join("out.png"));
    fs::copy(fixture("pictures/mask.png"), &reference).unwrap();
    like(&picture, &output).run().refused(1, &["reference.png", "000.png", "--image"]);
    fs::remove_file(&reference).unwrap();
    like(&picture, &output).run().refused(1, &["reference.png"]);
    // Another file by another name is a change like any other.
    like(&picture, &output).with("--image", fixture("pictures/tall.jpg")).run().done();
    let unet = model.path().join("unet/diffusion_pytorch_model.safetensors");
    let mut bytes = fs::read(&unet).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&unet, bytes).unwrap();
    let again = like(&picture, &output).with("--image", fixture("pictures/tall.jpg"));
    again.run().refused(1, &["000.png", "--model"]);
}

#[test]
fn the_picture_itself_is_not_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let picture = folder.path().join("out.png");
    Ipa::generate(&tiny_sd(""), &picture).run().done();
    let before = fs::read(&picture).unwrap();
    like(&picture, &picture).with("--seed", "9").run().refused(2, &["out.png", "--output"]);
    assert!(fs::read(&picture).unwrap() == before);
}

#[test]
fn settings_that_changed_are_another_model() {
    let folder = tempfile::tempdir().unwrap();
    let (model, picture, again) = (make_model(), folder.path().join("out.png"), folder.path().join("again.png"));
    Ipa::generate(model.path(), &picture).run().done();
    like(&picture, &again).run().done();
    edit_json(&model.path().join("scheduler/scheduler_config.json"), |config| config["beta_end"] = 0.02.into());
    like(&picture, &again).run().refused(1, &["out.png", "--model"]);
}

#[test]
fn the_models_own_encoder_is_told_apart_too() {
    let folder = tempfile::tempdir().unwrap();
    let (model, picture, again) = (make_model(), folder.path().join("out.png"), folder.path().join("again.png"));
    Ipa::generate(model.path(), &picture).with_reference().run().done();
    let record: Value = serde_json::from_str(&text(&picture, "ipa")).unwrap();
    assert_eq!(record["image_encoder"]["file"], record["model"]["file"]);
    like(&picture, &again).run().done();
    assert!(fs::read(&picture).unwrap() == fs::read(&again).unwrap());
    edit_json(&model.path().join("image_encoder/config.json"), |config| config["layer_norm_eps"] = 0.1.into());
    like(&picture, &again).run().refused(1, &["out.png", "--image-encoder"]);
}

#[test]
fn pictures_of_other_programs_say_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out.png");
    like(&fixture("pictures/wide.png"), &output).run().refused(1, &["wide.png", "does not say"]);
    Ipa::new("generate").with("--output", &output).with("--prompt", "a cat").run().refused(2, &["--model"]);
}

#[test]
fn tools_that_read_parameters_find_them() {
    let folder = tempfile::tempdir().unwrap();
    let picture = folder.path().join("out.png");
    let draw = Ipa::generate(&tiny_sd(""), &picture).with("--negative-prompt", "blue").with("--seed", "12");
    draw.clone().with("--scheduler", "euler-a").run().done();
    let found = text(&picture, "parameters");
    let lines: Vec<&str> = found.lines().collect();
    assert_eq!(lines[..2], ["a red circle", "Negative prompt: blue"]);
    let pairs = "Steps: 2, Sampler: Euler a, CFG scale: 7.5, Seed: 12, Size: 64x64, Model hash: ";
    assert!(lines[2].starts_with(pairs) && lines.len() == 3, "{found}");
    draw.with("--prompt", "ein Kreis, 円").run().done();
    assert!(text(&picture, "parameters").starts_with("ein Kreis, 円\n"));
}
