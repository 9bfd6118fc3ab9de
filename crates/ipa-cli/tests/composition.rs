//! `ipa generate` with references in every form: flags, request files, stored embeddings, faces, several adapters.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;
use support::Ipa;
use support::files::{assert_empty, entries_below, fixture, read_values, relative_error, tiny_sd};

/// Rounding differs by 1e-6 in one call of the UNet and is guided, hence amplified, at every step.
const LATENTS_TOLERANCE: f64 = 1e-3;

/// A small red circle, as the fixtures draw it, with its latents beside it.
fn draw(folder: &Path, steps: u32) -> Ipa {
    let command = Ipa::on("generate", &tiny_sd("")).with("--output", folder.join("out.png"));
    let command = command.with("--save-latents", folder.join("latents.safetensors"));
    let command = command.with("--prompt", "a small red circle").with("--seed", "42").with("--scale", "0.8");
    command.with("--steps", steps.to_string()).with("--width", "64").with("--height", "64")
}

fn latents(folder: &Path) -> Vec<f32> {
    read_values(&folder.join("latents.safetensors"))["latents"].values.clone()
}

fn expected(name: &str) -> Vec<f32> {
    read_values(&fixture(name))["latents"].values.clone()
}

#[track_caller]
fn assert_latents(folder: &Path, name: &str) {
    let error = relative_error(&latents(folder), &expected(name));
    assert!(error <= LATENTS_TOLERANCE, "{name}: {error:.2e}");
}

/// The identity vectors of a fixture, in numpy's format.
fn numpy_faces(kind: &str, folder: &Path) -> PathBuf {
    let faces = &read_values(&fixture(&format!("faces/{kind}.expected.safetensors")))["faces"];
    let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {:?}, }}", faces.shape);
    let header = header.replace('[', "(").replace(']', ")");
    let padded = format!("{header:<117}\n");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend(u16::try_from(padded.len()).unwrap().to_le_bytes());
    bytes.extend(padded.as_bytes());
    bytes.extend(faces.values.iter().flat_map(|value| value.to_le_bytes()));
    let path = folder.join(format!("{kind}.npy"));
    fs::write(&path, bytes).unwrap();
    path
}

/// Reference values: tests/fixtures/faces.py
#[test]
fn faces_are_drawn_as_the_reference_draws_them() {
    for (kind, adapter, picture, variant) in [
        ("face_id", "face_id", false, None),
        ("portrait", "portrait", false, None),
        ("face_id_plus", "face_id_plus", true, None),
        ("face_id_plus_v2", "face_id_plus", true, Some("faceid-plusv2")),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let faces = numpy_faces(kind, folder.path());
        let adapter = fixture("faces").join(format!("{adapter}.safetensors"));
        let mut command = draw(folder.path(), 5).with("--adapter", adapter).with("--face", faces);
        if picture {
            command = command.with("--image", fixture("pictures/wide.png"));
        }
        if let Some(variant) = variant {
            command = command.with("--adapter-variant", variant);
        }
        command.run().done();
        assert_latents(folder.path(), &format!("faces/{kind}.expected.safetensors"));
    }
}

