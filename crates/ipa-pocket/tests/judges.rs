//! How often the pixel judges are right about pictures whose truth is known.
//!
//! Bounds are a little below what was measured; `-- --nocapture` prints the measurement.

#![allow(clippy::unwrap_used)]

use image::{RgbImage, imageops};
use ipa_pocket::judge::{Agreement, judge};
use ipa_pocket::{Scene, Split, Subject, render};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

const NUM_SCENES: u64 = 1_000;

/// Slightly blurred and noisy (σ = 12 of 255), as an autoencoder returns pictures.
fn degrade(picture: RgbImage, seed: u64) -> RgbImage {
    let mut degraded = imageops::blur(&picture, 0.7);
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    for channel in degraded.iter_mut() {
        let normal = (0..12).map(|_| rng.random::<f32>()).sum::<f32>() - 6.0;
        *channel = (f32::from(*channel) + 12.0 * normal).clamp(0.0, 255.0) as u8;
    }
    degraded
}

/// In how many of 1,000 scenes background, colour, shape, fill, style and number of objects are right.
fn num_right(split: Split, draw: impl Fn(&Scene, u64) -> RgbImage + Sync) -> [usize; 6] {
    let agreements: Vec<_> = (0..NUM_SCENES)
        .into_par_iter()
        .map(|index| {
            let mut scene = Scene::draw_at(42, index, split);
            scene.objects[0].tint = None; // judges know named colours
            let agreement = judge(&draw(&scene, index)).agreement(&scene);
            let Agreement { background, color, shape, fill, style, num_objects } = agreement;
            [background, color, shape, fill, style, num_objects]
        })
        .collect();
    let right = std::array::from_fn(|i| agreements.iter().filter(|agreement| agreement[i]).count());
    println!("{split:?}: background, color, shape, fill, style, number {right:?} of {NUM_SCENES}");
    right
}

fn assert_at_least(right: [usize; 6], bounds: [usize; 6]) {
    assert!(right.iter().zip(bounds).all(|(&right, bound)| right >= bound), "{right:?} against {bounds:?}");
}

#[test]
fn rendered_scenes_are_read_correctly() {
    for split in [Split::Train, Split::HeldOut] {
        let right = num_right(split, |scene, _| render(scene, 64));
        assert_at_least(right, [1_000, 992, 990, 990, 994, 993]);
    }
}

#[test]
fn blurred_and_noisy_scenes_are_read_correctly() {
    for split in [Split::Train, Split::HeldOut] {
        let right = num_right(split, |scene, index| degrade(render(scene, 64), index));
        assert_at_least(right, [1_000, 988, 984, 975, 993, 988]);
    }
}

#[test]
fn larger_pictures_are_read_as_well() {
    let right = num_right(Split::Train, |scene, _| render(scene, 128));
    assert_at_least(right, [1_000, 980, 970, 950, 980, 980]);
}

#[test]
fn a_picture_without_object_agrees_in_its_background_at_most() {
    let scene = Scene::draw_at(0, 0, Split::Train);
    let empty = RgbImage::from_pixel(64, 64, image::Rgb(scene.background.rgb()));
    let agreement = judge(&empty).agreement(&scene);
    let (background, num_objects) = (true, false);
    let nothing = Agreement { background, num_objects, color: false, shape: false, fill: false, style: false };
    assert_eq!(agreement, nothing);
}

#[test]
fn anything_is_judged_without_panic() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for size in [1, 2, 5, 16, 64] {
        let noise = RgbImage::from_fn(size, size + 3, |_, _| image::Rgb(rng.random()));
        judge(&noise);
    }
}

#[test]
fn subjects_are_told_by_their_colour_in_blurred_and_noisy_pictures_too() {
    let is_found = |subject: Subject, picture: RgbImage, seed| subject.has_color(&degrade(picture, seed));
    for subject in Subject::ALL {
        let scenes = subject.held_out(300);
        let found = scenes.par_iter().enumerate().filter(|(seed, s)| is_found(subject, s.render(64), *seed as u64));
        let found = found.count();
        assert!(found >= 294, "{subject:?}: {found} of 300");
        let mistaken = |index: &u64| is_found(subject, render(&Scene::draw_at(7, *index, Split::Train), 64), *index);
        let mistaken = (0..1_000).into_par_iter().filter(mistaken).count();
        assert!(mistaken <= 10, "{subject:?} in {mistaken} of 1,000 scenes of the world");
    }
}
