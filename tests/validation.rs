//! Validations of adapters in training: what they find, and that they change nothing.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use image::RgbImage;
use ipa_adapter::{AdapterConfig, IpAdapter};
use ipa_core::noise::counter_seed;
use ipa_formats::ModelFiles;
use ipa_pocket::{Scene, Split, caption, render};
use ipa_sample::{GenerateRequest, Pipeline};
use ipa_train::{
    Best, DataSettings, Dataset, FrozenModels, HeldOut, Metric, Reads, RowEncoder, Validation, ValidationError,
    ValidationProgress, ValidationResult, ValidationSettings, View, scoring_clip,
};
use support::{F32, fixture_path, levels, tiny_sd};

const STEP: u64 = 7;
/// Rounding differs in batches of other sizes, and is guided at every step.
const PICTURE_TOLERANCE: u8 = 2;

fn go_on(_: ValidationProgress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn tiny_dataset(folder: &Path) -> Dataset {
    for (name, caption) in [("wide.png", "a red circle"), ("tall.jpg", "a garden"), ("rotated.jpg", "")] {
        fs::copy(fixture_path("pictures").join(name), folder.join(name)).unwrap();
        fs::write(folder.join(name).with_extension("txt"), caption).unwrap();
    }
    Dataset::open(folder).unwrap()
}

/// The rows of a dataset at these resolutions, one after another.
fn held_out(models: &FrozenModels, dataset: &Dataset, adapter: &IpAdapter, resolutions: &[u32]) -> Vec<HeldOut> {
    let mut encoder = RowEncoder::new(models, dataset, Reads::of(adapter), &DataSettings::default()).unwrap();
    let row = |(row, &resolution): (usize, &u32)| {
        let sample = dataset.sample(row).unwrap();
        let encoded = encoder.row(row as u32, View::square(resolution)).unwrap();
        HeldOut { key: sample.key, text: sample.text, reference: sample.picture.picture().unwrap(), encoded }
    };
    resolutions.iter().enumerate().map(row).collect()
}

/// The tiny model with rows of two sizes, and one of its adapters.
struct Tiny {
    folder: tempfile::TempDir,
    models: FrozenModels,
    file: PathBuf,
    adapter: IpAdapter,
    settings: ValidationSettings,
}

impl Tiny {
    fn new(file: &str) -> Self {
        let models = FrozenModels::load(&tiny_sd(""), None, F32).unwrap();
        let file = fixture_path(file);
        let adapter = IpAdapter::load(&file, &models.unet.config, F32).unwrap();
        let settings = ValidationSettings { scales: vec![0.8], num_steps: 3, ..ValidationSettings::default() };
        Self { folder: tempfile::tempdir().unwrap(), models, file, adapter, settings }
    }

    fn classic() -> Self {
        Self::new("tiny_sd/ip_adapter.safetensors")
    }

    fn validation(&self, seed: u64) -> Validation<'_> {
        let pictures = self.folder.path().join("pictures");
        fs::create_dir_all(&pictures).unwrap();
        let rows = held_out(&self.models, &tiny_dataset(&pictures), &self.adapter, &[64, 64, 48]);
        Validation::new(&self.models, rows, self.settings.clone(), seed).unwrap()
    }

    fn run(&self, validation: &Validation) -> ValidationResult {
        validation.run(&self.models.unet.model, &self.adapter, STEP, self.folder.path(), go_on).unwrap()
    }

    fn grid(&self, result: &ValidationResult) -> RgbImage {
        image::open(self.folder.path().join(result.grid.as_ref().unwrap())).unwrap().into_rgb8()
    }
}

/// The picture in a cell of a grid of pictures of 64 pixels, which are shown twice as large.
fn cell(grid: &RgbImage, column: u32, row: u32) -> RgbImage {
    const SIDE: u32 = 128;
    let (left, top) = (6 + column * (SIDE + 6), 42 + row * (SIDE + 27));
    RgbImage::from_fn(64, 64, |x, y| *grid.get_pixel(left + 2 * x, top + 2 * y))
}

