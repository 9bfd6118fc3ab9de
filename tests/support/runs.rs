//! Runs on the tiny model.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use ipa_core::tch::Tensor;
use ipa_train::{Dataset, Event, FrozenModels, TrainConfig, Trainer};
use serde_json::json;
use tempfile::TempDir;

use super::{F32, fixture_path, tiny_sd};

/// The finished adapter in an output folder, and that of a checkpoint in its.
pub(crate) const ADAPTER: &str = "ip_adapter.safetensors";

/// Three captioned pictures, none square, and their list.
pub(crate) fn dataset() -> (TempDir, Dataset) {
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

pub(crate) fn models() -> FrozenModels {
    FrozenModels::load(&tiny_sd(""), None, F32).unwrap()
}

/// Two steps an epoch, of two rows and one; a checkpoint after every epoch.
pub(crate) fn start<'a>(models: &'a FrozenModels, dataset: &'a Dataset, epochs: u64) -> Trainer<'a> {
    let config = recipe(epochs, 2, 2);
    Trainer::new(models, dataset, config, None).unwrap()
}

pub(crate) fn recipe(epochs: u64, batch: usize, save_steps: u64) -> TrainConfig {
    let mut config = TrainConfig::mini(64);
    (config.schedule.epochs, config.schedule.batch, config.output.save_steps) = (epochs, batch, save_steps);
    config
}

pub(crate) fn go_on(_: Event) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// Asks to stop after a step.
pub(crate) fn stop_at(last: u64) -> impl Fn(Event) -> ControlFlow<()> {
    move |event| match event {
        Event::Step { progress, .. } if progress.step == last => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    }
}

/// Notes every step with its loss.
pub(crate) fn note(steps: &mut Vec<(u64, f64)>) -> impl FnMut(Event) -> ControlFlow<()> {
    |event| {
        if let Event::Step { progress, .. } = event {
            steps.push((progress.step, progress.loss));
        }
        ControlFlow::Continue(())
    }
}

pub(crate) fn copies(tensors: impl IntoIterator<Item = (String, Tensor)>) -> BTreeMap<String, Tensor> {
    tensors.into_iter().map(|(name, tensor)| (name, tensor.detach().copy())).collect()
}

/// The losses of all steps and the adapter's values after a run of the recipe's settings, changed.
pub(crate) fn trained(
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

/// Stops a run after a step, and goes on to its end with another trainer.
pub(crate) fn stop_and_resume<'a>(start: impl Fn() -> Trainer<'a>, at: u64, folder: &Path) {
    start().run(folder, stop_at(at)).unwrap_err();
    let mut resumed = start();
    resumed.resume(folder).unwrap();
    resumed.run(folder, go_on).unwrap();
}

/// Asserts that a run stopped after a step and resumed ends in the bytes of one that was not; gives the folder of that.
#[track_caller]
pub(crate) fn assert_resumes_exactly<'a>(start: impl Fn() -> Trainer<'a>, at: u64, what: &str) -> TempDir {
    let (whole, stopped) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    start().run(whole.path(), go_on).unwrap();
    stop_and_resume(start, at, stopped.path());
    let bytes = |folder: &TempDir| fs::read(folder.path().join(ADAPTER)).unwrap();
    assert!(bytes(&whole) == bytes(&stopped), "{what}");
    whole
}
