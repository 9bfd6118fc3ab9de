//! Whole pictures against diffusers' pipelines, from request to PNG.
//! Reference values: tests/fixtures/pictures.py
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use image::RgbImage;
use ipa_clip::{VisionConfig, VisionTower, load_image, pixel_tensor};
use ipa_core::tch::nn;
use ipa_formats::ModelFiles;
use ipa_sample::{GenerateRequest, Generated, ImageEncoder, Pictures, Pipeline, PipelineError, SamplerKind};
use serde_json::Value;
use support::{F32, Fixture, TOLERANCE, completed, fixture_path, relative_error, tiny_sd};

/// Rounding differs by 1e-6 in one call of the UNet and is guided, hence amplified, at every step.
const LATENTS_TOLERANCE: f64 = 1e-3;
const GO: ControlFlow<()> = ControlFlow::Continue(());
/// Levels of 255.
const PICTURE_TOLERANCE: u8 = 2;

/// A request and the name of what diffusers made of it.
struct Case {
    name: String,
    model: String,
    request: GenerateRequest,
}

impl Case {
    fn new(case: &Value) -> Self {
        let text = |field: &str| case[field].as_str().unwrap().to_owned();
        let number = |field: &str| case[field].as_f64().unwrap();
        let count = |field: &str| case[field].as_u64().unwrap();
        let path = |field: &str| case[field].as_str().map(|name| fixture_path("pictures").join(name));
        let side = |field: &str| case[field].as_u64().map(|side| side as u32);
        let request = GenerateRequest {
            prompt: text("prompt"),
            negative_prompt: text("negative_prompt"),
            images: path("image").into_iter().collect(),
            scale: number("scale"),
            scheduler: case["scheduler"].as_str().map(str::to_owned),
            num_steps: count("steps") as usize,
            guidance_scale: number("guidance_scale"),
            seed: count("seed"),
            num_images: count("num_images") as u32,
            width: side("width"),
            height: side("height"),
            guidance_rescale: number("guidance_rescale"),
            clip_skip: count("clip_skip") as usize,
            init_image: path("init_image"),
            mask: path("mask"),
            prompt_weights: case["prompt_weights"] == true,
            long_prompts: case["long_prompts"] == true,
            strength: Some(number("strength")),
            ..GenerateRequest::default()
        };
        Self { name: text("name"), model: text("model"), request }
    }

    fn all() -> Vec<Self> {
        let cases: Vec<Value> =
            serde_json::from_slice(&std::fs::read(fixture_path("pictures/cases.json")).unwrap()).unwrap();
        cases.iter().map(Self::new).collect()
    }

    fn named(name: &str) -> Self {
        Self::all().into_iter().find(|case| case.name == name).unwrap()
    }

    fn fixture(&self) -> Fixture {
        Fixture::open(&format!("pictures/{}", self.name))
    }

    fn references(&self) -> Vec<RgbImage> {
        self.request.images.iter().map(|path| load_image(path).unwrap()).collect()
    }

    fn expected_pictures(&self) -> Vec<RgbImage> {
        let path = |index| fixture_path("pictures").join(format!("{}_{index:03}.png", self.name));
        (0..self.request.num_images).map(|index| image::open(path(index)).unwrap().into_rgb8()).collect()
    }
}

/// A tiny model with and without its adapter.
struct Pipelines {
    plain: Pipeline,
    adapted: Pipeline,
}