/// A seed whose draws for the first rows a request can name too.
fn seed() -> u64 {
    let drawn = |seed: u64, row: u64| counter_seed(seed, "validation_picture", row);
    (0..).find(|&seed| drawn(seed, 0).max(drawn(seed, 1)) < 1 << 63).unwrap()
}

fn check_against_the_pipeline(tiny: &Tiny) {
    let grid = tiny.grid(&tiny.run(&tiny.validation(seed())));
    let pipeline = Pipeline::load(&tiny_sd(""), F32).unwrap().with_adapter(&tiny.file, None).unwrap();
    let dataset = Dataset::open(&tiny.folder.path().join("pictures")).unwrap();
    for row in [0, 1] {
        let text = dataset.sample(row).unwrap().text;
        for (column, scale, prompt) in [(1, 0.0, text.as_str()), (2, 0.8, ""), (3, 0.8, text.as_str())] {
            let request = GenerateRequest {
                prompt: prompt.to_owned(),
                scale,
                scheduler: Some("ddim".to_owned()),
                num_steps: 3,
                guidance_scale: tiny.settings.guidance_scale,
                seed: counter_seed(seed(), "validation_picture", row as u64),
                width: Some(64),
                height: Some(64),
                ..GenerateRequest::default()
            };
            let references = [dataset.picture(row).unwrap()];
            let drawn = pipeline.generate(&request, &references, |_| ControlFlow::Continue(())).unwrap();
            let difference = levels(&cell(&grid, column, row as u32), &drawn.pictures[0]);
            assert!(difference <= PICTURE_TOLERANCE, "column {column}, row {row}: {difference} levels");
        }
    }
}

#[test]
fn pictures_are_those_of_the_pipeline() {
    check_against_the_pipeline(&Tiny::classic());
}

#[test]
fn pictures_of_finer_features_are_those_of_the_pipeline() {
    check_against_the_pipeline(&Tiny::new("variants/plus.safetensors"));
}

#[test]
fn pictures_of_research_variants_are_those_of_the_pipeline() {
    check_against_the_pipeline(&Tiny::new("research/simple.safetensors"));
    check_against_the_pipeline(&Tiny::new("research/prefusion.safetensors"));
}

#[test]
fn pictures_without_guidance_are_those_of_the_pipeline() {
    let mut tiny = Tiny::classic();
    tiny.settings.guidance_scale = 1.0;
    check_against_the_pipeline(&tiny);
}

#[test]
fn every_validation_of_an_adapter_finds_the_same() {
    let tiny = Tiny::classic();
    let validation = tiny.validation(3);
    let mut totals = Vec::new();
    let mut run = || {
        let mut last = None;
        let note = |progress: ValidationProgress| {
            last = Some(progress);
            ControlFlow::Continue(())
        };
        let result = validation.run(&tiny.models.unet.model, &tiny.adapter, STEP, tiny.folder.path(), note).unwrap();
        let ValidationProgress { done, total } = last.unwrap();
        assert_eq!(done, total);
        totals.push(total);
        (fs::read(tiny.folder.path().join(result.grid.as_ref().unwrap())).unwrap(), result)
    };
    let first = run();
    assert!(first == run(), "the same validation again");
    // Rows of two sizes are two calls; what the plain model draws is kept.
    assert_eq!(totals[0] - totals[1], 2 * tiny.settings.num_steps as u64);
    let again = tiny.run(&tiny.validation(3));
    assert_eq!(again, first.1, "after a resume");
    let other = tiny.run(&tiny.validation(4));
    assert_ne!(other.loss, first.1.loss);
    let loss = validation.loss(&tiny.models.unet.model, &tiny.adapter).unwrap();
    assert_eq!(Some(loss), first.1.loss);
}

