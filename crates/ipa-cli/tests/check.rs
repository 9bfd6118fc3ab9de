//! `ipa check`: three tests, percentages and a grade.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::path::Path;

use serde_json::json;
use support::Ipa;
use support::files::{
    assert_empty, copy_folder, fixture, make_dataset, read_json, read_tensors, request_of, tiny_sd, write_request_of,
    write_tensors,
};
use tempfile::TempDir;

/// Pictures that were not trained on.
const THREE_ROWS: &str = r#"[{"image_file": "a.png", "text": "a cat"}, {"image_file": "b.png", "text": "a dog"},
    {"image_file": "a.png", "text": "a red star"}]"#;

/// The tiny model and its adapter, in two steps.
fn check(output: &Path) -> Ipa {
    let command = Ipa::on("check", &tiny_sd("")).with("--adapter", tiny_sd("ip_adapter.safetensors"));
    command.with("--steps", "2").with("--output", output)
}

/// A whole CLIP made of the random towers that the fixtures have one by one.
fn make_clip() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let (text, vision) = (fixture("models/text_projection"), tiny_sd("image_encoder"));
    let config = json!({
        "text_config": read_json(&text.join("config.json")),
        "vision_config": read_json(&vision.join("config.json")),
        "projection_dim": 24,
    });
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let mut tensors = read_tensors(&text.join("model.safetensors"));
    tensors.extend(read_tensors(&vision.join("model.safetensors")));
    write_tensors(&folder.path().join("model.safetensors"), tensors);
    copy_folder(&tiny_sd("tokenizer"), folder.path());
    copy_folder(&tiny_sd("feature_extractor"), folder.path());
    folder
}

/// A tests file of three cases beside the picture that they show.
fn make_tests() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(fixture("pictures/wide.png"), folder.path().join("look.png")).unwrap();
    let case = |prompt: &str| format!("[[case]]\nimage = \"look.png\"\nprompt = \"{prompt}\"\n");
    fs::write(folder.path().join("tests.toml"), ["a cat", "a dog", "a red star"].map(case).concat()).unwrap();
    folder
}

#[test]
fn every_test_has_two_scores_their_mean_a_grade_and_a_picture() {
    let (clip, tests, output) = (make_clip(), make_tests(), tempfile::tempdir().unwrap());
    let command = check(output.path()).with("--clip", clip.path()).with("--tests", tests.path().join("tests.toml"));
    let lines = command.and("--json").run().done().json_lines();
    let prompts: Vec<_> = lines.iter().map(|line| line["prompt"].as_str().unwrap()).collect();
    assert_eq!(prompts, ["a cat", "a dog", "a red star"]);
    for (index, line) in lines.iter().enumerate() {
        assert_eq!(line["case"], format!("test {}", index + 1));
        let number = |field: &str| line[field].as_f64().unwrap();
        let (preserved, followed) = (number("reference_preservation"), number("prompt_following"));
        let close = |found: f64, expected: f64| assert!((found - expected).abs() < 1e-9, "{found} in {line}");
        close(preserved, 100.0 * number("image_cosine").max(0.0));
        close(followed, 100.0 * (2.5 * number("text_cosine").max(0.0)).min(1.0));
        close(number("combined"), (preserved + followed) / 2.0);
        let limits = [(90.0, "A+"), (80.0, "A"), (70.0, "B"), (60.0, "C")];
        let grade = limits.into_iter().find(|(limit, _)| number("combined") >= *limit).map_or("F", |(_, grade)| grade);
        assert_eq!(line["grade"], grade);
        assert!(line["mapping"].as_str().unwrap().contains("2.5"), "{line}");
        let picture = image::open(line["file"].as_str().unwrap()).unwrap();
        assert_eq!((picture.width(), picture.height()), (128, 128));
        let reference = image::open(line["reference"].as_str().unwrap()).unwrap();
        assert!(reference == image::open(tests.path().join("look.png")).unwrap().into_rgb8().into());
    }
}

