//! `ipa train`: what it writes, and that a run can be repeated and resumed to the byte.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use ipa_formats::SafetensorsFile;
#[cfg(feature = "pocket")]
use ipa_formats::sha256_file;
use ipa_pocket::Subject;
use serde_json::{Value, json};
use support::Ipa;
use support::files::{
    assert_empty, copy_folder, edit_tensors, entries_below, fixture, make_model, read_json, read_values, shapes,
    tiny_sd, two_pictures,
};

/// The step size of the recipe.
const LEARNING_RATE: f32 = 1e-4;

/// Six steps on two pictures, saved after every second.
fn six_steps(data: &Path, output: &Path) -> Ipa {
    Ipa::train(data, output).with("--epochs", "3").with("--save-steps", "2")
}

/// A file or folder of assets.
fn assets(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets").join(name)
}

/// The steps of the checkpoints in a folder.
fn checkpoints(folder: &Path) -> Vec<u64> {
    let entries = entries_below(folder);
    let steps = entries.iter().filter_map(|entry| entry.strip_prefix("checkpoint-")?.parse().ok());
    let mut steps: Vec<u64> = steps.collect();
    steps.sort_unstable();
    steps
}

/// Asserts that two folders hold the same files with the same bytes.
#[track_caller]
fn assert_same_files(found: &Path, expected: &Path) {
    let entries = entries_below(expected);
    assert_eq!(entries_below(found), entries);
    for entry in entries.iter().filter(|entry| expected.join(entry).is_file()) {
        assert!(fs::read(found.join(entry)).unwrap() == fs::read(expected.join(entry)).unwrap(), "{entry} differs");
    }
}

/// What a finished adapter notes about its training.
fn notes(adapter: &Path) -> Value {
    let file = SafetensorsFile::open(adapter).unwrap();
    serde_json::from_str(&file.metadata()[ipa_formats::METADATA_KEY]).unwrap()
}

#[test]
fn without_settings_the_run_is_what_the_help_says_of_the_mini_preset() {
    let help = Ipa::new("train").and("--help").run().done().stdout;
    for words in ["10 epochs, one by one, saved every 5 steps", "AdamW", "5 %"] {
        assert!(help.contains(words), "nothing of `{words}` in {help}");
    }
    let (data, output) = (two_pictures(), tempfile::tempdir().unwrap());
    Ipa::train(data.path(), output.path()).run().done();
    assert_eq!(checkpoints(output.path()), [10, 15, 20]); // the last three
    let notes = notes(&output.path().join("ip_adapter.safetensors"));
    assert_eq!(notes["steps"], 20);
    for (section, field, value) in [
        ("schedule", "epochs", json!(10)),
        ("schedule", "batch", json!(1)),
        ("optimizer", "learning_rate", json!(1e-4)),
        ("optimizer", "weight_decay", json!(1e-2)),
    ] {
        assert_eq!(notes["config"][section][field], value, "{field}");
    }
    assert_eq!(notes["config"]["seed"], 0);
}

#[test]
fn checkpoints_and_result_are_published_files_that_draw() {
    let (data, output) = (two_pictures(), tempfile::tempdir().unwrap());
    Ipa::train(data.path(), output.path()).with("--epochs", "1").with("--save-steps", "1").run().done();
    let [first, last] = ["checkpoint-1", "checkpoint-2"].map(|name| output.path().join(name));
    let [first, last] = [first, last].map(|folder| folder.join("ip_adapter.safetensors"));
    let result = output.path().join("ip_adapter.safetensors");

    let published = shapes(&tiny_sd("ip_adapter.safetensors"));
    for file in [&first, &last, &result] {
        assert_eq!(shapes(file), published, "{}", file.display());
    }
    let values = |file: &Path| read_values(file).into_values().flat_map(|tensor| tensor.values).collect::<Vec<_>>();
    assert_eq!(values(&result), values(&last));
    assert_ne!(values(&result), values(&first));

    let picture = output.path().join("picture.png");
    let command = Ipa::generate(&tiny_sd(""), &picture).with_reference();
    command.with("--adapter", &result).run().done();
    assert!(picture.is_file());
}

#[test]
fn json_is_one_object_a_step_then_the_file() {
    let (data, output) = (two_pictures(), tempfile::tempdir().unwrap());
    let command = Ipa::train(data.path(), output.path()).with("--epochs", "2").with("--batch", "2");
    let lines = command.and("--json").run().done().json_lines();
    let [first, second, last] = lines.as_slice() else { panic!("{lines:#?}") };
    for (step, line) in [(1, first), (2, second)] {
        assert_eq!([&line["step"], &line["steps"]], [&json!(step), &json!(2)]);
        assert!(line["loss"].as_f64().unwrap() > 0.0, "{line}");
    }
    assert_eq!(last["file"], json!(output.path().join("ip_adapter.safetensors")));
    let kept = fs::read_to_string(output.path().join("losses.jsonl")).unwrap();
    let kept: Vec<Value> = kept.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let said = |line: &Value| [line["step"].clone(), line["loss"].clone()];
    assert_eq!(kept.iter().map(said).collect::<Vec<_>>(), [said(first), said(second)]);
}