#[test]
fn scores_without_a_clip_say_whose_they_are() {
    let tiny = Tiny::classic();
    let result = tiny.run(&tiny.validation(0));
    assert_eq!(result.grid, Some("samples/step-000007.png".into()));
    assert_eq!(result.num_references, 3);
    let names: Vec<&str> = result.scores.keys().map(String::as_str).collect();
    assert_eq!(names, ["clip_i_own_encoder", "copy", "prompt_sensitivity_own_encoder"]);
    assert!(result.errors.keys().eq(result.scores.keys()));
    assert_eq!(result.value(Metric::ClipI), Some(result.scores["clip_i_own_encoder"]));
    assert_eq!(result.value(Metric::ClipT), None);
}

#[test]
fn a_request_to_stop_is_heard_at_every_call() {
    let tiny = Tiny::classic();
    let validation = tiny.validation(0);
    for at in [1, 20] {
        let stop = |progress: ValidationProgress| match progress.done == at {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        };
        let error = validation.run(&tiny.models.unet.model, &tiny.adapter, STEP, tiny.folder.path(), stop).unwrap_err();
        assert!(matches!(error, ValidationError::Interrupted), "{error:?}");
        assert!(!tiny.folder.path().join("samples").exists());
    }
}

#[test]
fn what_cannot_be_judged_is_refused() {
    let tiny = Tiny::classic();
    let new = |rows, settings| Validation::new(&tiny.models, rows, settings, 0).unwrap_err();
    let rows = || {
        let pictures = tiny.folder.path().join("pictures");
        fs::create_dir_all(&pictures).unwrap();
        held_out(&tiny.models, &tiny_dataset(&pictures), &tiny.adapter, &[64])
    };
    assert!(matches!(new(Vec::new(), tiny.settings.clone()), ValidationError::NoRows));
    let by_caption = ValidationSettings { metric: Metric::ClipT, ..tiny.settings.clone() };
    assert!(matches!(new(rows(), by_caption), ValidationError::NoClip));
    let many_steps = ValidationSettings { num_steps: 100_000, ..tiny.settings.clone() };
    assert!(new(rows(), many_steps).to_string().contains("num_steps"));
}

/// Scenes of the drawn world that the pocket model was not trained on, with their captions.
fn scenes(folder: &Path, num: u64) -> Dataset {
    for index in 0..num {
        let scene = Scene::draw_at(0, 200_000 + index, Split::HeldOut);
        let file = folder.join(format!("scene-{index:02}.png"));
        render(&scene, 64).save(&file).unwrap();
        fs::write(file.with_extension("txt"), caption(&scene, 0, index)).unwrap();
    }
    Dataset::open(folder).unwrap()
}

#[test]
fn a_trained_adapter_is_better_than_a_new_one() {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/pocket");
    let clip = scoring_clip(&ModelFiles::open(&model).unwrap(), None, F32).unwrap();
    let models = FrozenModels::load(&model, None, F32).unwrap().with_scorer(clip);
    let unet = &models.unet;
    let trained = IpAdapter::load(&model.join("ip_adapter.safetensors"), &unet.config, F32).unwrap();
    let new = IpAdapter::new(&AdapterConfig::new(trained.config().projection, &unet.config), F32);
    new.initialize(&unet.vs.variables(), 0);
    let folder = tempfile::tempdir().unwrap();
    let rows = held_out(&models, &scenes(folder.path(), 16), &trained, &[64; 16]);
    let settings = ValidationSettings { num_steps: 10, ..ValidationSettings::default() };
    let validation = Validation::new(&models, rows, settings, 0).unwrap();
    let results = [(&new, 0), (&trained, 1)]
        .map(|(adapter, step)| validation.run(&unet.model, adapter, step, folder.path(), go_on).unwrap());
    for metric in [Metric::Loss, Metric::ClipI] {
        assert_eq!(Best::of(metric, &results).best().unwrap().0, 1, "{metric:?}: {results:#?}");
    }
    let names: Vec<&str> = results[1].scores.keys().map(String::as_str).collect();
    assert_eq!(names, ["clip_i", "clip_t", "copy", "prompt_sensitivity"]);
    println!("{results:#?}");
}
