//! The bundled pocket model, drawn from and judged: a small part of what docs/pocket.md reports, with room for chance.
#![allow(clippy::unwrap_used)]

use std::ops::ControlFlow;
use std::path::Path;

use image::RgbImage;
use ipa_core::tch::{Device, Kind};
use ipa_pocket::{Agreement, Scene, Split, judge, judged_caption, render};
use ipa_sample::{GenerateRequest, Pipeline};
use ipa_train::pretrain::{Recipe, vae};
use ipa_vae::Vae;

const OPTIONS: (Device, Kind) = (Device::Cpu, Kind::Float);
const NUM_SCENES: u64 = 20;

/// Scenes of held-out combinations that neither training nor the scores drew.
fn scenes() -> impl Iterator<Item = (u64, Scene)> {
    (0..NUM_SCENES).map(|index| (index, Scene::draw_at(0, 200_000 + index, Split::HeldOut)))
}

/// In how many pictures colour, shape, fill, style and background are right.
fn num_right(draw: impl Fn(&Pipeline, u64, &Scene) -> RgbImage) -> [usize; 5] {
    let model = Path::new("assets/pocket");
    let pipeline = Pipeline::load(model, OPTIONS).unwrap();
    let pipeline = pipeline.with_adapter(&model.join("ip_adapter.safetensors"), None).unwrap();
    let agreements = scenes().map(|(seed, scene)| judge(&draw(&pipeline, seed, &scene)).agreement(&scene));
    agreements.fold([0; 5], |sums, Agreement { color, shape, fill, style, background, .. }| {
        let right = [color, shape, fill, style, background];
        std::array::from_fn(|part| sums[part] + usize::from(right[part]))
    })
}

fn generate(pipeline: &Pipeline, request: &GenerateRequest, references: &[RgbImage]) -> RgbImage {
    let request = GenerateRequest { num_steps: 20, ..request.clone() };
    pipeline.generate(&request, references, |_| ControlFlow::Continue(())).unwrap().pictures.remove(0)
}

#[track_caller]
fn assert_at_least(right: [usize; 5], bounds: [usize; 5]) {
    assert!(right.iter().zip(bounds).all(|(&right, bound)| right >= bound), "{right:?} of {NUM_SCENES}");
}

#[test]
fn pictures_follow_their_captions() {
    let right = num_right(|pipeline, seed, scene| {
        let request = GenerateRequest { prompt: judged_caption(scene), seed, ..GenerateRequest::default() };
        generate(pipeline, &request, &[])
    });
    assert_at_least(right, [19, 18, 16, 16, 19]);
}

#[test]
fn pictures_follow_their_references() {
    let right = num_right(|pipeline, seed, scene| {
        generate(pipeline, &GenerateRequest { seed, ..GenerateRequest::default() }, &[render(scene, 64)])
    });
    assert_at_least(right, [17, 15, 16, 16, 19]);
}

#[test]
fn at_scale_0_they_do_not() {
    let right = num_right(|pipeline, seed, scene| {
        let request = GenerateRequest { seed, scale: 0.0, ..GenerateRequest::default() };
        generate(pipeline, &request, &[render(scene, 64)])
    });
    assert!(right[..2].iter().all(|&right| right < NUM_SCENES as usize / 2), "{right:?} of {NUM_SCENES}");
}

#[test]
fn the_autoencoder_keeps_28_decibels() {
    let vae = Vae::load("assets/pocket/vae", OPTIONS).unwrap();
    let pictures: Vec<RgbImage> = scenes().map(|(_, scene)| render(&scene, 64)).collect();
    let psnr = vae::psnr(&Recipe::full(), &vae, &pictures);
    let mean = psnr.iter().sum::<f64>() / psnr.len() as f64;
    assert!(mean >= 28.0, "{mean} dB");
}
