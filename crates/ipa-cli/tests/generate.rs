//! `ipa generate`, from its arguments to the files it leaves.
//! Reference values: tests/fixtures/pictures.py
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::path::Path;

use image::RgbImage;
use serde_json::{Value, json};
use support::Ipa;
use support::files::{
    assert_empty, edit_json, entries_below, fixture, make_model, read_json, read_values, relative_error, request_of,
    tiny_sd, write_request_of,
};

/// Rounding differs by 1e-6 in one call of the UNet and is guided, hence amplified, at every step.
const LATENTS_TOLERANCE: f64 = 1e-3;
/// Levels of 255.
const PICTURE_TOLERANCE: u8 = 2;

/// Fields of tests/fixtures/pictures/cases.json and the flags that set them.
const FLAGS: [(&str, &str); 9] = [
    ("prompt", "--prompt"),
    ("negative_prompt", "--negative-prompt"),
    ("scale", "--scale"),
    ("guidance_scale", "--guidance-scale"),
    ("steps", "--steps"),
    ("seed", "--seed"),
    ("num_images", "--num-images"),
    ("width", "--width"),
    ("height", "--height"),
];

/// The call that asks for what diffusers drew as `name`.
fn case(name: &str) -> Ipa {
    let cases = read_json(&fixture("pictures/cases.json"));
    let case = cases.as_array().unwrap().iter().find(|case| case["name"] == name).unwrap();
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let set = |command: Ipa, (field, flag): (&str, &str)| command.with(flag, text(&case[field]));
    let command = FLAGS.into_iter().fold(Ipa::on("generate", &tiny_sd("")), set);
    match case["image"].as_str() {
        Some(image) => command.with_reference().with("--image", fixture("pictures").join(image)),
        None => command,
    }
}

fn open(path: &Path) -> RgbImage {
    image::open(path).unwrap().into_rgb8()
}

/// The largest difference of any channel of any pixel.
fn levels_apart(found: &RgbImage, expected: &RgbImage) -> u8 {
    assert_eq!(found.dimensions(), expected.dimensions());
    found.as_raw().iter().zip(expected.as_raw()).map(|(a, b)| a.abs_diff(*b)).max().unwrap()
}

/// Asserts that the program writes the latents and the `num` pictures of diffusers, and nothing else.
#[track_caller]
fn assert_drawn_as_diffusers_does(name: &str, num: usize) {
    let folder = tempfile::tempdir().unwrap();
    let (pictures, latents) = (folder.path().join("pictures"), folder.path().join("latents.safetensors"));
    let output = if num == 1 { pictures.join("000.png") } else { pictures.clone() };
    case(name).with("--output", output).with("--save-latents", &latents).run().done();

    let found = read_values(&latents);
    assert!(found.keys().eq(["latents"]));
    let expected = &read_values(&fixture(&format!("pictures/{name}.safetensors")))["latents"];
    assert_eq!(found["latents"].shape, expected.shape);
    let error = relative_error(&found["latents"].values, &expected.values);
    assert!(error <= LATENTS_TOLERANCE, "relative error {error:.2e}");

    let names: Vec<String> = (0..num).map(|index| format!("{index:03}.png")).collect();
    assert_eq!(entries_below(&pictures), names);
    for file in names {
        let expected = open(&fixture(&format!("pictures/{name}_{file}")));
        let apart = levels_apart(&open(&pictures.join(&file)), &expected);
        assert!(apart <= PICTURE_TOLERANCE, "{file} is {apart} levels apart");
    }
}

#[test]
fn a_picture_of_text_is_diffusers_own() {
    assert_drawn_as_diffusers_does("text_only", 1);
}

#[test]
fn a_picture_after_a_reference_is_diffusers_own() {
    assert_drawn_as_diffusers_does("size_104x72", 1);
}

#[test]
fn several_pictures_are_numbered_in_sampling_order() {
    assert_drawn_as_diffusers_does("three_images", 3);
}

#[test]
fn one_picture_goes_to_the_file_named_at_the_models_own_size() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("new/red.png");
    let command = Ipa::on("generate", &tiny_sd("")).with("--prompt", "a red circle").with("--steps", "1");
    command.with("--output", &output).run().done();
    assert_eq!(entries_below(folder.path()), ["new", "new/red.png"]);
    assert_eq!(open(&output).dimensions(), (128, 128));
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_another_another_picture() {
    let folder = tempfile::tempdir().unwrap();
    let [first, again, other] = ["first.png", "again.png", "other.png"].map(|name| folder.path().join(name));
    for (output, seed) in [(&first, "5"), (&again, "5"), (&other, "6")] {
        Ipa::generate(&tiny_sd(""), output).with_reference().with("--seed", seed).run().done();
    }
    assert!(fs::read(&first).unwrap() == fs::read(&again).unwrap());
    assert_ne!(open(&first), open(&other));
}