#[test]
fn equal_seeds_give_equal_files_and_others_others() {
    let (data, output) = (two_pictures(), tempfile::tempdir().unwrap());
    let [first, again, other] = ["first", "again", "other"].map(|name| output.path().join(name));
    for (folder, seed) in [(&first, "3"), (&again, "3"), (&other, "4")] {
        six_steps(data.path(), folder).with("--seed", seed).run().done();
    }
    assert_same_files(&again, &first);
    let result = |folder: &Path| fs::read(folder.join("ip_adapter.safetensors")).unwrap();
    assert!(result(&first) != result(&other));
}

#[test]
fn a_resumed_run_is_the_uninterrupted_one() {
    let (data, output) = (two_pictures(), tempfile::tempdir().unwrap());
    let [whole, resumed] = ["whole", "resumed"].map(|name| output.path().join(name));
    six_steps(data.path(), &whole).run().done();
    assert_eq!(checkpoints(&whole), [2, 4, 6]);

    // As a kill would leave it: losses may be ahead of the checkpoint.
    copy_folder(&whole.join("checkpoint-2"), &resumed.join("checkpoint-2"));
    fs::copy(whole.join("losses.jsonl"), resumed.join("losses.jsonl")).unwrap();
    let lines = six_steps(data.path(), &resumed).and("--resume").and("--json").run().done().json_lines();
    let steps: Vec<u64> = lines.iter().filter_map(|line| line["step"].as_u64()).collect();
    assert_eq!(steps, [3, 4, 5, 6]);
    assert_same_files(&resumed, &whole);
}

#[test]
fn resuming_with_other_settings_is_refused_and_changes_nothing() {
    let (data, output) = (two_pictures(), tempfile::tempdir().unwrap());
    let [before, run] = ["before", "run"].map(|name| output.path().join(name));
    six_steps(data.path(), &run).run().done();
    copy_folder(&run, &before);
    let other_model = make_model();
    edit_tensors(&other_model.path().join("unet/diffusion_pytorch_model.safetensors"), |tensors| {
        tensors[0].data.to_mut()[0] ^= 1;
    });
    let other_model = other_model.path().to_str().unwrap();
    for (flag, value, field) in [
        ("--seed", "1", "`config.seed`"),
        ("--learning-rate", "0.001", "`config.optimizer.learning_rate`"),
        ("--resolution", "72", "`config.data.resolution`"),
        ("--batch", "2", "`config.schedule.batch`"),
        ("--model", other_model, "`models.unet`"),
    ] {
        let command = six_steps(data.path(), &run).with(flag, value).and("--resume");
        command.run().refused(1, &["checkpoint-6", "another run", field]);
        assert_same_files(&run, &before);
    }
}

/// The model that is not there is never looked for.
#[test]
fn a_new_run_in_a_used_folder_is_refused_before_anything_is_loaded() {
    let (data, output) = (two_pictures(), tempfile::tempdir().unwrap());
    let [before, run] = ["before", "run"].map(|name| output.path().join(name));
    six_steps(data.path(), &run).run().done();
    copy_folder(&run, &before);
    let command = six_steps(data.path(), &run).with("--model", "nowhere");
    command.run().refused(1, &["checkpoint-6", "--resume", "another folder"]);
    assert_same_files(&run, &before);
}

#[test]
fn resuming_where_there_is_no_checkpoint_is_refused() {
    let (data, output) = (two_pictures(), tempfile::tempdir().unwrap());
    let folder = output.path().join("run");
    let command = six_steps(data.path(), &folder).with("--model", "nowhere").and("--resume");
    command.run().refused(1, &["no checkpoint", "without `--resume`"]);
    assert!(!folder.exists());
}

/// The bundled example: one step from the pocket model's own adapter.
#[cfg(feature = "pocket")]
#[test]
fn the_pocket_models_adapter_is_gone_on_from_by_name() {
    let (cache, output) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let command = Ipa::train(&assets("mascot"), output.path()).with("--model", "pocket");
    let command = command.with("--init-adapter", "pocket").with("--epochs", "1").with("--batch", "5");
    command.with("--save-steps", "1").run_with_cache(cache.path()).done();
    let adapter = assets("pocket/ip_adapter.safetensors");
    let settings = read_json(&output.path().join("checkpoint-1/training.json"));
    assert_eq!(settings["init_adapter"], json!(sha256_file(&adapter).unwrap()));
    assert_eq!(shapes(&output.path().join("ip_adapter.safetensors")), shapes(&adapter));
}

