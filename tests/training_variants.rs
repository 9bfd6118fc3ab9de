//! Adapters of every kind, trained.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use ipa_adapter::{AdapterFile, AdapterOptions, ImageFeatures};
use ipa_core::noise::Draws;
use ipa_core::tch::Tensor;
use ipa_core::{Checkpoint, save_tensors};
use ipa_sample::{AdapterSource, GenerateRequest, Pipeline};
use ipa_train::{AdapterSettings, Dataset, FeatureKind, FrozenModels, TrainConfig, TrainError, Trainer, Variant};
use serde_json::json;
use support::runs::{ADAPTER, assert_resumes_exactly, copies, dataset, go_on, models, recipe, stop_and_resume};
use support::{F32, fixture_path, tiny_sd};

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
        assert_resumes_exactly(|| of_variant(&models, &dataset, kind), 2, &format!("{kind:?}"));
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
        let (mut trainer, out) = (start(), tempfile::tempdir().unwrap());
        let before = copies(trainer.adapter().variables());
        trainer.run(out.path(), go_on).unwrap();
        for (name, tensor) in trainer.adapter().variables() {
            // Where the tiny model's self-attention sees one token, queries and keys change nothing.
            let is_idle = name.contains("to_q_lora") || name.contains("to_k_lora");
            assert!(is_idle || !tensor.equal(&before[&name]), "{variant:?}: {name}");
        }
        let whole = assert_resumes_exactly(start, 1, &format!("{variant:?}"));
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

/// The UNet's weights in a folder that a run left, f16.
fn unet_of(folder: &Path) -> BTreeMap<String, Tensor> {
    let weights = Checkpoint::open(&folder.join("unet/diffusion_pytorch_model.safetensors")).unwrap();
    weights.names().map(|name| (name.to_owned(), weights.tensor(name).unwrap())).collect()
}

#[test]
fn a_whole_unet_learns_beside_the_frozen_one_and_resumes_exactly() {
    let (models, (_pictures, dataset)) = (models(), dataset());
    let frozen = copies(models.unet.vs.variables());
    let start = || {
        let mut config = recipe(2, 2, 2);
        config.adapter =
            AdapterSettings { variant: Some(Variant::Simple), train_unet: true, ..AdapterSettings::default() };
        (config.optimizer.learning_rate, config.optimizer.ema_decay) = (1e-2, Some(0.9)); // f16 shows the steps
        Trainer::new(&models, &dataset, config, None).unwrap()
    };
    let own = start().adapter().variables().values().map(Tensor::numel).sum::<usize>();
    assert_eq!(start().num_parameters(), own + frozen.values().map(Tensor::numel).sum::<usize>());
    let (whole, stopped) = (assert_resumes_exactly(start, 3, "a whole UNet"), tempfile::tempdir().unwrap());
    stop_and_resume(start, 3, stopped.path());
    let (learned, resumed) = (unet_of(whole.path()), unet_of(stopped.path()));
    assert!(learned.iter().all(|(name, tensor)| tensor.equal(&resumed[name])));
    let moved = |name: &&String| !learned[*name].equal(&frozen[*name].to_kind(learned[*name].kind()));
    assert_eq!(learned.keys().filter(moved).count(), frozen.len());
    assert!(models.unet.vs.variables().iter().all(|(name, tensor)| tensor.equal(&frozen[name])));
}

#[test]
fn a_whole_unet_is_refused_beside_low_rank_changes() {
    let (models, (_pictures, dataset)) = (models(), dataset());
    let mut config = recipe(1, 1, 1);
    config.adapter = AdapterSettings { variant: Some(Variant::FaceId), train_unet: true, ..AdapterSettings::default() };
    let error = Trainer::new(&models, &dataset, config, None).unwrap_err();
    assert!(error.to_string().contains("`train_unet`"), "{error}");
}