#[test]
fn json_is_one_object_a_picture_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let command = Ipa::generate(&tiny_sd(""), folder.path()).with("--num-images", "2").with("--seed", "7");
    let lines = command.and("--json").run().done().json_lines();
    assert_eq!(lines.len(), 2);
    for (index, line) in lines.iter().enumerate() {
        let file = folder.path().join(format!("{index:03}.png"));
        assert_eq!(line["file"], json!(file));
        assert_eq!([&line["index"], &line["seed"]], [&json!(index), &json!(7)]);
        assert_eq!([&line["width"], &line["height"]], [&json!(64), &json!(64)]);
    }
}

#[test]
fn a_pictures_own_request_draws_it_again() {
    let folder = tempfile::tempdir().unwrap();
    let [first, again] = ["first.png", "again.png"].map(|name| folder.path().join(name));
    let command = Ipa::generate(&tiny_sd(""), &first).with_reference().with("--scale", "0.55").with("--seed", "9");
    command.with("--negative-prompt", "\"no\"\tstar, señor").run().done();

    let request = request_of(&first).unwrap();
    assert_eq!([&request["seed"], &request["scale"]], [&json!(9), &json!(0.55)]);
    assert_eq!(request["negative_prompt"], "\"no\"\tstar, señor");
    let file = folder.path().join("request.toml");
    write_request_of(&first, &file);
    let command = Ipa::on("generate", &tiny_sd("")).with("--adapter", tiny_sd("ip_adapter.safetensors"));
    command.with("--request", &file).with("--output", &again).run().done();
    assert!(fs::read(&first).unwrap() == fs::read(&again).unwrap());
}

#[test]
fn flags_go_before_the_request_file_whose_paths_start_at_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    let [file, image, output] = ["request.toml", "look.png", "out.png"].map(|name| folder.path().join(name));
    fs::copy(fixture("pictures/wide.png"), &image).unwrap();
    let text = "prompt = \"a star\"\nimages = [\"look.png\"]\nseed = 1\nnum_steps = 2\nwidth = 64\nheight = 72\n";
    fs::write(&file, text).unwrap();
    let command = Ipa::on("generate", &tiny_sd("")).with("--adapter", tiny_sd("ip_adapter.safetensors"));
    command.with("--request", &file).with("--seed", "42").with("--width", "72").with("--output", &output).run().done();

    let request = request_of(&output).unwrap();
    assert_eq!([&request["seed"], &request["width"]], [&json!(42), &json!(72)]);
    assert_eq!([&request["prompt"], &request["images"]], [&json!("a star"), &json!([image])]);
    assert_eq!([&request["num_steps"], &request["height"]], [&json!(2), &json!(72)]);
    assert_eq!(open(&output).dimensions(), (72, 72));
}

#[test]
fn a_preset_gives_what_neither_flags_nor_the_request_file_say() {
    let folder = tempfile::tempdir().unwrap();
    let [file, output, again] = ["request.toml", "out.png", "again.png"].map(|name| folder.path().join(name));
    fs::write(&file, "prompt = \"a star\"\nnum_steps = 4\nguidance_end = 1.0\nwidth = 64\nheight = 64\n").unwrap();
    let command = Ipa::on("generate", &tiny_sd("")).with("--request", &file).with("--output", &output);
    command.with("--cache-branch", "1").and("--fast").run().done();
    let request = request_of(&output).unwrap();
    assert_eq!(request["fast"], "default");
    assert_eq!([&request["num_steps"], &request["guidance_end"]], [&json!(4), &json!(1.0)]);
    assert!(request["cache_interval"].as_u64().unwrap() > 1);
    assert_eq!(request["cache_branch"], 1);

    let command = Ipa::new("generate").with("--like", &output).with("--output", &again);
    command.run().done();
    assert!(fs::read(&output).unwrap() == fs::read(&again).unwrap());
    let command = Ipa::new("generate").with("--like", &output).with("--output", &again).with("--steps", "3");
    command.with("--fast", "most").run().done();
    let request = request_of(&again).unwrap();
    assert_eq!([&request["fast"], &request["num_steps"]], [&json!("most"), &json!(3)]);
    assert!(request["guidance_end"].as_f64().unwrap() < 1.0);
}

#[test]
fn a_flag_takes_several_images_and_may_be_repeated() {
    let folder = tempfile::tempdir().unwrap();
    let [wide, tall] = ["wide.png", "tall.jpg"].map(|name| fixture("pictures").join(name));
    let draw = |name: &str, repeated: Option<&str>| {
        let output = folder.path().join(name);
        let command = Ipa::generate(&tiny_sd(""), &output).with("--adapter", tiny_sd("ip_adapter.safetensors"));
        let command = command.and("--image").and(&wide);
        repeated.into_iter().fold(command, Ipa::and).and(&tall).run().done();
        request_of(&output).unwrap()["images"].clone()
    };
    assert_eq!(draw("at_once.png", None), json!([wide, tall]));
    assert_eq!(draw("one_by_one.png", Some("--image")), json!([wide, tall]));
}