/// All of them.
struct Models(BTreeMap<&'static str, Pipelines>);

impl Models {
    fn load() -> Self {
        let others = ["tiny_sd2", "tiny_inpainting"].map(|name| (name, Pipelines::of(completed(name).path())));
        Self([("tiny_sd", Pipelines::load())].into_iter().chain(others).collect())
    }

    fn generate(&self, case: &Case) -> Generated {
        self.0[case.model.as_str()].generate(case)
    }
}

impl Pipelines {
    fn load() -> Self {
        Self::of(&tiny_sd(""))
    }

    fn of(folder: &Path) -> Self {
        let plain = || Pipeline::load(folder, F32).unwrap();
        let adapter = folder.join("ip_adapter.safetensors");
        Self { plain: plain(), adapted: plain().with_adapter(&adapter, None).unwrap() }
    }

    fn generate(&self, case: &Case) -> Generated {
        let references = case.references();
        let pipeline = if references.is_empty() { &self.plain } else { &self.adapted };
        let loaded = |path: &Option<PathBuf>| path.as_ref().map(|path| load_image(path).unwrap());
        let (init, mask) = (loaded(&case.request.init_image), loaded(&case.request.mask));
        let pictures = Pictures { references: &references, init: init.as_ref(), mask: mask.as_ref(), named: None };
        pipeline.generate(&case.request, pictures, |_| GO).unwrap()
    }

    fn encoder(&self) -> &ImageEncoder {
        self.adapted.adapter().unwrap().1
    }
}

/// Runs `check` on every case and reports all that fail; `check` tells what is wrong, if anything.
#[track_caller]
fn assert_every(check: impl Fn(&Case) -> Option<String>) {
    let wrong: Vec<String> =
        Case::all().iter().filter_map(|case| Some(format!("{}: {}", case.name, check(case)?))).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// `None` if the error is allowed; one that is not a number is not.
fn excess(error: f64, tolerance: f64) -> Option<String> {
    let is_allowed = error <= tolerance;
    (!is_allowed).then(|| format!("relative error {error:.2e}"))
}

/// The largest difference of any channel of any pixel.
fn picture_difference(found: &RgbImage, expected: &RgbImage) -> u8 {
    assert_eq!(found.dimensions(), expected.dimensions());
    found.as_raw().iter().zip(expected.as_raw()).map(|(a, b)| a.abs_diff(*b)).max().unwrap()
}

#[test]
fn reference_pictures_are_preprocessed_as_diffusers_does() {
    let pipelines = Pipelines::load();
    assert_every(|case| {
        let references = case.references();
        let pixel_values =
            (!references.is_empty()).then(|| pixel_tensor(&pipelines.encoder().processor, &references))?;
        excess(relative_error(&pixel_values, &case.fixture()["pixel_values"]), TOLERANCE)
    });
}

#[test]
fn reference_pictures_are_embedded_as_diffusers_does() {
    let pipelines = Pipelines::load();
    assert_every(|case| {
        let references = case.references();
        let image_embeds = (!references.is_empty()).then(|| pipelines.encoder().image_embeds(&references))?;
        excess(relative_error(&image_embeds, &case.fixture()["image_embeds"]), TOLERANCE)
    });
}

#[test]
fn final_latents_of_every_request_are_diffusers_own() {
    let models = Models::load();
    assert_every(|case| {
        let latents = models.generate(case).latents;
        excess(relative_error(&latents, &case.fixture()["latents"]), LATENTS_TOLERANCE)
    });
}

#[test]
fn pictures_of_every_request_are_diffusers_own() {
    let models = Models::load();
    assert_every(|case| {
        let (found, expected) = (models.generate(case).pictures, case.expected_pictures());
        assert_eq!(found.len(), expected.len(), "{}", case.name);
        let worst = found.iter().zip(&expected).map(|(a, b)| picture_difference(a, b)).max()?;
        (worst > PICTURE_TOLERANCE).then(|| format!("{worst} levels apart"))
    });
}

#[test]
fn pictures_of_every_sampler_are_diffusers_own_at_1_2_5_and_25_steps() {
    let (models, expected) = (Models::load(), Fixture::open("pictures/samplers"));
    let mut wrong = Vec::new();
    for name in expected.names().filter_map(|name| name.strip_suffix(".latents")) {
        let [sampler, steps, seed] = name.split('.').collect::<Vec<_>>()[..] else { panic!("{name}") };
        let model = if sampler == "pndm" { "tiny_sd2" } else { "tiny_sd" };
        let request = GenerateRequest {
            prompt: "a photo of a cat in a garden".to_owned(),
            scheduler: Some(sampler.to_owned()),
            num_steps: steps.parse().unwrap(),
            seed: seed.parse().unwrap(),
            width: Some(32),
            height: Some(32),
            ..GenerateRequest::default()
        };
        let drawn = models.generate(&Case { name: name.to_owned(), model: model.to_owned(), request });
        wrong.extend(excess(relative_error(&drawn.latents, &expected[&format!("{name}.latents")]), LATENTS_TOLERANCE));
        let picture = Vec::<u8>::try_from(expected[&format!("{name}.picture")].view([-1])).unwrap();
        let worst = picture_difference(&drawn.pictures[0], &RgbImage::from_raw(32, 32, picture).unwrap());
        wrong.extend((worst > PICTURE_TOLERANCE).then(|| format!("{name}: {worst} levels apart")));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(expected.names().count(), SamplerKind::ALL.len() * 4 * 2 * 2);
}

#[test]
fn the_same_request_gives_the_same_picture_again() {
    let (pipelines, case) = (Pipelines::load(), Case::named("scale_0.55"));
    let (first, second) = (pipelines.generate(&case), pipelines.generate(&case));
    assert!(first.latents.equal(&second.latents));
    assert_eq!(first.pictures, second.pictures);
}

#[test]
fn scale_0_draws_what_the_model_draws_without_an_adapter() {
    let (pipelines, case) = (Pipelines::load(), Case::named("scale_0"));
    let adapted = pipelines.generate(&case);
    let plain = pipelines.plain.generate(&case.request, &[], |_| GO).unwrap();
    assert!(adapted.latents.equal(&plain.latents));
    assert_eq!(adapted.pictures, plain.pictures);
}

#[test]
fn without_a_guided_step_nothing_is_guided() {
    let (pipelines, case) = (Pipelines::load(), Case::named("scale_0.55"));
    let draw = |changed: GenerateRequest| pipelines.generate(&Case { request: changed, ..Case::named("scale_0.55") });
    let without = draw(GenerateRequest { guidance_scale: 1.0, ..case.request.clone() });
    let never = draw(GenerateRequest { guidance_start: 0.4, guidance_end: 0.4, ..case.request.clone() });
    assert!(never.latents.equal(&without.latents));
    let at_first = draw(GenerateRequest { guidance_end: 0.4, ..case.request.clone() });
    let always = pipelines.generate(&case);
    for other in [without, always] {
        assert!(relative_error(&at_first.latents, &other.latents) > 0.01);
    }
}

#[test]
fn pictures_drawn_some_at_a_time_are_those_drawn_at_once() {
    let (pipelines, at_once) = (Pipelines::load(), Case::named("three_images"));
    for batch_size in [1, 2, 4] {
        let request = GenerateRequest { batch_size: Some(batch_size), ..at_once.request.clone() };
        let case = Case { request, ..Case::named("three_images") };
        let error = relative_error(&pipelines.generate(&case).latents, &pipelines.generate(&at_once).latents);
        assert!(error < TOLERANCE, "{batch_size}: {error:.2e}");
    }
}

#[test]
fn a_picture_to_start_from_leaves_fewer_steps() {
    let (pipelines, case) = (Pipelines::load(), Case::named("from_picture_0.3"));
    let init = case.request.init_image.as_ref().map(|path| load_image(path).unwrap());
    let mut steps = Vec::new();
    let listen = |step| {
        steps.push(step);
        GO
    };
    let pictures = Pictures { init: init.as_ref(), ..Pictures::default() };
    pipelines.plain.generate(&case.request, pictures, listen).unwrap();
    assert_eq!((steps, case.request.num_steps), (vec![1, 2, 3], 10));
    for (request, pictures) in [(&case.request, Pictures::default()), (&GenerateRequest::default(), pictures)] {
        let error = pipelines.plain.generate(request, pictures, |_| GO).unwrap_err().to_string();
        assert!(error.contains("`init_image`"), "{error}");
    }
}

#[test]
fn a_model_for_inpainting_asks_for_a_mask() {
    let folder = completed("tiny_inpainting");
    let model = Pipelines::of(folder.path());
    let case = Case::named("text_only");
    let error = model.plain.generate(&case.request, &[], |_| GO).unwrap_err().to_string();
    assert!(error.contains("`--mask`"), "{error}");
    let files = ModelFiles::open(folder.path()).unwrap();
    let error = Pipeline::check(&files, &case.request).unwrap_err().to_string();
    assert!(error.contains("`--mask`"), "{error}");
}

#[test]
fn outside_the_mask_an_ordinary_model_gives_the_picture_back() {
    let (pipelines, case) = (Pipelines::load(), Case::named("inpainting_plain_1.0"));
    let init = load_image(case.request.init_image.as_ref().unwrap()).unwrap();
    let mask = RgbImage::new(1, 1); // black: nothing is drawn anew
    let draw = |num_steps| {
        let request = GenerateRequest { num_steps, ..case.request.clone() };
        let pictures = Pictures { init: Some(&init), mask: Some(&mask), ..Pictures::default() };
        pipelines.plain.generate(&request, pictures, |_| GO).unwrap()
    };
    // What the model says does not matter, so neither does how often it is asked.
    assert!(draw(3).latents.equal(&draw(7).latents));
}

#[test]
fn progress_hears_of_every_step_once() {
    let (pipelines, case) = (Pipelines::load(), Case::named("text_only"));
    let mut steps = Vec::new();
    pipelines
        .plain
        .generate(&case.request, &[], |step| {
            steps.push(step);
            GO
        })
        .unwrap();
    assert!(steps.into_iter().eq(1..=case.request.num_steps));
}

#[test]
fn reference_pictures_without_an_adapter_are_refused_with_the_option_to_name() {
    let (pipelines, case) = (Pipelines::load(), Case::named("scale_1"));
    let error = pipelines.plain.generate(&case.request, &case.references(), |_| GO).unwrap_err();
    assert!(error.to_string().contains("`--adapter`"), "{error}");
}

#[test]
fn without_reference_pictures_an_adapter_is_left_alone() {
    let (pipelines, case) = (Pipelines::load(), Case::named("text_only"));
    let draw = |pipeline: &Pipeline| pipeline.generate(&case.request, &[], |_| GO).unwrap().latents;
    assert!(draw(&pipelines.adapted).equal(&draw(&pipelines.plain)));
}

#[test]
fn a_listener_can_stop_the_drawing() {
    let (pipelines, case) = (Pipelines::load(), Case::named("text_only"));
    let error = pipelines.plain.generate(&case.request, &[], |_| ControlFlow::Break(())).unwrap_err();
    assert!(matches!(error, PipelineError::Interrupted { step: 1 }), "{error}");
}

#[test]
fn an_image_encoder_of_another_width_is_refused_with_both_widths() {
    let Pipelines { plain, adapted } = Pipelines::load();
    let (_, own) = adapted.adapter().unwrap();
    let config = VisionConfig { projection_dim: 32, ..own.tower.config().clone() };
    let tower = VisionTower::new(&nn::VarStore::new(F32.0).root(), &config);
    let encoder = ImageEncoder { tower, processor: own.processor.clone() };
    let adapter = ipa_adapter::IpAdapter::load(&tiny_sd("ip_adapter.safetensors"), plain.unet().config(), F32).unwrap();
    let error = plain.with_loaded_adapter(adapter, encoder).unwrap_err();
    let expected = "the image encoder gives embeddings of width 32, the adapter was trained with 24: ";
    assert!(error.to_string().starts_with(expected), "{error}");
}
