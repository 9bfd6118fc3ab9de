//! `ipa train` from a file with settings.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::path::Path;

use ipa_formats::SafetensorsFile;
use serde_json::Value;
use support::Ipa;
use support::files::{entries_below, tiny_sd, two_pictures};

/// Settings that name everything; paths are relative to the file.
fn settings(folder: &Path, data: &Path) -> String {
    let encoder = tiny_sd("image_encoder");
    let adapter = tiny_sd("ip_adapter.safetensors");
    std::os::unix::fs::symlink(data, folder.join("pictures")).unwrap();
    format!(
        "[model]\nbase = {:?}\nimage_encoder = {encoder:?}\ninit_adapter = {adapter:?}\ndevice = \"cpu\"\ndtype = \"bf16\"\n\
         [data]\npath = \"pictures/data.json\"\nresolution = 64\n[schedule]\nepochs = 1\n\
         [output]\nfolder = \"result\"\ntensorboard = true\n",
        tiny_sd("")
    )
}

#[cfg(unix)]
#[test]
fn a_file_with_settings_is_enough() {
    let (data, folder) = (two_pictures(), tempfile::tempdir().unwrap());
    let file = folder.path().join("run.toml");
    fs::write(&file, settings(folder.path(), data.path())).unwrap();
    Ipa::new("train").with("--config", &file).run().done();
    let result = folder.path().join("result");
    let entries = entries_below(&result);
    assert!(entries.iter().any(|entry| entry.starts_with("tensorboard/events.out.tfevents.")), "{entries:#?}");
    assert!(entries.contains(&"training_report.html".to_owned()), "{entries:#?}");

    // What it wrote trains the same again.
    let again = folder.path().join("again");
    Ipa::new("train").with("--config", result.join("config.toml")).with("--output", &again).run().done();
    let adapter = |folder: &Path| fs::read(folder.join("ip_adapter.safetensors")).unwrap();
    assert!(adapter(&result) == adapter(&again));
    // Each of these is heard: another encoder is not there, another kind gives other bits, no adapter other values.
    let changed = |from: &str, to: &str| {
        let (text, name) = (settings_of(&file).replace(from, to), folder.path().join("changed.toml"));
        fs::write(&name, text).unwrap();
        Ipa::new("train").with("--config", name).with("--output", folder.path().join("changed")).run()
    };
    changed("/image_encoder\"", "/no_encoder\"").refused(1, &["no_encoder"]);
    changed("[model]", "[model]\ninit_variant = \"moon\"").refused(2, &["init_variant", "moon"]);
    changed("[model]", "[model]\ninit_numbering = \"moon\"").refused(2, &["init_numbering"]);
    let scored = changed("[model]", "[validation]\nheld_out = 0.5\n[model]\nclip = \"no_clip\"");
    scored.refused(1, &["no_clip"]);
    changed("device = \"cpu\"", "device = \"moon\"").refused(2, &["moon"]);
    changed("dtype = \"bf16\"", "dtype = \"f32\"").done();
    assert!(adapter(&folder.path().join("changed")) != adapter(&result));
    fs::remove_dir_all(folder.path().join("changed")).unwrap();
    changed("init_adapter", "# init_adapter").done();
    assert!(adapter(&folder.path().join("changed")) != adapter(&result));
}

fn settings_of(file: &Path) -> String {
    fs::read_to_string(file).unwrap()
}

#[cfg(unix)]
#[test]
fn what_an_adapter_says_of_its_training_names_no_path() {
    let (data, folder) = (two_pictures(), tempfile::tempdir().unwrap());
    let file = folder.path().join("run.toml");
    fs::write(&file, settings(folder.path(), data.path())).unwrap();
    Ipa::new("train").with("--config", &file).run().done();
    let adapter = SafetensorsFile::open(&folder.path().join("result/ip_adapter.safetensors")).unwrap();
    let notes: Value = serde_json::from_str(&adapter.metadata()[ipa_formats::METADATA_KEY]).unwrap();
    assert_eq!(notes["config"]["schedule"]["epochs"], 1);
    assert!(!notes.to_string().contains(&*folder.path().to_string_lossy()), "{notes}");
}

#[test]
fn a_dry_run_writes_nothing_and_says_what_the_run_takes() {
    let (data, folder) = (two_pictures(), tempfile::tempdir().unwrap());
    let output = folder.path().join("out");
    let told = Ipa::train(data.path(), &output).and("--dry-run").run().done().stdout;
    for words in ["time:", "20 steps", "memory:", "disk:"] {
        assert!(told.contains(words), "nothing of `{words}` in {told}");
    }
    let told = Ipa::train(data.path(), &output).and("--dry-run").and("--json").run().done().stdout;
    let told: Value = serde_json::from_str(told.trim()).unwrap();
    assert_eq!((&told["steps"], &told["rows"]), (&20.into(), &2.into()));
    assert!(!output.exists());
}

#[test]
fn a_search_writes_settings_that_train() {
    let (data, folder) = (two_pictures(), tempfile::tempdir().unwrap());
    let output = folder.path().join("tune");
    let command = Ipa::train(data.path(), &output);
    let tuned = command.and("--json").tuned().with("--candidates", "3").with("--minutes", "10").run().done().stdout;
    let last: Value = serde_json::from_str(tuned.lines().last().unwrap()).unwrap();
    assert_eq!(last["trials"].as_array().unwrap().len(), 4); // three, and the best of them to the end
    assert_eq!(last["is_cut_short"], false);
    assert_eq!(last["best"]["steps"], 10); // one of two rows is held out
    let best = output.join("best.toml");
    Ipa::new("train").with("--config", best).with("--output", folder.path().join("best")).run().done();
}
