//! The laws that a run keeps, on the tiny model.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use ipa_adapter::{AdapterFile, AdapterOptions, ImageFeatures};
use ipa_core::noise::Draws;
use ipa_core::save_tensors;
use ipa_core::tch::{self, Device, Kind, Tensor};
use ipa_sample::{AdapterSource, GenerateRequest, Pipeline};
use ipa_train::{
    AdapterSettings, Cache, CropChoice, Dataset, Event, FeatureKind, FrozenModels, LearningRate, TrainConfig,
    TrainError, Trainer, Variant,
};
use serde_json::json;
use support::{F32, Fixture, fixture_path, relative_error, tiny_sd};
use tempfile::TempDir;

/// Four of the projection, K' and V' of 16 layers.
const NUM_TENSORS: usize = 4 + 2 * 16;
const ADAPTER: &str = "ip_adapter.safetensors";

/// Three captioned pictures, none square, and their list.
fn dataset() -> (TempDir, Dataset) {
    let folder = tempfile::tempdir().unwrap();
    let rows = ["wide.png", "tall.jpg", "rotated.jpg"].map(|name| {
        fs::copy(fixture_path("pictures").join(name), folder.path().join(name)).unwrap();
        json!({ "image_file": name, "text": "a photo of the mascot in a garden" })
    });
    let list = folder.path().join("data.json");
    fs::write(&list, json!(rows).to_string()).unwrap();
    let dataset = Dataset::open(&list).unwrap();
    (folder, dataset)
}

fn models() -> FrozenModels {
    FrozenModels::load(&tiny_sd(""), None, F32).unwrap()
}

/// Two steps an epoch, of two rows and one; a checkpoint after every epoch.
fn start<'a>(models: &'a FrozenModels, dataset: &'a Dataset, epochs: u64) -> Trainer<'a> {
    let config = recipe(epochs, 2, 2);
    Trainer::new(models, dataset, config, None).unwrap()
}

fn recipe(epochs: u64, batch: usize, save_steps: u64) -> TrainConfig {
    let mut config = TrainConfig::mini(64);
    (config.schedule.epochs, config.schedule.batch, config.output.save_steps) = (epochs, batch, save_steps);
    config
}

fn go_on(_: Event) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// Asks to stop after a step.
fn stop_at(last: u64) -> impl Fn(Event) -> ControlFlow<()> {
    move |event| match event {
        Event::Step { progress, .. } if progress.step == last => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    }
}

/// Notes every step with its loss.
fn note(steps: &mut Vec<(u64, f64)>) -> impl FnMut(Event) -> ControlFlow<()> {
    |event| {
        if let Event::Step { progress, .. } = event {
            steps.push((progress.step, progress.loss));
        }
        ControlFlow::Continue(())
    }
}

fn copies(tensors: impl IntoIterator<Item = (String, Tensor)>) -> BTreeMap<String, Tensor> {
    tensors.into_iter().map(|(name, tensor)| (name, tensor.detach().copy())).collect()
}

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

#[test]
fn training_moves_every_adapter_tensor() {
    let (models, (_pictures, dataset), out) = (models(), dataset(), tempfile::tempdir().unwrap());
    let mut trainer = of_variant(&models, &dataset, (Variant::Classic, FeatureKind::Global)); // without decay
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

/// Every variant, with the features that it can read.
const VARIANTS: [(Variant, FeatureKind); 6] = [
    (Variant::Classic, FeatureKind::Global),
    (Variant::Plus, FeatureKind::Fine),
    (Variant::Simple, FeatureKind::Global),
    (Variant::Simple, FeatureKind::Fine),
    (Variant::Prefusion, FeatureKind::Global),
    (Variant::Prefusion, FeatureKind::Fine),
];

fn of_variant<'a>(
    models: &'a FrozenModels,
    dataset: &'a Dataset,
    (variant, features): (Variant, FeatureKind),
) -> Trainer<'a> {
    let (variant, features) = (Some(variant), Some(features));
    // Without decay: only what the loss reaches moves.
    let mut config = recipe(2, 2, 2);
    config.optimizer.weight_decay = 0.0;
    config.adapter = AdapterSettings { variant, features, ..AdapterSettings::default() };
    Trainer::new(models, dataset, config, None).unwrap()
}

