//! The laws that every run keeps.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use ipa_adapter::ImageFeatures;
use ipa_core::tch::{self, Tensor};
use ipa_train::{Dataset, Event, FrozenModels, LearningRate, TrainConfig, TrainError, Trainer};
use support::Fixture;
use support::runs::{ADAPTER, copies, dataset, go_on, models, note, recipe, start, stop_and_resume, stop_at};
use tempfile::TempDir;

/// Four of the projection, K' and V' of 16 layers.
const NUM_TENSORS: usize = 4 + 2 * 16;

/// All that two steps must not change: the UNet's variables, and what the encoders make of a row.
fn frozen(models: &FrozenModels, dataset: &Dataset) -> BTreeMap<String, Tensor> {
    let picture = dataset.picture(0).unwrap();
    let posterior = models.posterior(&picture);
    let encoded = [
        ("encoded mean", posterior.mean),
        ("encoded logvar", posterior.logvar),
        ("encoded text", models.text_embeds("a cat").unwrap()),
        ("encoded image", models.encoder().features(&[picture], ImageFeatures::Embedding)),
    ];
    let encoded = encoded.map(|(name, tensor)| (name.to_owned(), tensor));
    copies(models.unet.vs.variables().into_iter().chain(encoded))
}

#[test]
fn training_leaves_everything_but_the_adapter_as_it_was() {
    let (models, (_pictures, dataset), out) = (models(), dataset(), tempfile::tempdir().unwrap());
    let before = frozen(&models, &dataset);
    start(&models, &dataset, 1).run(out.path(), go_on).unwrap();
    for (name, tensor) in frozen(&models, &dataset) {
        assert!(tensor.equal(&before[&name]), "{name}");
    }
}

/// Only what the loss reaches moves.
fn without_decay<'a>(models: &'a FrozenModels, dataset: &'a Dataset) -> Trainer<'a> {
    let mut config = recipe(2, 2, 2);
    config.optimizer.weight_decay = 0.0;
    Trainer::new(models, dataset, config, None).unwrap()
}

#[test]
fn training_moves_every_adapter_tensor() {
    let (models, (_pictures, dataset), out) = (models(), dataset(), tempfile::tempdir().unwrap());
    let mut trainer = without_decay(&models, &dataset);
    let before = copies(trainer.adapter().variables());
    assert_eq!(before.len(), NUM_TENSORS);
    trainer.run(out.path(), go_on).unwrap();
    for (name, tensor) in trainer.adapter().variables() {
        assert!(!tensor.equal(&before[&name]), "{name}");
    }
}

