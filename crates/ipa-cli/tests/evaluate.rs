//! `ipa evaluate`: reports, interruptions, shards, wrong inputs; on the pocket model in a step or two.
#![cfg(feature = "pocket")]
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use image::{Rgb, RgbImage};
use serde_json::Value;
use support::files::{assert_empty, cut, entries_below, read_json, request_of, tiny_sd};
use support::{Ended, Ipa};
use tempfile::TempDir;

/// The files that a report consists of.
const REPORT: [&str; 4] = ["evaluation_report.json", "pictures.csv", "summary.csv", "report.html"];
const MEASUREMENTS: &str = "measurements.jsonl";

fn asset(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets").join(name)
}

/// A cache for the unpacked model, of all tests here.
fn cache() -> &'static Path {
    static CACHE: OnceLock<TempDir> = OnceLock::new();
    CACHE.get_or_init(|| tempfile::tempdir().unwrap()).path()
}

fn run(command: Ipa) -> Ended {
    command.run_with_cache(cache())
}

/// Two tests, one seed, one other strength: ten pictures in a step each.
fn evaluate(report: &Path) -> Ipa {
    let command = Ipa::on("evaluate", Path::new("pocket")).with("--report", report).with("--steps", "1");
    command.with("--limit", "2").with("--seeds", "1").with("--scales", "1")
}

/// A protocol run of two samples.
fn protocol(data: &Path, report: &Path) -> Ipa {
    let command = Ipa::on("evaluate", Path::new("pocket")).with("--report", report).with("--steps", "1");
    command.with("--seeds", "2").with("--protocol", "paper").with("--data", data)
}

/// So many captioned pictures in a folder.
fn image_folder(num: u8) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for index in 0..num {
        let pixel = |x: u32, y: u32| Rgb([40 * index, (2 * x) as u8, (3 * y) as u8]);
        RgbImage::from_fn(80, 60, pixel).save(folder.path().join(format!("{index}.png"))).unwrap();
        let captions = format!("a red circle\na picture of number {index}\n");
        fs::write(folder.path().join(format!("{index}.txt")), captions).unwrap();
    }
    folder
}

fn report_files(folder: &Path) -> [Vec<u8>; 4] {
    REPORT.map(|name| fs::read(folder.join(name)).unwrap())
}

/// Asserts that two folders hold the same report, byte for byte.
#[track_caller]
fn assert_same_report(a: &Path, b: &Path) {
    for ((name, a), b) in REPORT.iter().zip(report_files(a)).zip(report_files(b)) {
        assert!(a == b, "{name} differs");
    }
}