#[test]
fn a_tests_picture_carries_the_request_that_draws_it_again() {
    let (clip, tests, output) = (make_clip(), make_tests(), tempfile::tempdir().unwrap());
    let command = check(output.path()).with("--clip", clip.path()).with("--tests", tests.path().join("tests.toml"));
    command.run().done();
    let [picture, reference, file, again] =
        ["test-2.png", "test-2-reference.png", "request.toml", "again.png"].map(|name| output.path().join(name));
    assert_eq!(request_of(&picture).unwrap()["images"], json!([reference]));
    assert_eq!(request_of(&reference), None);
    write_request_of(&picture, &file);
    let command = Ipa::on("generate", &tiny_sd("")).with("--adapter", tiny_sd("ip_adapter.safetensors"));
    command.with("--request", &file).with("--output", &again).run().done();
    assert!(fs::read(&picture).unwrap() == fs::read(&again).unwrap());
}

#[test]
fn people_see_raw_cosines_and_how_they_become_grades() {
    let (clip, data, output) = (make_clip(), make_dataset(THREE_ROWS), tempfile::tempdir().unwrap());
    let command = check(output.path()).with("--clip", clip.path()).with("--data", data.path().join("data.json"));
    let told = command.run().done().stdout;
    for (words, times) in
        [("(cos ", 6), ("grade ", 3), ("100 · max(cos, 0)", 1), ("A+ from 90", 1), ("test-2.png after ", 1)]
    {
        assert_eq!(told.matches(words).count(), times, "`{words}` in {told}");
    }
}

/// An empty prompt cannot be followed, on the screen, in JSON and in the report alike.
#[test]
fn without_a_prompt_likeness_alone_is_told() {
    let (clip, tests, output) = (make_clip(), make_tests(), tempfile::tempdir().unwrap());
    let file = tests.path().join("tests.toml");
    fs::write(&file, fs::read_to_string(&file).unwrap().replace("a dog", " ")).unwrap();
    let command = || check(output.path()).with("--clip", clip.path()).with("--tests", &file);
    let told = command().and("--report").run().done().stdout;
    assert!(told.contains("no prompt to follow") && told.contains("the 2 of 3 with a prompt: "), "{told}");
    let combined = told.split_once("with a prompt: ").unwrap().1.split_once(" % combined").unwrap().0;
    let report = read_json(&output.path().join("evaluation_report.json"));
    assert_eq!(format!("{:.1}", report["adapters"][0]["tests"]["score"]["combined"].as_f64().unwrap()), combined);
    let again = command().and("--json").run().done();
    assert!(again.stderr.contains("report.html is of an earlier run"), "{}", again.stderr);
    let fields = |line: &serde_json::Value| ["image_cosine", "grade"].map(|field| line.get(field).is_some());
    let lines: Vec<_> = again.json_lines().iter().map(fields).collect();
    assert_eq!(lines, [[true, true], [true, false], [true, true]]);
}

#[test]
fn a_model_without_a_clip_asks_for_one() {
    let (data, output) = (make_dataset(THREE_ROWS), tempfile::tempdir().unwrap());
    let command = check(output.path()).with("--data", data.path().join("data.json"));
    command.run().refused(1, &["nothing to score with", "--clip"]);
    assert_empty(output.path());
}

#[test]
fn without_three_tests_there_is_nothing_to_check() {
    let (data, output) = (make_dataset(r#"[{"image_file": "a.png", "text": "a cat"}]"#), tempfile::tempdir().unwrap());
    check(output.path()).run().refused(2, &["--tests", "--data"]);
    let command = check(output.path()).with("--data", data.path().join("data.json"));
    command.run().refused(2, &["data.json", "needs 3 pictures, and here are 1"]);
    assert_empty(output.path());
}

#[test]
fn a_test_without_its_picture_is_refused_by_the_pictures_name() {
    let (clip, tests, output) = (make_clip(), make_tests(), tempfile::tempdir().unwrap());
    fs::remove_file(tests.path().join("look.png")).unwrap();
    let command = check(output.path()).with("--clip", clip.path()).with("--tests", tests.path().join("tests.toml"));
    command.run().refused(1, &["look.png"]);
    assert_empty(output.path());
}