#[test]
fn every_variant_moves_all_its_tensors_and_says_what_it_is() {
    let (models, (_pictures, dataset)) = (models(), dataset());
    for kind in VARIANTS {
        let (mut trainer, out) = (of_variant(&models, &dataset, kind), tempfile::tempdir().unwrap());
        let before = copies(trainer.adapter().variables());
        trainer.run(out.path(), go_on).unwrap();
        for (name, tensor) in trainer.adapter().variables() {
            assert!(!tensor.equal(&before[&name]), "{kind:?}: {name}");
        }
        let file = AdapterFile::open(&out.path().join(ADAPTER), &AdapterOptions::default()).unwrap();
        let num_tokens = if kind.1 == FeatureKind::Global { 4 } else { 16 };
        let expected = (kind.0.file_variant(), num_tokens);
        assert_eq!((file.info().variant(), file.info().num_tokens), expected, "{kind:?}");
        assert_eq!(file.info().num_layers, if kind.0 == Variant::Simple { 0 } else { 16 });
    }
}

#[test]
fn every_variant_resumed_ends_in_the_same_bytes() {
    let (models, (_pictures, dataset)) = (models(), dataset());
    for kind in VARIANTS {
        let (whole, killed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        of_variant(&models, &dataset, kind).run(whole.path(), go_on).unwrap();
        of_variant(&models, &dataset, kind).run(killed.path(), stop_at(2)).unwrap_err();
        let mut resumed = of_variant(&models, &dataset, kind);
        resumed.resume(killed.path()).unwrap();
        resumed.run(killed.path(), go_on).unwrap();
        let bytes = |folder: &TempDir| fs::read(folder.path().join(ADAPTER)).unwrap();
        assert!(bytes(&whole) == bytes(&killed), "{kind:?}");
    }
}

#[test]
fn every_variant_draws_and_at_scale_0_is_not_there() {
    let (models, (_pictures, dataset)) = (models(), dataset());
    for kind in VARIANTS {
        let out = tempfile::tempdir().unwrap();
        of_variant(&models, &dataset, kind).run(out.path(), go_on).unwrap();
        let pipeline = Pipeline::load(&tiny_sd(""), F32).unwrap();
        let pipeline = pipeline.with_adapter(&out.path().join(ADAPTER), None).unwrap();
        let reference = dataset.picture(0).unwrap();
        let latents = |scale, references: &[image::RgbImage]| {
            let request =
                GenerateRequest { scale, num_steps: 2, width: Some(64), height: Some(64), ..Default::default() };
            pipeline.generate(&request, references, |_| ControlFlow::Continue(())).unwrap().latents
        };
        let references = [reference];
        let plain = latents(1.0, &[]);
        assert!(latents(0.0, &references).equal(&plain), "{kind:?}");
        assert!(!latents(1.0, &references).equal(&plain), "{kind:?}");
    }
}

/// What looks at the text begins as the identity: a new prefusion adapter is the plus adapter of the same seed.
#[test]
fn prefusion_begins_as_plus() {
    let (models, (_pictures, dataset)) = (models(), dataset());
    let [plus, prefusion] =
        [Variant::Plus, Variant::Prefusion].map(|variant| of_variant(&models, &dataset, (variant, FeatureKind::Fine)));
    let features = models.encoder().features(&[dataset.picture(0).unwrap()], ImageFeatures::Penultimate);
    let tokens = |trainer: &Trainer| trainer.adapter().ip_tokens(&features).unwrap();
    assert!(tokens(&plus).equal(&tokens(&prefusion)));
    let fused = prefusion.adapter().fused(&tokens(&prefusion), &models.text_embeds("a cat").unwrap());
    assert!(fused.equal(&tokens(&plus)));
}

#[test]
fn settings_that_contradict_the_adapter_to_begin_with_are_refused() {
    let (models, (_pictures, dataset)) = (models(), dataset());
    let plus = AdapterSource::from(fixture_path("variants/plus.safetensors").as_path());
    let refused = |config: TrainConfig| Trainer::new(&models, &dataset, config, Some(&plus)).unwrap_err();
    let classic = AdapterSettings { variant: Some(Variant::Classic), ..AdapterSettings::default() };
    let four = AdapterSettings { num_tokens: Some(4), ..AdapterSettings::default() };
    for (adapter, differs) in [(classic, "variant"), (four, "num_tokens")] {
        let error = refused(TrainConfig { adapter, ..TrainConfig::mini(64) });
        assert!(matches!(error, TrainError::OtherKind { field } if field == differs), "{error:?}");
    }
    let adapter = AdapterSettings { variant: Some(Variant::Plus), num_tokens: Some(6), ..AdapterSettings::default() };
    let config = TrainConfig { adapter, ..recipe(1, 1, 5) };
    let out = tempfile::tempdir().unwrap();
    Trainer::new(&models, &dataset, config, Some(&plus)).unwrap().run(out.path(), go_on).unwrap();
}

/// The adapter and the losses after a run of these settings.
fn trained(
    models: &FrozenModels,
    dataset: &Dataset,
    change: impl Fn(&mut TrainConfig),
) -> (BTreeMap<String, Tensor>, Vec<f64>) {
    let (out, mut steps) = (tempfile::tempdir().unwrap(), Vec::new());
    let mut config = recipe(2, 1, 100);
    change(&mut config);
    let mut trainer = Trainer::new(models, dataset, config, None).unwrap();
    trainer.run(out.path(), note(&mut steps)).unwrap();
    (copies(trainer.adapter().variables()), steps.into_iter().map(|(_, loss)| loss).collect())
}

/// The largest relative difference of two adapters' tensors.
fn distance(a: &BTreeMap<String, Tensor>, b: &BTreeMap<String, Tensor>) -> f64 {
    a.iter().map(|(name, tensor)| relative_error(tensor, &b[name])).fold(0.0, f64::max)
}

#[test]
fn accumulation_is_a_larger_batch() {
    let (models, (_pictures, dataset)) = (models(), dataset());
    let (at_once, losses) = trained(&models, &dataset, |config| config.schedule.batch = 3);
    let (one_by_one, parts) = trained(&models, &dataset, |config| config.schedule.accumulation = 3);
    assert_eq!((losses.len(), parts.len()), (2, 2));
    assert!(losses.iter().zip(&parts).all(|(a, b)| (a - b).abs() < 1e-5 * a), "{losses:?} {parts:?}");
    // AdamW's first steps are as large for the smallest gradient: rounding shows where there is hardly one.
    assert!(distance(&at_once, &one_by_one) < 1e-3);
    // Two at a time, of three: the last part is smaller and counts less.
    let uneven = |config: &mut TrainConfig| (config.schedule.batch, config.schedule.accumulation) = (2, 2);
    let (_, uneven) = trained(&models, &dataset, uneven);
    assert!(losses.iter().zip(&uneven).all(|(a, b)| (a - b).abs() < 1e-5 * a), "{losses:?} {uneven:?}");
}

#[test]
fn settings_that_are_off_change_nothing_and_others_do() {
    let (models, (_pictures, dataset)) = (models(), dataset());
    let plain = trained(&models, &dataset, |_| {}).0;
    let same = |change: fn(&mut TrainConfig)| {
        let (changed, _) = trained(&models, &dataset, change);
        changed.iter().all(|(name, tensor)| tensor.equal(&plain[name]))
    };
    assert!(same(|_| {}));
    assert!(same(|config| config.objective.last_timestep = Some(999)));
    assert!(same(|config| config.optimizer.max_grad_norm = Some(1e9)));
    assert!(!same(|config| config.optimizer.max_grad_norm = Some(1e-3)));
    assert!(!same(|config| config.objective.noise_offset = 0.1));
    assert!(!same(|config| config.objective.input_perturbation = 0.1));
    assert!(!same(|config| config.objective.last_timestep = Some(99)));
    assert!(!same(|config| config.objective.min_snr_gamma = Some(5.0)));
    assert!(!same(|config| config.data.image_drop = 0.9));
    assert!(!same(|config| config.schedule.learning_rate = LearningRate::Cosine));
    assert!(!same(|config| config.optimizer.ema_decay = Some(0.9)));
}

/// For noise, weights above the largest signal-to-noise ratio are 1.
#[test]
fn min_snr_with_a_large_gamma_is_the_plain_loss() {
    let (models, (_pictures, dataset)) = (models(), dataset());
    let losses = |gamma| trained(&models, &dataset, |config| config.objective.min_snr_gamma = gamma).1;
    let (plain, weighted) = (losses(None), losses(Some(1e9)));
    assert!(plain.iter().zip(&weighted).all(|(a, b)| (a - b).abs() < 1e-5 * a), "{plain:?} {weighted:?}");
    assert!(losses(Some(0.5)).iter().zip(&plain).all(|(weighted, plain)| weighted <= plain));
}

#[test]
fn the_first_step_of_a_warm_up_moves_nothing() {
    let (models, (_pictures, dataset), out) = (models(), dataset(), tempfile::tempdir().unwrap());
    let mut config = recipe(1, 3, 5);
    config.schedule.warmup_steps = 1;
    let mut trainer = Trainer::new(&models, &dataset, config, None).unwrap();
    let before = copies(trainer.adapter().variables());
    trainer.run(out.path(), go_on).unwrap();
    assert!(trainer.adapter().variables().iter().all(|(name, tensor)| tensor.equal(&before[name])));
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
    start().run(killed.path(), stop_at(3)).unwrap_err();
    let mut resumed = start();
    resumed.resume(killed.path()).unwrap();
    resumed.run(killed.path(), go_on).unwrap();
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
    start(Some(2)).run(killed, stop_at(3)).unwrap_err();
    let mut resumed = start(Some(2));
    resumed.resume(killed).unwrap();
    resumed.run(killed, go_on).unwrap();
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
fn caches_and_recomputation_change_no_loss() {
    let (models, (_pictures, dataset), folder) = (models(), dataset(), tempfile::tempdir().unwrap());
    let losses = |change: &dyn Fn(&mut TrainConfig)| trained(&models, &dataset, change).1;
    let plain = losses(&|_| {});
    let disk = |config: &mut TrainConfig| {
        config.data.cache = Cache::Disk;
        config.data.cache_folder = Some(folder.path().into());
    };
    assert_eq!(losses(&|config| config.data.cache = Cache::None), plain);
    assert_eq!(losses(&|config| config.data.cache_gib = 0.0), plain);
    assert_eq!(losses(&disk), plain);
    assert_eq!(losses(&disk), plain); // read from the files
    let recomputed = losses(&|config| config.model.recompute = true);
    assert!(recomputed.iter().zip(&plain).all(|(a, b)| (a - b).abs() < 1e-5 * b), "{recomputed:?} {plain:?}");
}

#[test]
fn buckets_resolutions_flips_and_crops_train_and_resume() {
    let (models, (_pictures, dataset)) = (models(), dataset());
    let start = || {
        let mut config = recipe(3, 2, 2);
        (config.data.more_resolutions, config.data.bucket_step) = (vec![48], Some(8));
        (config.data.flip, config.data.crop) = (0.5, CropChoice::Random);
        Trainer::new(&models, &dataset, config, None).unwrap()
    };
    let (whole, killed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    start().run(whole.path(), go_on).unwrap();
    start().run(killed.path(), stop_at(3)).unwrap_err();
    let mut resumed = start();
    resumed.resume(killed.path()).unwrap();
    resumed.run(killed.path(), go_on).unwrap();
    let bytes = |folder: &TempDir| fs::read(folder.path().join(ADAPTER)).unwrap();
    assert!(bytes(&whole) == bytes(&killed));
}

/// Through a UNet in f16: rounding aside, what f32 finds.
#[test]
fn f16_trains_with_a_loss_scale_and_resumes() {
    let (_pictures, dataset) = dataset();
    let half = FrozenModels::load(&tiny_sd(""), None, (Device::Cpu, Kind::Half)).unwrap();
    let mut config = recipe(2, 2, 1);
    config.optimizer.weight_decay = 0.0;
    let start = || Trainer::new(&half, &dataset, config.clone(), None).unwrap();
    let (whole, killed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut steps = Vec::new();
    start().run(whole.path(), note(&mut steps)).unwrap();
    start().run(killed.path(), stop_at(2)).unwrap_err();
    let mut resumed = start();
    resumed.resume(killed.path()).unwrap();
    resumed.run(killed.path(), go_on).unwrap();
    let bytes = |folder: &TempDir| fs::read(folder.path().join(ADAPTER)).unwrap();
    assert!(bytes(&whole) == bytes(&killed));
    let mut exact = Vec::new();
    let out = tempfile::tempdir().unwrap();
    Trainer::new(&models(), &dataset, config.clone(), None).unwrap().run(out.path(), note(&mut exact)).unwrap();
    assert!(steps.iter().zip(&exact).all(|(a, b)| (a.1 - b.1).abs() < 1e-2 * b.1), "{steps:?} {exact:?}");
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

/// The three pictures with identity vectors, of which the last has three faces.
fn faces(folder: &Path) -> Dataset {
    let names = ["wide.png", "tall.jpg", "rotated.jpg"];
    let rows = (0..3).map(|index| {
        let (name, num) = (names[index], if index == 2 { 3 } else { 2 });
        fs::copy(fixture_path("pictures").join(name), folder.join(name)).unwrap();
        let vectors = Draws::seeded(index as u64).normal(&[num, 512]);
        let file = format!("{index}.safetensors");
        save_tensors(&folder.join(&file), [("face_embeds".to_owned(), vectors)], None).unwrap();
        json!({ "image_file": name, "text": "a portrait", "id_embed_file": file, "weight": 0.5 + index as f64 })
    });
    let list = folder.join("data.json");
    fs::write(&list, json!(rows.collect::<Vec<_>>()).to_string()).unwrap();
    Dataset::open(&list).unwrap()
}

#[test]
fn face_adapters_train_from_identity_files_and_resume() {
    let (models, folder) = (models(), tempfile::tempdir().unwrap());
    let dataset = faces(folder.path());
    for variant in [Variant::FaceId, Variant::FaceIdPlusV2, Variant::Portrait] {
        let start = || {
            let mut config = recipe(2, 3, 1);
            config.adapter.variant = Some(variant);
            config.adapter.lora_rank = (variant != Variant::Portrait).then_some(2);
            config.optimizer.weight_decay = 0.0;
            Trainer::new(&models, &dataset, config, None).unwrap()
        };
        let (whole, killed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut trainer = start();
        let before = copies(trainer.adapter().variables());
        trainer.run(whole.path(), go_on).unwrap();
        for (name, tensor) in trainer.adapter().variables() {
            // Where the tiny model's self-attention sees one token, queries and keys change nothing.
            let is_idle = name.contains("to_q_lora") || name.contains("to_k_lora");
            assert!(is_idle || !tensor.equal(&before[&name]), "{variant:?}: {name}");
        }
        start().run(killed.path(), stop_at(1)).unwrap_err();
        let mut resumed = start();
        resumed.resume(killed.path()).unwrap();
        resumed.run(killed.path(), go_on).unwrap();
        let bytes = |folder: &TempDir| fs::read(folder.path().join(ADAPTER)).unwrap();
        assert!(bytes(&whole) == bytes(&killed), "{variant:?}");
        let options = AdapterOptions { variant: Some(variant.file_variant()), ..AdapterOptions::default() };
        let file = AdapterFile::open(&whole.path().join(ADAPTER), &options).unwrap();
        assert_eq!(file.info().variant(), variant.file_variant());
    }
}

#[test]
fn a_face_adapter_without_identity_files_is_refused_by_row_and_field() {
    let (models, (_pictures, dataset)) = (models(), dataset());
    let mut config = recipe(1, 1, 5);
    config.adapter.variant = Some(Variant::FaceId);
    let error = Trainer::new(&models, &dataset, config, None).unwrap_err();
    assert!(error.to_string().contains("`id_embed_file` is missing"), "{error}");
}
