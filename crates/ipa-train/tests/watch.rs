//! The report of a run, made up by the example `watch`, and its events.

#![allow(clippy::unwrap_used)]

#[path = "../examples/watch/run.rs"]
mod run;

use std::fs;
use std::path::Path;

use ipa_train::watch::{Fact, ReportInput, ValidationResult, write_report};
use serde_json::{Value, json};

/// The names of all tags in order, closing ones with their slash, and all text outside of them; panics where a tag or a
/// comment does not end. Knows as much of HTML as the page uses.
fn parse(html: &str) -> (Vec<String>, String) {
    let (mut tags, mut text, mut rest) = (Vec::new(), String::new(), html);
    while let Some((before, tag)) = rest.split_once('<') {
        text += before;
        let (mut quoted, mut end) = (None, None);
        for (at, c) in tag.char_indices() {
            match (quoted, c) {
                (None, '>') => {
                    end = Some(at);
                    break;
                }
                (None, '"' | '\'') => quoted = Some(c),
                (Some(quote), c) if c == quote => quoted = None,
                _ => {}
            }
        }
        let end = end.expect("every tag ends");
        let inside = &tag[..end];
        let name: String = inside.chars().take_while(|&c| c.is_ascii_alphanumeric() || c == '/').collect();
        if !inside.starts_with('!') && !inside.ends_with('/') {
            tags.push(name.clone());
        }
        rest = &tag[end + 1..];
        if name == "style" {
            rest = &rest[rest.find("</style").unwrap()..];
        }
    }
    (tags, text + rest)
}

#[track_caller]
fn assert_balanced(html: &str) {
    let mut open: Vec<String> = Vec::new();
    for tag in parse(html).0 {
        match tag.strip_prefix('/') {
            Some(name) => assert_eq!(open.pop().as_deref(), Some(name), "after {open:?}"),
            None if ["meta", "img", "link", "br", "hr", "input"].contains(&tag.as_str()) => {}
            None => open.push(tag),
        }
    }
    assert!(open.is_empty(), "left open: {open:?}");
}

#[test]
fn the_report_of_a_run_has_every_section_and_every_curve() {
    let folder = tempfile::tempdir().unwrap();
    let html = fs::read_to_string(run::write(folder.path()).unwrap()).unwrap();
    assert_balanced(&html);
    for section in ["Training", "Validation", "Samples", "Data", "Run", "Settings", "Files", "Use it"] {
        assert_eq!(html.matches(&format!("<h2>{section}</h2>")).count(), 1, "{section}");
    }
    let charts = ["Loss", "Loss by timestep", "Learning rate", "Gradient norm", "Held-out loss"];
    for chart in charts.into_iter().chain(["CLIP-I", "CLIP-T", "Copy", "Prompt sensitivity"]) {
        assert_eq!(html.matches(&format!("<h3>{chart}</h3>")).count(), 1, "{chart}");
    }
    for words in [
        "The training loss fell from",
        "its lowest, 0.1224, at step 1200",
        "Step 1200 is the best by held-out loss",
        "CLIP-I 0.5980 → 0.7600",
        ">best, step 1200</li>",
        ">250 – 499</li>",
        "Step 1200, the best",
        "2 more lie beside this page",
        "optimizer.max_grad_norm",
        "plus adapter, 2000 steps",
        "ComfyUI/models/ipadapter/",
        "load_ip_adapter",
        "--image-encoder models/image_encoder",
    ] {
        assert!(html.contains(words), "{words}");
    }
    assert_eq!(html.matches("data:image/png;base64,").count(), 8);
    assert!(html.len() < 8 << 20, "{} bytes", html.len());
}

#[test]
fn two_files_of_events_lie_beside_it_and_the_report_is_the_same_again() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let [one, two] = [&first, &second].map(|folder| fs::read(run::write(folder.path()).unwrap()).unwrap());
    assert!(one == two, "equal runs give equal reports");
    let events = fs::read_dir(first.path().join("tensorboard")).unwrap();
    let sizes: Vec<u64> = events.map(|entry| entry.unwrap().metadata().unwrap().len()).collect();
    assert!(sizes.len() == 2 && sizes.iter().all(|&size| size > 100_000), "{sizes:?}");
}

fn html(folder: &Path, validations: &[ValidationResult], settings: &Value, data: &[Fact]) -> String {
    let path = folder.join("training_report.html");
    let input = ReportInput {
        title: "<script>alert('t')</script>",
        folder,
        steps: 10,
        timesteps: 0..=999,
        losses: &[],
        validations,
        best: None,
        settings,
        data,
        run: &[],
        files: &[],
        adapter: None,
    };
    write_report(&path, &input).unwrap();
    fs::read_to_string(path).unwrap()
}

#[test]
fn what_is_missing_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let html = html(folder.path(), &[], &Value::Null, &[]);
    assert_balanced(&html);
    for words in [
        "stopped after 0 of 10 steps",
        "No rows were held out",
        "No step was recorded.",
        "There was none.",
        "No pictures were drawn",
        "Nothing was noted of the data.",
        "No settings were noted.",
        "No files were noted.",
        "has not ended",
    ] {
        assert!(parse(&html).1.contains(words), "{words}");
    }
}

#[test]
fn text_of_others_is_escaped_and_lost_pictures_are_named() {
    const NASTY: &str = "</dd><script>alert(\"x\")</script>";
    let folder = tempfile::tempdir().unwrap();
    let scores = [(NASTY.to_owned(), 0.5)].into();
    let result = ValidationResult {
        step: 5,
        loss: None,
        scores,
        grid: Some("samples/lost.png".into()),
        ..ValidationResult::default()
    };
    let data = [(NASTY.to_owned(), NASTY.to_owned())];
    let html = html(folder.path(), &[result], &json!({ NASTY: NASTY }), &data);
    assert_balanced(&html);
    assert!(!html.contains("<script") && html.contains("&lt;script&gt;"));
    assert!(html.contains("samples/lost.png cannot be shown"));
}