#[test]
fn a_run_killed_after_a_checkpoint_and_resumed_ends_in_the_same_bytes() {
    let (models, (_pictures, dataset)) = (models(), dataset());
    let (whole, killed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    start(&models, &dataset, 2).run(whole.path(), go_on).unwrap();

    let error = start(&models, &dataset, 2).run(killed.path(), stop_at(3)).unwrap_err();
    assert!(matches!(error, TrainError::Interrupted { step: 3 }), "{error:?}");
    assert!(!killed.path().join(ADAPTER).exists());

    // A kill, unlike a request to stop, leaves what was saved before.
    fs::remove_dir_all(killed.path().join("checkpoint-3")).unwrap();

    let (mut resumed, mut steps) = (start(&models, &dataset, 2), Vec::new());
    resumed.resume(killed.path()).unwrap();
    resumed.run(killed.path(), note(&mut steps)).unwrap();
    assert_eq!(steps.iter().map(|(step, _)| *step).collect::<Vec<_>>(), [3, 4]); // step 3 again: its work was lost
    for file in [ADAPTER, "losses.jsonl"] {
        let bytes = |folder: &TempDir| fs::read(folder.path().join(file)).unwrap();
        assert!(bytes(&whole) == bytes(&killed), "{file}");
    }
}

#[test]
fn a_run_shorter_than_save_steps_makes_its_folder_and_writes_its_result() {
    let (models, (_pictures, dataset), out) = (models(), dataset(), tempfile::tempdir().unwrap());
    let folder = out.path().join("new/run");
    let config = recipe(1, 3, 5);
    Trainer::new(&models, &dataset, config, None).unwrap().run(&folder, go_on).unwrap();
    assert!(folder.join(ADAPTER).is_file());
    assert_eq!(fs::read_to_string(folder.join("losses.jsonl")).unwrap().lines().count(), 1);
}

#[test]
fn a_request_to_stop_on_a_saving_step_saves_once() {
    let (models, (_pictures, dataset), out) = (models(), dataset(), tempfile::tempdir().unwrap());
    let checkpoint = out.path().join("checkpoint-2");
    let stop = |event: Event| match event {
        Event::Step { progress, .. } if progress.step == 2 => {
            assert!(!checkpoint.exists(), "saved before, it would now be replaced");
            ControlFlow::Break(())
        }
        _ => ControlFlow::Continue(()),
    };
    let error = start(&models, &dataset, 2).run(out.path(), stop).unwrap_err();
    assert!(matches!(error, TrainError::Interrupted { step: 2 }), "{error:?}");
    assert!(checkpoint.join(ADAPTER).is_file());
}

#[test]
fn a_new_run_does_not_begin_among_the_checkpoints_of_another() {
    let (models, (_pictures, dataset), out) = (models(), dataset(), tempfile::tempdir().unwrap());
    start(&models, &dataset, 1).run(out.path(), go_on).unwrap();
    let error = start(&models, &dataset, 2).run(out.path(), go_on).unwrap_err();
    let is_latest = |checkpoint: &Path| checkpoint == out.path().join("checkpoint-2");
    assert!(matches!(&error, TrainError::UsedFolder { checkpoint } if is_latest(checkpoint)), "{error:?}");
}

#[test]
fn a_run_on_other_pictures_of_the_same_names_is_another() {
    let (models, (pictures, dataset), out) = (models(), dataset(), tempfile::tempdir().unwrap());
    start(&models, &dataset, 1).run(out.path(), go_on).unwrap();
    fs::copy(pictures.path().join("rotated.jpg"), pictures.path().join("tall.jpg")).unwrap();
    let error = start(&models, &dataset, 1).resume(out.path()).unwrap_err();
    assert!(matches!(&error, TrainError::OtherRun { field, .. } if field == "pictures"), "{error:?}");
}

#[test]
fn a_resumed_average_is_the_uninterrupted_one() {
    let (models, (_pictures, dataset)) = (models(), dataset());
    let start = || {
        let mut config = recipe(2, 1, 2);
        config.optimizer.ema_decay = Some(0.9);
        (config.optimizer.max_grad_norm, config.schedule.learning_rate) = (Some(0.5), LearningRate::Cosine);
        (config.schedule.warmup_steps, config.objective.noise_offset) = (1, 0.05);
        Trainer::new(&models, &dataset, config, None).unwrap()
    };
    let (whole, killed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    start().run(whole.path(), go_on).unwrap();
    stop_and_resume(start, 3, killed.path());
    let bytes = |folder: &TempDir, name: &str| fs::read(folder.path().join(name)).unwrap();
    assert!(bytes(&whole, ADAPTER) == bytes(&killed, ADAPTER));
    // What is written at the end is the average, in a checkpoint the last step.
    let last = Fixture::read(&whole.path().join("checkpoint-6").join(ADAPTER));
    let average = Fixture::read(&whole.path().join(ADAPTER));
    assert!(!last.names().all(|name| last[name].equal(&average[name])));
}

#[test]
fn only_so_many_checkpoints_are_kept_and_the_latest_goes_on() {
    let (models, (_pictures, dataset), out) = (models(), dataset(), tempfile::tempdir().unwrap());
    let mut config = recipe(2, 1, 1);
    config.output.keep_checkpoints = 2;
    let mut trainer = Trainer::new(&models, &dataset, config.clone(), None).unwrap();
    trainer.run(out.path(), go_on).unwrap();
    let mut left: Vec<String> =
        fs::read_dir(out.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    left.sort();
    left.retain(|name| name.starts_with("checkpoint"));
    assert_eq!(left, ["checkpoint-5", "checkpoint-6"]);
    let mut resumed = Trainer::new(&models, &dataset, config, None).unwrap();
    resumed.resume(out.path()).unwrap();
    assert_eq!(resumed.steps_done(), 6);
}

/// One row of three is held out, and looked at after every second step.
fn with_validations(every: Option<u64>) -> TrainConfig {
    let mut config = recipe(4, 1, 3);
    config.validation.held_out = 0.5;
    (config.validation.every, config.validation.num_steps, config.validation.scales) = (every, 2, vec![1.0]);
    config.optimizer.ema_decay = Some(0.5);
    config
}

#[test]
fn validations_change_nothing_and_a_resumed_run_finds_the_same() {
    let (models, (_pictures, dataset)) = (models(), dataset());
    let split = dataset.split(0.5);
    assert!(!split.train.is_empty() && !split.held_out.is_empty(), "{split:?}");
    let start = |every| Trainer::new(&models, &dataset, with_validations(every), None).unwrap();
    let folders = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let [plain, whole, killed] = [0, 1, 2].map(|index| folders[index].path());
    start(None).run(plain, go_on).unwrap();
    start(Some(2)).run(whole, go_on).unwrap();
    stop_and_resume(|| start(Some(2)), 3, killed);
    let bytes = |folder: &Path, name: &str| fs::read(folder.join(name)).unwrap();
    assert!(bytes(plain, ADAPTER) == bytes(whole, ADAPTER));
    for name in [ADAPTER, "validation.jsonl", "losses.jsonl", "best/ip_adapter.safetensors", "training_report.html"] {
        assert!(bytes(killed, name) == bytes(whole, name), "{name}");
    }
    let lines = |folder: &Path| fs::read_to_string(folder.join("validation.jsonl")).unwrap().lines().count();
    let steps = 4 * split.train.len();
    assert_eq!((lines(plain), lines(whole)), (1, steps / 2));
}

#[test]
fn a_run_ends_when_patience_does() {
    let (models, (_pictures, dataset), out) = (models(), dataset(), tempfile::tempdir().unwrap());
    let mut config = with_validations(Some(1));
    config.optimizer.learning_rate = 1e-30; // nothing ever gets better
    config.optimizer.ema_decay = None;
    (config.validation.patience, config.validation.num_references) = (Some(2), 0);
    let mut trainer = Trainer::new(&models, &dataset, config, None).unwrap();
    trainer.run(out.path(), go_on).unwrap();
    assert_eq!(trainer.steps_done(), 3);
    assert!(out.path().join(ADAPTER).is_file());
}

#[test]
fn a_number_that_is_none_stops_the_run_by_name_and_leaves_the_checkpoint() {
    let (models, (_pictures, dataset), out) = (models(), dataset(), tempfile::tempdir().unwrap());
    let mut trainer = start(&models, &dataset, 2);
    let variables = trainer.adapter().variables();
    let broken = "ip_adapter.5.to_v_ip.weight";
    let breaks = |event: Event| {
        if matches!(event, Event::Step { progress, .. } if progress.step == 3) {
            let _ = tch::no_grad(|| variables[broken].shallow_clone().fill_(f64::NAN));
        }
        ControlFlow::Continue(())
    };
    let error = trainer.run(out.path(), breaks).unwrap_err();
    assert!(matches!(&error, TrainError::NotANumber { step: 4, tensor } if tensor.contains(broken)), "{error}");
    let mut resumed = start(&models, &dataset, 2);
    resumed.resume(out.path()).unwrap();
    assert_eq!(resumed.steps_done(), 2);
}
