//! Deep features used again against diffusers' UNet taken apart, from one call to whole pictures.
//! Reference values: tests/fixtures/reuse.py
#![allow(clippy::unwrap_used)]

mod support;

use std::ops::ControlFlow;
use std::path::PathBuf;

use image::RgbImage;
use ipa_adapter::AttentionMaps;
use ipa_clip::load_image;
use ipa_core::tch::Tensor;
use ipa_sample::{Extras, GenerateRequest, Generated, ImagePromptSpec, Pictures, Pipeline, UnetCall};
use ipa_unet::{Conditions, NoHook, Unet};
use serde_json::Value;
use support::{F32, Fixture, TOLERANCE, assert_close, fixture_path, relative_error, tiny_sd};

/// As of other whole pictures (tests/pictures.rs).
const LATENTS_TOLERANCE: f64 = 1e-3;
const GO: ControlFlow<()> = ControlFlow::Continue(());

#[test]
fn a_shallow_call_from_every_branch_is_the_references() {
    let (unet, fixture) = (Unet::load(&tiny_sd("unet"), F32).unwrap(), Fixture::open("reuse/calls"));
    let (latents, later, context) = (&fixture["latents"], &fixture["later"], &fixture["context"]);
    for branch in 0..unet.config().num_branches() {
        let [whole, shallow] = [601.0, 561.0].map(|timestep| unet.time_embeds(&Tensor::from(timestep), latents));
        let conditions = |time_embeds| Conditions { time_embeds, context, hook: &NoHook };
        let (_, features) = unet.forward_keeping(branch, latents, &conditions(&whole));
        let found = unet.forward_from(&features, later, &conditions(&shallow));
        assert_close(&found, &fixture[&format!("branch.{branch}")], TOLERANCE);
    }
}

/// The tiny model, with its adapter.
fn pipeline() -> Pipeline {
    Pipeline::load(&tiny_sd(""), F32).unwrap().with_adapter(&tiny_sd("ip_adapter.safetensors"), None).unwrap()
}

fn cases() -> Vec<(String, GenerateRequest)> {
    let cases: Vec<Value> = serde_json::from_slice(&std::fs::read(fixture_path("reuse/cases.json")).unwrap()).unwrap();
    let case = |case: Value| {
        let Value::Object(mut fields) = case else { panic!("a case is an object") };
        let name = fields.remove("name").unwrap().as_str().unwrap().to_owned();
        let image = fields.remove("image").unwrap();
        let mut request: GenerateRequest = serde_json::from_value(fields.into()).unwrap();
        request.images = image.as_str().map(|image| fixture_path("pictures").join(image)).into_iter().collect();
        (request.width, request.height) = (Some(128), Some(128));
        (name, request)
    };
    cases.into_iter().map(case).collect()
}

fn case(name: &str) -> GenerateRequest {
    cases().into_iter().find(|case| case.0 == name).unwrap().1
}

fn draw(pipeline: &Pipeline, request: &GenerateRequest) -> Generated {
    let references: Vec<RgbImage> = request.images.iter().map(|path| load_image(path).unwrap()).collect();
    pipeline.generate(request, &references, |_| GO).unwrap()
}

#[test]
fn final_latents_of_every_request_are_the_references() {
    let pipeline = pipeline();
    for (name, request) in cases() {
        let found = draw(&pipeline, &request).latents;
        let error = relative_error(&found, &Fixture::open(&format!("reuse/{name}"))["latents"]);
        assert!(error <= LATENTS_TOLERANCE, "{name}: {error:.2e}");
    }
}

#[test]
fn an_interval_of_1_is_off() {
    let (pipeline, request) = (pipeline(), case("adapter"));
    let off = GenerateRequest { cache_interval: 1, cache_branch: 0, ..request.clone() };
    let plain = draw(&pipeline, &off);
    // Whatever the branch; and features that are never taken change nothing either.
    let branch = draw(&pipeline, &GenerateRequest { cache_branch: 7, ..off.clone() });
    assert!(branch.latents.equal(&plain.latents));
    let one_call = GenerateRequest { num_steps: 1, ..off };
    let kept = draw(&pipeline, &GenerateRequest { cache_interval: 5, ..one_call.clone() });
    assert!(kept.latents.equal(&draw(&pipeline, &one_call).latents));
    assert!(!draw(&pipeline, &request).latents.equal(&plain.latents));
}

/// A letter a call: whole or shallow; large if guided.
fn told(calls: &[UnetCall]) -> String {
    let letter = |call: &UnetCall| match (call.branch.is_some(), call.rows) {
        (false, 1) => 'w',
        (false, _) => 'W',
        (true, 1) => 's',
        (true, _) => 'S',
    };
    calls.iter().map(letter).collect()
}