#[test]
fn the_bundled_pictures_are_those_of_the_demo() {
    for (folder, subject) in [("mascot", Subject::Pip), ("fin", Subject::Fin)] {
        let rows = read_json(&assets(folder).join("data.json"));
        let scenes = subject.training();
        assert_eq!(rows.as_array().unwrap().len(), scenes.len());
        for (index, scene) in scenes.iter().enumerate() {
            let image_file = format!("{}-{}.png", subject.word(), index + 1);
            assert_eq!(rows[index], json!({ "image_file": image_file, "text": scene.caption() }));
            let picture = image::open(assets(folder).join(image_file)).unwrap().into_rgb8();
            assert!(picture == scene.render(64), "{subject:?} {index}");
        }
    }
}

#[test]
fn an_adapter_to_go_on_from_is_where_the_run_starts() {
    let (data, output) = (two_pictures(), tempfile::tempdir().unwrap());
    let command = Ipa::train(data.path(), output.path()).with("--epochs", "1").with("--batch", "2");
    command.with("--init-adapter", tiny_sd("ip_adapter.safetensors")).run().done();
    let start = read_values(&tiny_sd("ip_adapter.safetensors"));
    let (mut moved, end) = (false, read_values(&output.path().join("ip_adapter.safetensors")));
    for (name, tensor) in &start {
        for (before, after) in tensor.values.iter().zip(&end[name].values) {
            let step = (after - before).abs();
            // One step of AdamW moves a weight by the step size at most, and decays it by a hundredth of that.
            assert!(step <= LEARNING_RATE * (1.01 + 0.01 * before.abs()), "{name} moved by {step:.2e}");
            moved |= step > 0.5 * LEARNING_RATE;
        }
    }
    assert!(moved);
}

#[test]
fn settings_out_of_range_are_wrong_arguments() {
    let (data, output) = (two_pictures(), tempfile::tempdir().unwrap());
    for (flag, value, words) in [
        ("--resolution", "100", ["resolution", "multiple of 8"]),
        ("--epochs", "0", ["`epochs` is 0", "--epochs"]),
        ("--epochs", "9223372036854775808", ["epochs", "at most"]),
        ("--batch", "0", ["`batch` is 0", "--batch"]),
        ("--save-steps", "0", ["`save_steps` is 0", "--save-steps"]),
        ("--learning-rate", "0", ["learning_rate", "above 0"]),
        ("--dtype", "f13", ["f13", "bf16"]),
        ("--held-out", "1", ["held_out", "--held-out"]),
        ("--preset", "huge", ["--preset", "mini"]),
    ] {
        Ipa::train(data.path(), output.path()).with(flag, value).run().refused(2, &words);
        assert_empty(output.path());
    }
}

#[test]
fn a_face_adapter_is_not_trained_without_identity_vectors() {
    let (data, output) = (two_pictures(), tempfile::tempdir().unwrap());
    let command =
        six_steps(data.path(), output.path()).with("--init-adapter", fixture("faces").join("face_id.safetensors"));
    command.run().refused(1, &["`id_embed_file` is missing"]);
}

#[test]
fn a_file_of_settings_goes_below_the_flags_and_over_the_preset() {
    let (data, output) = (two_pictures(), tempfile::tempdir().unwrap());
    let file = output.path().join("run.toml");
    let run = output.path().join("run");
    let text = "seed = 7\n[schedule]\nepochs = 3\nlearning_rate = \"cosine\"\n[optimizer]\nema_decay = 0.9\n";
    fs::write(&file, text).unwrap();
    Ipa::train(data.path(), &run).with("--config", &file).with("--epochs", "2").run().done();
    let notes = notes(&run.join("ip_adapter.safetensors"));
    let config = &notes["config"];
    assert_eq!((&config["seed"], &config["schedule"]["epochs"]), (&json!(7), &json!(2)));
    assert_eq!((&config["schedule"]["learning_rate"], &config["schedule"]["batch"]), (&json!("cosine"), &json!(1)));
    assert_eq!(notes["steps"], 4);

    fs::write(&file, "[schedule]\nepoch = 3\n").unwrap();
    let elsewhere = output.path().join("elsewhere");
    let command = Ipa::train(data.path(), &elsewhere).with("--config", &file);
    command.run().refused(1, &["run.toml", "`epoch`", "`epochs`"]);
    assert_empty(&elsewhere);
}

#[test]
fn a_folder_of_pictures_with_captions_is_a_list() {
    let (data, output) = (two_pictures(), tempfile::tempdir().unwrap());
    fs::remove_file(data.path().join("data.json")).unwrap();
    for (name, caption) in [("a.txt", "a cat"), ("b.txt", "a small red star\n")] {
        fs::write(data.path().join(name), caption).unwrap();
    }
    let [folder, list] = ["folder", "list"].map(|name| output.path().join(name));
    let command = Ipa::train(data.path(), &folder).with("--data", data.path()).with("--epochs", "1");
    command.run().done();
    // The same rows as a list make the same adapter.
    let same = two_pictures();
    Ipa::train(same.path(), &list).with("--epochs", "1").run().done();
    let bytes = |folder: &Path| fs::read(folder.join("ip_adapter.safetensors")).unwrap();
    assert!(bytes(&folder) == bytes(&list));
}