#[track_caller]
fn assert_valid(report: &Value) {
    let schema = read_json(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/evaluation_report.schema.json"));
    let validator = jsonschema::validator_for(&schema).unwrap();
    let errors: Vec<String> =
        validator.iter_errors(report).map(|error| format!("{error} at {}", error.instance_path())).collect();
    assert_eq!(errors, Vec::<String>::new());
}

#[test]
fn a_report_has_every_section_and_follows_its_schema() {
    let folder = tempfile::tempdir().unwrap();
    let adapter = asset("pocket/ip_adapter.safetensors");
    let again = folder.path().join("again.safetensors");
    fs::copy(&adapter, &again).unwrap();
    let output = folder.path().join("report");
    let command = evaluate(&output)
        .with("--scales", "0.5,1")
        .with("--seeds", "2")
        .with("--training-data", asset("mascot/data.json"));
    let command =
        command.with("--held-out", asset("fin/data.json")).with("--adapter", format!("first={}", adapter.display()));
    let lines = run(command.and("--adapter").and(&again).and("--json")).done().json_lines();
    let [line] = lines.as_slice() else { panic!("{lines:#?}") };
    let report = read_json(&output.join("evaluation_report.json"));
    assert_valid(&report);
    assert_eq!(line["adapters"], report["adapters"]);

    let names = |key: &str| report[key].as_array().unwrap().iter().map(|one| one["name"].clone()).collect::<Vec<_>>();
    assert_eq!(
        (names("adapters"), names("baselines")),
        (vec!["first".into(), "again".into()], vec!["text only".into(), "reference itself".into()])
    );
    for section in ["tests", "held_out", "scale_sensitivity", "diversity", "prompt_sensitivity", "copying"] {
        assert!(!report["adapters"][0][section].is_null(), "no {section}");
    }
    assert_eq!(report["adapters"][0]["tests"], report["adapters"][1]["tests"], "the same adapter under two names");
    assert_eq!(report["baselines"][1]["tests"]["clip_i"]["mean"], 1.0);
    assert!(!report["baselines"][0]["diversity"].is_null());
    assert!(report["adapters"][0]["tests"]["judged"]["color"].is_object());
    assert!(
        report["settings"]["calibration"]["real"].as_f64() > report["settings"]["calibration"]["shuffled"].as_f64()
    );

    for row in report["pictures"].as_array().unwrap() {
        for file in [&row["file"], &row["reference"], &row["nearest_training"]["file"]] {
            assert!(output.join(file.as_str().unwrap()).is_file(), "{row}");
        }
    }
    let drawn = report["pictures"][0]["file"].as_str().unwrap();
    assert_eq!(request_of(&output.join(drawn)).unwrap()["num_steps"], 1);
    let told = fs::read_to_string(output.join("report.html")).unwrap();
    assert!(!told.contains(&*output.to_string_lossy()), "the page names the folder that it was made in");
}

#[test]
fn people_see_one_screen() {
    let output = tempfile::tempdir().unwrap();
    let told = run(evaluate(output.path()).with("--limit", "1")).done().stdout;
    assert!(told.lines().count() <= 24, "{told}");
    let text_only = told.lines().find(|line| line.starts_with("text only")).unwrap();
    let grades = ["A+", "A", "B", "C", "F"];
    assert!(text_only.contains("1 test ") && !text_only.split(' ').any(|word| grades.contains(&word)), "{text_only}");
    for words in ["pocket ", "text only", "reference itself", "CLIP-I", "calibrated", "impression", "report.html"] {
        assert!(told.contains(words), "nothing of `{words}` in {told}");
    }
}

#[test]
fn an_evaluation_goes_on_wherever_it_was_cut_off() {
    let (whole, part) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    run(evaluate(whole.path())).done();
    let lines = fs::read_to_string(whole.path().join(MEASUREMENTS)).unwrap();
    let ends: Vec<usize> = lines.match_indices('\n').map(|(end, _)| end + 1).collect();
    for cut in [ends[0], ends[3] + 100, ends[ends.len() - 2] + 5] {
        fs::write(part.path().join(MEASUREMENTS), &lines[..cut]).unwrap();
        for folder in ["pictures", "references"] {
            support::files::copy_folder(&whole.path().join(folder), &part.path().join(folder));
        }
        run(evaluate(part.path()).and("--resume")).done();
        assert_same_report(whole.path(), part.path());
    }
}

#[cfg(unix)]
#[test]
fn after_ctrl_c_the_same_command_goes_on() {
    let (whole, part) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let long = |report: &Path| evaluate(report).with("--steps", "20");
    run(long(whole.path())).done();
    let mut running = long(part.path()).start_with_cache(cache());
    let rows = || fs::read_to_string(part.path().join(MEASUREMENTS)).unwrap_or_default().lines().count();
    while rows() < 5 {
        assert!(!running.has_ended());
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    running.signal("INT");
    running.ended().refused(1, &["interrupted", "the same command goes on"]);
    assert!(!part.path().join("report.html").exists());
    run(long(part.path())).done();
    assert_same_report(whole.path(), part.path());
}

#[test]
fn other_settings_are_refused_by_name() {
    let output = tempfile::tempdir().unwrap();
    run(evaluate(output.path())).done();
    let before = report_files(output.path());
    for (flag, value, named) in [
        ("--steps", "2", "`num_steps`"),
        ("--seeds", "2", "`Seeds`"),
        ("--scale", "0.7", "`scale`"),
        ("--limit", "1", "`Tests`"),
    ] {
        run(evaluate(output.path()).with(flag, value))
            .refused(1, &[MEASUREMENTS, named, "another evaluation", " there and "]);
    }
    assert!(report_files(output.path()) == before);
}

#[test]
fn three_shards_merged_are_one_run() {
    let (data, folder) = (image_folder(7), tempfile::tempdir().unwrap());
    cut(&data.path().join("3.png"));
    let place = |name: &str| folder.path().join(name);
    run(protocol(data.path(), &place("whole"))).done();
    for shard in ["1", "2", "3"] {
        let command = protocol(data.path(), &place(shard)).with("--shard", format!("{shard}/3"));
        run(command).done();
    }
    let merge = Ipa::new("evaluate").and("merge").and(place("3")).and(place("1")).and(place("2"));
    let ended = run(merge.with("--report", place("merged"))).done();
    assert!(ended.stdout.contains("6 images"), "{ended:#?}");
    assert_same_report(&place("whole"), &place("merged"));
    let pictures = |name: &str| entries_below(&place(name)).into_iter().filter(|entry| entry.ends_with(".png")).count();
    assert_eq!((pictures("merged"), pictures("whole")), (6 * 3, 6 * 3));

    let report = read_json(&place("whole").join("evaluation_report.json"));
    assert_valid(&report);
    assert_eq!(report["skipped"].as_array().unwrap().len(), 1);
    assert_eq!((&report["skipped"][0]["case"], &report["skipped"][0]["file"]), (&"3.png".into(), &"3.png".into()));
    let protocol = &report["adapters"][0]["protocol"];
    assert_eq!((&protocol["num_cases"], &protocol["num_pictures"]), (&6.into(), &12.into()));
    assert_eq!(report["pictures"][0]["caption_cosines"].as_array().unwrap().len(), 2);
    assert_eq!(report["published"]["rows"].as_array().unwrap().len(), 9);
    let deviations = report["published"]["deviations"].to_string();
    for words in
        ["scored by pocket/clip", "6 images in place of 5000", "samples 2 in place of 4", "steps 1 in place of 50"]
    {
        assert!(deviations.contains(words), "{deviations}");
    }
    let captions: Vec<&Value> = report["pictures"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| &row["captions"])
        .filter(|found| !found.is_null())
        .collect();
    assert_eq!(captions.len(), 6, "once for each image");
    assert_eq!(captions[0].to_string(), r#"["a red circle","a picture of number 0"]"#);

    // A part alone says so, and is not merged as if it were the whole.
    assert!(read_json(&place("1").join("evaluation_report.json"))["verdict"].to_string().contains("of 7 images"));
    let merge = |parts: &[&str]| {
        let merge = parts.iter().fold(Ipa::new("evaluate").and("merge"), |merge, part| merge.and(place(part)));
        merge.with("--report", place("again"))
    };
    run(merge(&["1", "2"])).refused(1, &["of 7 images", "--partial"]);
    run(merge(&["1", "1"])).refused(1, &["the same pictures as a part before it"]);
    assert!(!place("again").exists());
    let told = run(merge(&["1", "2"]).and("--partial")).done().stdout;
    assert!(told.contains("of 7 images: this is a part of the run"), "{told}");
}

#[test]
fn the_same_images_are_one_run_however_they_are_named_and_replaced_ones_are_another() {
    let (data, output) = (image_folder(2), tempfile::tempdir().unwrap());
    cut(&data.path().join("1.png"));
    let sub = data.path().join(".");
    let list =
        r#"{"0.png": ["a red circle", "a picture of number 0"], "1.png": ["a red circle", "a picture of number 1"]}"#;
    run(protocol(data.path(), output.path())).done();
    let before = report_files(output.path());
    fs::write(data.path().join("captions.json"), list).unwrap();
    for spelling in [sub, data.path().join("captions.json")] {
        run(protocol(&spelling, output.path())).done();
        assert!(report_files(output.path()) == before, "{}", spelling.display());
    }
    let report = read_json(&output.path().join("evaluation_report.json"));
    let skipped = report["skipped"].as_array().unwrap();
    assert_eq!(skipped.len(), 1);
    assert!(!skipped[0]["reason"].as_str().unwrap().contains('/'), "{skipped:?}");
    RgbImage::from_pixel(40, 40, Rgb([1, 2, 3])).save(data.path().join("0.png")).unwrap();
    run(protocol(data.path(), output.path())).refused(1, &["`Images`", " there and "]);
}

#[test]
fn a_picture_that_was_removed_is_drawn_again() {
    let output = tempfile::tempdir().unwrap();
    run(evaluate(output.path())).done();
    let before = report_files(output.path());
    let report = read_json(&output.path().join("evaluation_report.json"));
    let file = output.path().join(report["pictures"][0]["file"].as_str().unwrap());
    fs::remove_file(&file).unwrap();
    run(evaluate(output.path())).done();
    assert!(file.is_file() && report_files(output.path()) == before);
}

#[test]
fn cocos_annotations_are_drawn_after_too() {
    let (data, output) = (image_folder(2), tempfile::tempdir().unwrap());
    let list = r#"{"images": [{"id": 10, "file_name": "1.png"}, {"id": 9, "file_name": "0.png"}],
        "annotations": [{"id": 2, "image_id": 10, "caption": "a red circle"}, {"id": 1, "image_id": 9, "caption": "a star"}]}"#;
    fs::write(data.path().join("captions_val.json"), list).unwrap();
    run(protocol(data.path(), output.path()).with("--limit", "1")).done();
    let report = read_json(&output.path().join("evaluation_report.json"));
    assert_eq!(report["pictures"][0]["case"], "9");
    assert_eq!(report["adapters"][0]["protocol"]["num_cases"], 1);
}

#[test]
fn broken_pictures_in_lists_are_skipped_and_the_rest_goes_on() {
    let (data, output) = (image_folder(4), tempfile::tempdir().unwrap());
    cut(&data.path().join("1.png"));
    fs::remove_file(data.path().join("2.txt")).unwrap();
    let command = || evaluate(output.path()).with("--data", data.path()).with("--limit", "4");
    run(command().with("--training-data", data.path())).done();
    let report = read_json(&output.path().join("evaluation_report.json"));
    assert_valid(&report);
    assert_eq!(report["adapters"][0]["tests"]["num_cases"], 2);
    let skipped = report["skipped"].as_array().unwrap().iter();
    let skipped: Vec<_> = skipped.map(|skip| (skip["set"].as_str().unwrap(), skip["file"].as_str().unwrap())).collect();
    assert_eq!(skipped, [("tests", "2.png"), ("tests", "1.png"), ("training", "1.png"), ("training", "2.png")]);
    assert!(!report["skipped"].to_string().contains(&*data.path().to_string_lossy()), "a reason names a place");
    run(evaluate(tempfile::tempdir().unwrap().path()).with("--data", data.path()).with("--limit", "1")).done();

    let check = Ipa::on("check", Path::new("pocket")).with("--data", data.path()).with("--steps", "1");
    let check = || check.clone().with("--output", output.path().join("check"));
    run(check()).refused(2, &["1.png is skipped", "2.png is skipped", "here are 2"]);
    fs::copy(data.path().join("0.png"), data.path().join("4.png")).unwrap();
    fs::write(data.path().join("4.txt"), "a star").unwrap();
    run(check()).done();
    for index in [0, 3, 4] {
        cut(&data.path().join(format!("{index}.png")));
    }
    run(check()).refused(1, &["no picture that can be used", ".png"]);
}

#[test]
fn a_prompt_that_is_repeated_is_tried_once() {
    let output = tempfile::tempdir().unwrap();
    run(evaluate(output.path()).with("--limit", "1").with("--prompt", "a star").and("--prompt").and("a star")).done();
    let report = read_json(&output.path().join("evaluation_report.json"));
    assert_eq!(report["adapters"][0]["seeds_by_prompts"][0]["prompts"].as_array().unwrap().len(), 2);
}

#[test]
fn parts_of_two_runs_are_not_merged() {
    let (data, folder) = (image_folder(2), tempfile::tempdir().unwrap());
    let place = |name: &str| folder.path().join(name);
    run(protocol(data.path(), &place("1")).with("--shard", "1/2")).done();
    run(protocol(data.path(), &place("2")).with("--shard", "2/2").with("--scale", "0.5")).done();
    let merge = Ipa::new("evaluate").and("merge").and(place("1")).and(place("2")).with("--report", place("merged"));
    run(merge).refused(1, &["`scale` is 1.0 in the first part and 0.5 in this"]);
    let merge = Ipa::new("evaluate").and("merge").and(place("3")).with("--report", place("merged"));
    run(merge).refused(1, &["cannot read measurements", "3"]);
    assert!(!place("merged").exists());
}

#[test]
fn a_broken_picture_among_the_held_out_ones_is_skipped_and_listed() {
    let (data, output) = (image_folder(3), tempfile::tempdir().unwrap());
    cut(&data.path().join("1.png"));
    run(evaluate(output.path()).with("--held-out", data.path())).done();
    let report = read_json(&output.path().join("evaluation_report.json"));
    assert_eq!(report["adapters"][0]["held_out"]["num_cases"], 2);
    assert_eq!(
        (report["skipped"][0]["set"].as_str(), report["skipped"][0]["file"].as_str()),
        (Some("held_out"), Some("1.png"))
    );
}

#[test]
fn wrong_inputs_cost_one_error_and_leave_nothing() {
    let (data, output) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let tests = data.path().join("tests.toml");
    fs::write(&tests, "[[case]]\nimage = \"gone.png\"\nprompt = \"a cat\"\n").unwrap();
    run(evaluate(output.path()).with("--tests", &tests)).refused(1, &["gone.png"]);
    let other = tiny_sd("ip_adapter.safetensors");
    run(evaluate(output.path()).with("--adapter", &other)).refused(1, &["ip_adapter.safetensors", "base model"]);
    run(evaluate(output.path()).with("--scale", "-1")).refused(2, &["`scale`"]);
    run(evaluate(output.path()).with("--scales", "0.5,-1")).refused(2, &["`--scales` holds -1"]);
    let foreign = tempfile::tempdir().unwrap();
    fs::write(foreign.path().join(MEASUREMENTS), "{\"loss\": 1}\n").unwrap();
    run(evaluate(foreign.path())).refused(1, &[MEASUREMENTS, "does not begin with the settings of an evaluation"]);
    run(evaluate(output.path()).and("--resume")).refused(2, &["nothing to go on with"]);
    run(protocol(data.path(), output.path())).refused(1, &["lists no images"]);
    let tiny = Ipa::on("evaluate", &tiny_sd("")).with("--adapter", &other).with("--report", output.path());
    run(tiny).refused(2, &["--tests", "--data"]);
    let twice = asset("pocket/ip_adapter.safetensors");
    let twice = evaluate(output.path()).with("--adapter", &twice).and("--adapter").and(&twice);
    run(twice).refused(2, &["called `pocket`", "new=FILE"]);
    assert_empty(output.path());
}
