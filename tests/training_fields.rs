//! Every setting of a training does something: each is changed, and the run looked at.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use ipa_train::{Dataset, FrozenModels, TrainConfig, Trainer};
use serde_json::json;
use support::{F32, fixture_path, tiny_sd};

/// A run in which everything is on that can be.
const BASE: &str = r#"
[schedule]
epochs = 4
[data]
resolution = 64
[optimizer]
max_grad_norm = 0.5
[validation]
held_out = 0.3
every = 3
max_rows = 1
num_references = 1
scales = [1.0]
num_steps = 2
[output]
save_steps = 3
keep_checkpoints = 2
"#;

/// Fields with another value than in [`BASE`], perhaps after another change that lets it be seen.
const CHANGES: [(&str, &str, &str); 37] = [
    ("seed", "", "seed = 1"),
    ("adapter.variant", "", "[adapter]\nvariant = \"plus\""),
    ("adapter.features", "[adapter]\nvariant = \"simple\"", "[adapter]\nvariant = \"simple\"\nfeatures = \"fine\""),
    ("adapter.num_tokens", "", "[adapter]\nnum_tokens = 5"),
    ("adapter.lora_rank", FACES, "[adapter]\nvariant = \"faceid\"\nlora_rank = 3"),
    ("data.resolution", "", "[data]\nresolution = 48"),
    ("data.more_resolutions", "", "[data]\nmore_resolutions = [48]"),
    ("data.bucket_step", "", "[data]\nbucket_step = 8"),
    ("data.crop", "", "[data]\ncrop = \"random\""),
    ("data.flip", "", "[data]\nflip = 1.0"),
    ("data.image_drop", "", "[data]\nimage_drop = 0.9"),
    ("data.text_drop", "", "[data]\ntext_drop = 0.9"),
    ("data.both_drop", "", "[data]\nboth_drop = 0.9"),
    ("optimizer.learning_rate", "", "[optimizer]\nlearning_rate = 1e-3"),
    ("optimizer.weight_decay", "", "[optimizer]\nweight_decay = 0.5"),
    ("optimizer.max_grad_norm", "", "[optimizer]\nmax_grad_norm = 1e-3"),
    ("optimizer.ema_decay", "", "[optimizer]\nema_decay = 0.9"),
    ("schedule.epochs", "", "[schedule]\nepochs = 5"),
    ("schedule.max_steps", "", "[schedule]\nmax_steps = 2"),
    ("schedule.batch", "", "[schedule]\nbatch = 2"),
    ("schedule.accumulation", "", "[schedule]\naccumulation = 2"),
    ("schedule.learning_rate", "", "[schedule]\nlearning_rate = \"cosine\""),
    ("schedule.warmup_steps", "", "[schedule]\nwarmup_steps = 2"),
    ("objective.min_snr_gamma", "", "[objective]\nmin_snr_gamma = 1.0"),
    ("objective.noise_offset", "", "[objective]\nnoise_offset = 0.2"),
    ("objective.input_perturbation", "", "[objective]\ninput_perturbation = 0.2"),
    ("objective.first_timestep", "", "[objective]\nfirst_timestep = 500"),
    ("objective.last_timestep", "", "[objective]\nlast_timestep = 500"),
    ("validation.held_out", "", "[validation]\nheld_out = 0.0"),
    ("validation.every", "", "[validation]\nevery = 2"),
    ("validation.num_references", "", "[validation]\nnum_references = 0"),
    ("validation.scales", "", "[validation]\nscales = [0.5]"),
    ("validation.num_steps", "", "[validation]\nnum_steps = 3"),
    ("validation.guidance_scale", "", "[validation]\nguidance_scale = 2.0"),
    ("output.save_steps", "", "[output]\nsave_steps = 2"),
    ("output.keep_checkpoints", "", "[output]\nkeep_checkpoints = 1"),
    ("output.report", "", "[output]\nreport = false"),
];
const FACES: &str = "[adapter]\nvariant = \"faceid\"";