#[test]
fn calls_are_whole_where_they_have_to_be() {
    let (pipeline, plain) = (pipeline(), case("interval_2"));
    let calls = |request: GenerateRequest| told(&draw(&pipeline, &request).calls);
    assert_eq!(calls(plain.clone()), "WSWSWSWS");
    assert_eq!(calls(GenerateRequest { guidance_scale: 1.0, ..plain.clone() }), "wswswsws");
    assert_eq!(calls(case("guidance_ends")), "WSSWsswsswss"[..8].to_owned());
    assert_eq!(calls(case("guidance_begins")), "wssWSSSWSS");
    // Two calls a step but for the last.
    assert_eq!(calls(case("heun")), "WSSWSSWSS");
    // The image prompt begins after two calls and ends after five of eight.
    let spec = ImagePromptSpec {
        images: vec![fixture_path("pictures/wide.png").into()],
        start: 0.25,
        end: 0.6,
        ..ImagePromptSpec::default()
    };
    let timed = GenerateRequest { cache_interval: 4, image_prompts: vec![spec], ..plain };
    assert_eq!(told(&draw_named(&pipeline, &timed, None).calls), "WSWSSWSS");
}

fn draw_named(pipeline: &Pipeline, request: &GenerateRequest, maps: Option<&AttentionMaps>) -> Generated {
    let named = request.named_pictures().into_iter().map(|path| (path.to_owned(), load_image(path).unwrap()));
    let named = named.collect::<std::collections::BTreeMap<PathBuf, RgbImage>>();
    let pictures = Pictures { named: Some(&named), ..Pictures::default() };
    pipeline.generate_with(request, pictures, Extras { maps, ..Extras::default() }, |_| GO).unwrap()
}

#[test]
fn pictures_drawn_some_at_a_time_are_those_drawn_at_once() {
    let (pipeline, at_once) = (pipeline(), case("guidance_ends"));
    let at_once = GenerateRequest { num_images: 3, ..at_once };
    for batch_size in [1, 2] {
        let request = GenerateRequest { batch_size: Some(batch_size), ..at_once.clone() };
        let error = relative_error(&draw(&pipeline, &request).latents, &draw(&pipeline, &at_once).latents);
        assert!(error < TOLERANCE, "{batch_size}: {error:.2e}");
    }
}

#[test]
fn attention_is_gathered_from_the_layers_that_are_run() {
    let (pipeline, request) = (pipeline(), case("adapter"));
    let spec = request.own_prompt().unwrap();
    let request = GenerateRequest { images: Vec::new(), image_prompts: vec![spec], ..request };
    let maps = AttentionMaps::default();
    let watched = draw_named(&pipeline, &request, Some(&maps));
    assert!(watched.latents.equal(&draw_named(&pipeline, &request, None).latents));
    let maps = maps.finish();
    let sums = maps[0].shares.sum_dim_intlist(1, false, None);
    assert_close(&sums, &sums.ones_like(), TOLERANCE);
}

#[test]
fn a_branch_that_the_model_lacks_is_refused() {
    let (pipeline, request) = (pipeline(), case("interval_2"));
    let request = GenerateRequest { cache_branch: 12, ..request };
    let error = pipeline.generate(&request, &[], |_| GO).unwrap_err().to_string();
    assert!(error.contains("`cache_branch` is 12"), "{error}");
    let error = Pipeline::check(pipeline.files(), &request).unwrap_err().to_string();
    assert!(error.contains("`cache_branch` is 12"), "{error}");
}

#[test]
fn a_picture_to_start_from_and_a_mask_go_with_it() {
    let pipeline = pipeline();
    let files = ["wide.png", "mask.png"].map(|name| fixture_path("pictures").join(name));
    let [init, mask] = files.clone().map(|path| load_image(&path).unwrap());
    let [init_image, mask_file] = files.map(Some);
    let base = GenerateRequest { init_image, num_steps: 8, strength: Some(0.8), cache_interval: 3, ..case("dpm") };
    let base = GenerateRequest { width: Some(128), height: Some(128), ..base };
    for mask_file in [None, mask_file] {
        let pictures =
            Pictures { init: Some(&init), mask: mask_file.is_some().then_some(&mask), ..Pictures::default() };
        let draw = |cache_interval| {
            let request = GenerateRequest { mask: mask_file.clone(), cache_interval, ..base.clone() };
            pipeline.generate(&request, pictures, |_| GO).unwrap()
        };
        assert_eq!(told(&draw(3).calls), "WSSWSS");
        assert!(relative_error(&draw(3).latents, &draw(1).latents) < 1.0);
    }
}