#[test]
fn a_picture_to_start_from_gives_its_size() {
    let folder = tempfile::tempdir().unwrap();
    let (output, wide) = (folder.path().join("out.png"), fixture("pictures/wide.png"));
    let draw = Ipa::on("generate", &tiny_sd("")).with("--steps", "4").with("--output", &output);
    let draw = draw.with("--init-image", &wide).with("--strength", "0.5");
    draw.clone().run().done();
    assert_eq!(open(&output).dimensions(), (88, 56)); // of 90 x 60
    let request = request_of(&output).unwrap();
    assert_eq!([&request["init_image"], &request["strength"]], [&json!(wide), &json!(0.5)]);
    draw.clone().with("--width", "64").run().done();
    assert_eq!(open(&output).dimensions(), (64, 40));
    draw.with("--width", "64").with("--height", "72").run().done();
    assert_eq!(open(&output).dimensions(), (64, 72));
}

#[test]
fn values_out_of_range_and_unknown_names_are_wrong_arguments() {
    let folder = tempfile::tempdir().unwrap();
    for (flag, value, words) in [
        ("--width", "100", ["width", "multiple of 8"]),
        ("--height", "0", ["height", "multiple of 8"]),
        ("--steps", "0", ["steps", "1 to 1000"]),
        ("--num-images", "0", ["num_images", "1 to 1000"]),
        ("--scale", "nan", ["scale", "NaN"]),
        ("--guidance-end", "1.5", ["--guidance-end", "0 to 1"]),
        ("--cache-interval", "0", ["--cache-interval", "1 (off)"]),
        ("--cache-branch", "12", ["--cache-branch", "12 in Stable Diffusion"]),
        ("--fast", "slow", ["--fast", "mild"]),
        ("--clip-skip", "9", ["--clip-skip", "text encoder"]),
        ("--batch-size", "0", ["--batch-size", "at least 1"]),
        ("--eta", "2", ["--eta", "0 to 1"]),
        ("--scheduler", "dpm", ["--scheduler", "ddim"]),
        ("--device", "gpu", ["`gpu`", "cuda:N"]),
        ("--dtype", "f8", ["`f8`", "bf16"]),
    ] {
        let command = Ipa::generate(&tiny_sd(""), &folder.path().join("out.png")).with(flag, value);
        command.run().refused(2, &words);
        assert_empty(folder.path());
    }
}

#[test]
fn arguments_that_do_not_go_together_are_refused_with_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out.png");
    let nothing = Ipa::on("generate", &tiny_sd("")).with("--output", &output);
    let text = Ipa::generate(&tiny_sd(""), &output);
    let (adapter, image) = (tiny_sd("ip_adapter.safetensors"), fixture("pictures/wide.png"));
    for (command, words) in [
        (nothing, ["--prompt", "--image"]),
        (text.clone().with("--image", image), ["no adapter", "--adapter"]),
        (text.clone().with("--adapter", adapter), ["needs a reference", "--image"]),
        (text.clone().with("--output", folder.path()), ["--output", "folder"]),
        (text.clone().with("--output", folder.path().join("out.gif")), ["--output", "png"]),
        (text.clone().with("--num-images", "2"), ["--output", "need a folder"]),
        (text.clone().with("--strength", "0.5"), ["--strength", "--init-image"]),
        (text.with("--save-latents", &output), ["--save-latents", "the same file"]),
    ] {
        command.run().refused(2, &words);
        assert_empty(folder.path());
    }
}

#[test]
fn a_request_file_with_a_typing_error_is_refused_by_file_and_field() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("request.toml");
    fs::write(&file, "prompt = \"a star\"\nstepps = 3\n").unwrap();
    let command = Ipa::on("generate", &tiny_sd("")).with("--output", folder.path().join("out.png"));
    command.with("--request", &file).run().refused(2, &["request.toml", "stepps"]);
    assert_eq!(entries_below(folder.path()), ["request.toml"]);
}

#[test]
fn a_request_file_with_an_unknown_sampler_is_refused_as_the_flag_is() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("request.toml");
    fs::write(&file, "scheduler = \"dpm\"\n").unwrap();
    let command = Ipa::generate(&tiny_sd(""), &folder.path().join("out.png"));
    command.with("--request", &file).run().refused(2, &["scheduler", "dpm", "ddim"]);
}

#[test]
fn a_model_with_an_unknown_sampler_needs_one_named() {
    let model = make_model();
    edit_json(&model.path().join("scheduler/scheduler_config.json"), |config| {
        config["_class_name"] = json!("DEISMultistepScheduler");
    });
    let folder = tempfile::tempdir().unwrap();
    let command = Ipa::generate(model.path(), &folder.path().join("out.png"));
    command.clone().run().refused(1, &["DEISMultistepScheduler", "--scheduler"]);
    assert_empty(folder.path());
    command.with("--scheduler", "ddim").run().done();
}
