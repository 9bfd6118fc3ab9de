//! `ipa dataset check`: what prevents training and what is worth a look.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::path::Path;

use image::{Rgb, RgbImage};
use support::Ipa;
use support::files::{assert_empty, make_dataset, tiny_sd, two_pictures};

fn check(data: &Path) -> Ipa {
    Ipa::new("dataset").and("check").and(data.join("data.json"))
}

/// Two usable rows, one of them odd in every way, and one that is not there.
const FAULTY: &str = r#"[{"image_file": "a.png", "text": "a cat", "license": "CC0"}, {"image_file": "b.png", "text": ""},
    {"image_file": "c.png", "text": "lost", "url": "x"}, {"image_file": "b.png", "text": "a dog", "weight": -1}]"#;

#[test]
fn remarks_alone_are_no_failure() {
    let data = two_pictures();
    let told = check(data.path()).run().done().stdout;
    for words in ["data.json: 2 rows", "worth a look", "small picture", "a.png: 48 x 40", "no licence"] {
        assert!(told.contains(words), "`{words}` in {told}");
    }
    assert!(!told.contains("prevents training"), "{told}");
    let told = check(data.path()).with("--min-side", "32").run().done().stdout;
    assert!(!told.contains("small picture"), "{told}");
}

#[test]
fn what_prevents_training_is_named_and_fails() {
    let data = make_dataset(FAULTY);
    let told = check(data.path()).run().refused(1, &["data.json cannot be trained on", "the 2 at fault"]);
    for words in ["row 2: `c.png` does not exist", "row 3: `weight` is -1", "empty caption", "no licence"] {
        assert!(told.stdout.contains(words), "`{words}` in {}", told.stdout);
    }
    let lines = check(data.path()).and("--json").run().refused(1, &["data.json"]).json_lines();
    let whole = lines.last().unwrap();
    assert_eq!((&whole["rows"], &whole["faults"], &whole["usable"]), (&2.into(), &2.into(), &false.into()));
    assert_eq!(whole["counts"]["empty caption"], 1);
    assert!(lines.iter().any(|line| line["key"] == "b.png" && line["kind"] == "empty caption"));
}

#[test]
fn a_models_tokenizer_says_which_captions_are_too_long() {
    let data = make_dataset(&format!(r#"[{{"image_file": "a.png", "text": "{}"}}]"#, "a small red star ".repeat(40)));
    let told = check(data.path()).run().done().stdout;
    assert!(!told.contains("caption too long"), "{told}");
    let told = check(data.path()).with("--model", tiny_sd("")).run().done().stdout;
    assert!(told.contains("caption too long"), "{told}");
}

#[test]
fn the_contact_sheet_is_one_page_with_flagged_rows_first() {
    let (data, output) = (make_dataset(FAULTY), tempfile::tempdir().unwrap());
    let pixel = |x, y| Rgb([(3 * x) as u8, (x * y) as u8, 9]);
    RgbImage::from_fn(600, 500, pixel).save(data.path().join("large.png")).unwrap();
    let list = r#"[{"image_file": "large.png", "text": "<b>plain</b>"}, {"image_file": "a.png", "text": "a cat"}]"#;
    fs::write(data.path().join("data.json"), list).unwrap();
    let page = output.path().join("new/sheet.html");
    check(data.path()).with("--report", &page).run().done();
    let html = fs::read_to_string(page).unwrap();
    assert_eq!(html.matches("data:image/jpeg;base64,").count(), 2);
    assert!(html.contains("&lt;b&gt;plain&lt;/b&gt;") && html.contains("large.png · 600 x 500"));
    let place = |text: &str| html.find(text).unwrap_or_else(|| panic!("{text}"));
    let places = [">Worth a look</h2>", "<h3>a.png · 48 x 40</h3>", ">All others</h2>", "<h3>large.png"].map(place);
    assert!(places.is_sorted(), "{places:?}");
}

#[test]
fn what_is_no_dataset_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let check = |path: &Path| Ipa::new("dataset").and("check").and(path).run();
    check(folder.path()).refused(1, &["has no rows"]);
    check(&folder.path().join("lost.json")).refused(1, &["lost.json"]);
    check(&folder.path().join("shard-{0..1}.tar")).refused(1, &["shard-{0..1}.tar cannot be trained on"]);
    fs::write(folder.path().join("data.json"), "{}").unwrap();
    let (output, data) = (tempfile::tempdir().unwrap(), folder.path().join("data.json"));
    let page = output.path().join("sheet.html");
    Ipa::new("dataset").and("check").and(data).with("--report", page).run().refused(1, &["data.json"]);
    assert_empty(output.path());
}