#[test]
fn faces_embed_to_the_references_tokens() {
    for (kind, adapter, variant) in [
        ("face_id", "face_id", "faceid"),
        ("face_id_plus", "face_id_plus", "faceid-plus"),
        ("face_id_plus_v2", "face_id_plus", "faceid-plusv2"),
        ("portrait", "portrait", "portrait"),
        ("portrait_unnorm", "portrait_unnorm", "portrait-unnorm"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("embeds.safetensors");
        let command = Ipa::on("embed", &tiny_sd("")).with("--output", &output).with("--adapter-variant", variant);
        let command = command.with("--adapter", fixture("faces").join(format!("{adapter}.safetensors")));
        let command = command.with("--face", numpy_faces(kind, folder.path()));
        let has_picture = adapter == "face_id_plus";
        let command = if has_picture { command.with("--image", fixture("pictures/wide.png")) } else { command };
        command.run().done();
        let (found, expected) =
            (read_values(&output), read_values(&fixture(&format!("faces/{kind}.expected.safetensors"))));
        let names: Vec<&str> = found.keys().map(String::as_str).collect();
        let of_picture = ["face_embeds", "image_embeds", "ip_tokens", "uncond_image_embeds", "uncond_ip_tokens"];
        assert_eq!(
            names,
            if has_picture { &of_picture[..] } else { &["face_embeds", "ip_tokens", "uncond_ip_tokens"] }
        );
        // The reference lays the tokens of several faces side by side, here each is a row.
        let error = relative_error(&found["ip_tokens"].values, &expected["ip_tokens"].values);
        assert!(error <= 1e-5, "{kind}: {error:.2e}");
        let (none, theirs) = (&found["uncond_ip_tokens"].values, &expected["uncond_ip_tokens"].values);
        let error = relative_error(none, &theirs[..none.len()]); // there the same for each face
        assert!(error <= 1e-5, "{kind}: {error:.2e}");
    }
}

/// Reference values: tests/fixtures/composition.py
#[test]
fn an_inline_table_says_all_that_a_request_file_says() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| fixture(name).to_str().unwrap().to_owned();
    let reference = |image: &str, mask: &str, weight: f64| {
        let (image, mask) = (path(&format!("pictures/{image}")), path(&format!("composition/{mask}")));
        format!("{{ file = '{image}', mask = '{mask}', weight = {weight} }}")
    };
    let (left, right) = (reference("wide.png", "left.png", 1.0), reference("tall.jpg", "right.png", 0.4));
    let adapter = path("tiny_sd/ip_adapter.safetensors");
    let table = format!("{{ adapter = '{adapter}', images = [{left}, {right}], scale = 0.7 }}");
    draw(folder.path(), 4).with("--image-prompt", table).run().done();
    assert_latents(folder.path(), "composition/two_masks.safetensors");
}

#[test]
fn a_json_request_draws_and_its_picture_draws_itself_again() {
    let folder = tempfile::tempdir().unwrap();
    let request = folder.path().join("request.json");
    let adapter = |name: &str| json!(fixture(name));
    let picture = |name: &str| json!(fixture("pictures").join(name));
    let prompts = json!([
        { "adapter": adapter("tiny_sd/ip_adapter.safetensors"), "images": [picture("wide.png")], "scale": 0.6 },
        { "adapter": { "file": adapter("variants/plus.safetensors") }, "images": [picture("tall.jpg")], "scale": 0.5 },
    ]);
    let fields = json!({
        "prompt": "a small red circle", "num_steps": 4, "seed": 42, "width": 64, "height": 64, "image_prompts": prompts,
    });
    fs::write(&request, fields.to_string()).unwrap();
    let drawn = folder.path().join("first.png");
    let latents = |name: &str| folder.path().join(name);
    let command = Ipa::on("generate", &tiny_sd("")).with("--request", &request).with("--output", &drawn);
    command.with("--save-latents", latents("latents.safetensors")).run().done();
    assert_latents(folder.path(), "composition/two_adapters.safetensors");

    let again = Ipa::new("generate").with("--like", &drawn).with("--output", folder.path().join("again.png"));
    again.with("--save-latents", latents("again.safetensors")).run().done();
    let bytes = |name: &str| fs::read(latents(name)).unwrap();
    assert!(bytes("again.safetensors") == bytes("latents.safetensors"));
}

#[test]
fn what_embed_wrote_stands_for_the_pictures_without_an_encoder() {
    for adapter in ["tiny_sd/ip_adapter.safetensors", "variants/plus.safetensors"] {
        let folder = tempfile::tempdir().unwrap();
        let embeds = folder.path().join("embeds.safetensors");
        Ipa::embed(&fixture(adapter), &fixture("pictures/wide.png"), &embeds).run().done();
        let with =
            |table: String| draw(folder.path(), 4).with("--adapter", fixture(adapter)).with("--image-prompt", table);
        with(format!("{{ images = ['{}'], scale = 0.8 }}", fixture("pictures/wide.png").display())).run().done();
        let of_picture = latents(folder.path());
        let encoderless = support::files::make_model();
        fs::remove_dir_all(encoderless.path().join("image_encoder")).unwrap();
        let table = format!("{{ embeds = '{}', scale = 0.8 }}", embeds.display());
        with(table).with("--model", encoderless.path()).run().done();
        assert!(latents(folder.path()) == of_picture, "{adapter}");
    }
}

