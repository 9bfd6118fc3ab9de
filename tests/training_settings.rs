//! What settings do to a run, and what they must not.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;

use ipa_core::tch::{Device, Kind, Tensor};
use ipa_train::{Cache, CropChoice, FrozenModels, LearningRate, TrainConfig, Trainer};
use support::runs::{assert_resumes_exactly, copies, dataset, go_on, models, note, recipe, trained};
use support::{relative_error, tiny_sd};

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
    assert_resumes_exactly(start, 3, "buckets");
}

/// Through a UNet in f16: rounding aside, what f32 finds.
#[test]
fn f16_trains_with_a_loss_scale_and_resumes() {
    let (_pictures, dataset) = dataset();
    let half = FrozenModels::load(&tiny_sd(""), None, (Device::Cpu, Kind::Half)).unwrap();
    let mut config = recipe(2, 2, 1);
    config.optimizer.weight_decay = 0.0;
    let start = || Trainer::new(&half, &dataset, config.clone(), None).unwrap();
    let whole = assert_resumes_exactly(start, 2, "f16");
    let mut steps = Vec::new();
    start().run(&whole.path().join("again"), note(&mut steps)).unwrap();
    let mut exact = Vec::new();
    let out = tempfile::tempdir().unwrap();
    Trainer::new(&models(), &dataset, config.clone(), None).unwrap().run(out.path(), note(&mut exact)).unwrap();
    assert!(steps.iter().zip(&exact).all(|(a, b)| (a.1 - b.1).abs() < 1e-2 * b.1), "{steps:?} {exact:?}");
}