/// Fields whose effect is shown by another test, by file and name.
const ELSEWHERE: [(&str, &str, &str); 20] = [
    ("model.base", CLI, "a_file_with_settings_is_enough"),
    ("model.image_encoder", CLI, "a_file_with_settings_is_enough"),
    ("model.init_adapter", CLI, "a_file_with_settings_is_enough"),
    ("model.init_variant", CLI, "a_file_with_settings_is_enough"),
    ("model.init_numbering", CLI, "a_file_with_settings_is_enough"),
    ("model.clip", CLI, "a_file_with_settings_is_enough"),
    ("model.device", CLI, "a_file_with_settings_is_enough"),
    ("model.dtype", CLI, "a_file_with_settings_is_enough"),
    ("model.recompute", "tests/recompute.rs", "a_classic_adapters_gradients_are_the_same"),
    ("data.path", CLI, "a_file_with_settings_is_enough"),
    ("data.cache", SETTINGS, "caches_and_recomputation_change_no_loss"),
    ("data.cache_folder", STORE, "files_serve_the_next_run"),
    ("data.cache_gib", STORE, "no_more_is_kept_than_there_is_room"),
    ("validation.max_rows", "tests/validation.rs", "held_out"),
    ("validation.metric", "crates/ipa-train/src/validation/best.rs", "the_lowest_loss_and_the_highest_score"),
    ("validation.patience", RUNS, "a_run_ends_when_patience_does"),
    ("output.folder", CLI, "a_file_with_settings_is_enough"),
    ("output.tensorboard", CLI, "a_file_with_settings_is_enough"),
    ("adapter.train_unet", VARIANTS, "a_whole_unet_learns_beside_the_frozen_one_and_resumes_exactly"),
    ("adapter.lora_rank", VARIANTS, "face_adapters_train_from_identity_files_and_resume"),
];
const CLI: &str = "crates/ipa-cli/tests/train_config.rs";
const RUNS: &str = "tests/training_runs.rs";
const SETTINGS: &str = "tests/training_settings.rs";
const VARIANTS: &str = "tests/training_variants.rs";
const STORE: &str = "crates/ipa-train/src/encode/store.rs";

fn dataset(folder: &Path) -> Dataset {
    let vectors = ipa_core::noise::Draws::seeded(0).normal(&[1, 512]);
    ipa_core::save_tensors(&folder.join("face.safetensors"), [("face_embeds".to_owned(), vectors)], None).unwrap();
    let row = |index: usize| {
        let (copy, name) = (index / 3, ["wide.png", "tall.jpg", "rotated.jpg"][index % 3]);
        fs::copy(fixture_path("pictures").join(name), folder.join(format!("{copy}-{name}"))).unwrap();
        json!({ "image_file": format!("{copy}-{name}"), "text": "a garden", "id_embed_file": "face.safetensors" })
    };
    fs::write(folder.join("data.json"), json!((0..6).map(row).collect::<Vec<_>>()).to_string()).unwrap();
    Dataset::open(&folder.join("data.json")).unwrap()
}

/// Everything that a run of the base settings with these over them leaves, but its settings: names and bytes.
fn left(models: &FrozenModels, dataset: &Dataset, changes: &str) -> BTreeSet<(String, Vec<u8>)> {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        fs::write(folder.path().join(name), text).unwrap();
        folder.path().join(name)
    };
    let base = TrainConfig::from_toml(&file("base.toml", BASE), &TrainConfig::mini(64)).unwrap();
    let config = TrainConfig::from_toml(&file("changes.toml", changes), &base).unwrap();
    let out = folder.path().join("out");
    let mut trainer = Trainer::new(models, dataset, config, None).unwrap();
    trainer.run(&out, |_| ControlFlow::Continue(())).unwrap();
    let mut found = BTreeSet::new();
    let mut folders = vec![out.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(&out).unwrap().to_string_lossy().into_owned();
            match path.is_dir() {
                true => folders.push(path),
                // These hold the settings themselves.
                false if name.ends_with("config.toml") || name.ends_with("training.json") => {}
                false if name.ends_with(".html") => drop(found.insert((name, Vec::new()))),
                false if name.ends_with(".safetensors") => drop(found.insert((name, values(&path)))),
                false => drop(found.insert((name, fs::read(&path).unwrap()))),
            }
        }
    }
    found
}

/// The tensors of a file, without what it says of its settings.
fn values(path: &Path) -> Vec<u8> {
    let file = ipa_formats::SafetensorsFile::open(path).unwrap();
    file.names().flat_map(|name| file.data(name).unwrap().to_vec()).collect()
}

#[test]
fn every_field_changes_what_a_run_leaves() {
    let models = FrozenModels::load(&tiny_sd(""), None, F32).unwrap();
    let pictures = tempfile::tempdir().unwrap();
    let dataset = dataset(pictures.path());
    let base = left(&models, &dataset, "");
    assert!(left(&models, &dataset, "") == base, "two runs of the same settings differ");
    for (field, before, change) in CHANGES {
        let without = if before.is_empty() { base.clone() } else { left(&models, &dataset, before) };
        assert!(left(&models, &dataset, change) != without, "`{field}` changes nothing");
    }
}

#[test]
fn every_field_is_looked_at() {
    let documented = include_str!("../docs/training.md").split("```toml").nth(1).unwrap().split("```").next().unwrap();
    let fields: toml::Table = toml::from_str(documented).unwrap();
    let names = fields.iter().flat_map(|(section, value)| match value.as_table() {
        Some(fields) => fields.keys().map(|field| format!("{section}.{field}")).collect(),
        None => vec![section.clone()],
    });
    let names: BTreeSet<String> = names.collect();
    let looked_at = CHANGES.iter().map(|change| change.0).chain(ELSEWHERE.iter().map(|test| test.0));
    let looked_at: BTreeSet<String> = looked_at.map(str::to_owned).collect();
    assert_eq!(names, looked_at);
    for (field, file, test) in ELSEWHERE {
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap();
        assert!(text.contains(test), "`{field}`: {file} has no test {test}");
    }
}