#[test]
fn embeddings_of_another_adapter_are_refused_from_the_headers() {
    let folder = tempfile::tempdir().unwrap();
    let embeds = folder.path().join("embeds.safetensors");
    let classic = fixture("tiny_sd/ip_adapter.safetensors");
    Ipa::embed(&classic, &fixture("pictures/wide.png"), &embeds).run().done();
    let out = folder.path().join("out");
    let command = Ipa::generate(&tiny_sd(""), &out.join("out.png"));
    let command = command.with("--adapter", fixture("variants/plus.safetensors"));
    let table = format!("{{ embeds = '{}' }}", embeds.display());
    command
        .with("--image-prompt", table)
        .run()
        .refused(1, &["embeds.safetensors", "`image_embeds` is [1, 24]", "ipa embed"]);
    assert_empty(&out);
}

#[test]
fn attention_maps_are_pictures_and_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let maps = folder.path().join("maps");
    let images = [fixture("pictures/wide.png"), fixture("pictures/tall.jpg")];
    let command = draw(folder.path(), 2).with("--adapter", tiny_sd("ip_adapter.safetensors"));
    let command = command.with("--image", &images[0]).and(&images[1]);
    command.with("--attention-maps", &maps).run().done();
    assert_eq!(entries_below(&maps), ["000-0-0.png", "000-0-1.png", "attention.safetensors"]);
    let none = draw(folder.path(), 1).with("--attention-maps", folder.path().join("none")).run().done();
    assert!(none.stderr.contains("no attention maps"), "{}", none.stderr);
    let numbers = read_values(&maps.join("attention.safetensors"));
    assert_eq!(numbers["0.0"].shape, [1, 4, 8, 8]);
    let sum: f32 = numbers.values().flat_map(|values| &values.values).sum();
    assert!((sum / 64.0 - 1.0).abs() < 1e-4, "{sum}");
}

#[test]
fn default_prompts_are_the_references_words() {
    let drawn = |words: &[(&str, &str)]| {
        let folder = tempfile::tempdir().unwrap();
        let command = Ipa::on("generate", &tiny_sd("")).with("--output", folder.path().join("out.png"));
        let command = command.with("--save-latents", folder.path().join("latents.safetensors")).with("--steps", "2");
        let command = words.iter().fold(command, |command, (flag, text)| match text.is_empty() {
            true => command.and(flag),
            false => command.with(flag, text),
        });
        command.run().done();
        latents(folder.path())
    };
    let words = [
        ("--prompt", "best quality, high quality"),
        ("--negative-prompt", "monochrome, lowres, bad anatomy, worst quality, low quality"),
    ];
    assert!(drawn(&[("--default-prompts", "")]) == drawn(&words));
    let own = drawn(&[("--default-prompts", ""), ("--prompt", "a star")]);
    assert!(own == drawn(&[("--prompt", "a star"), words[1]]));
}

#[test]
fn what_an_encoder_does_not_see_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let command = draw(folder.path(), 1).with("--adapter", tiny_sd("ip_adapter.safetensors"));
    let told = command.clone().with("--image", fixture("pictures/wide.png")).run().done().stderr;
    assert!(told.contains("wide.png is") && told.contains("left and right, are not seen"), "{told}");
    let tiles = format!("{{ images = ['{}'], crop = 'tiles' }}", fixture("pictures/wide.png").display());
    let told = command.with("--image-prompt", tiles).run().done().stderr;
    assert!(!told.contains("seen"), "{told}");
}

#[test]
fn tables_that_are_none_are_refused_with_the_field() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let image = fixture("pictures/wide.png");
    for (fields, status, words) in [
        ("scael = 1", 2, ["unknown field `scael`", "--image-prompt"]),
        ("crop = 'left'", 2, ["center, pad, squash, tiles", "--image-prompt"]),
        ("layers = 'stile'", 2, ["a preset (such as style, layout", "--image-prompt"]),
        ("negative = { fil = 'a.png' }", 2, ["a file, or a table of file, weight, mask, crop", "--image-prompt"]),
        ("scale = -1", 2, ["image prompt 1: `scale` is -1", "flag: `--image-prompt`"]),
        ("end = 0.2, start = 0.5", 2, ["`end` is 0.2 with start 0.5", "at least start"]),
        ("layers = { up = { block_0 = 1 } }", 2, ["`layers` is up.block_0", "block_1"]),
        ("layers = [1, 2]", 2, ["`layers` is a list of 2", "16 attentions"]),
    ] {
        let table = format!("{{ images = ['{}'], {fields} }}", image.display());
        let command = Ipa::generate(&tiny_sd(""), &out.join("out.png")).with("--image-prompt", table);
        let command = command.with("--adapter", tiny_sd("ip_adapter.safetensors"));
        command.run().refused(status, &words);
        assert_empty(&out);
    }
}
