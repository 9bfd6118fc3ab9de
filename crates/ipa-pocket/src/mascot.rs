//! The pip: a subject that the base model has never seen, to be learned from five pictures.
//!
//! Round, teal, with two ears and three white spots: neither its outline nor the hue of its colour occurs in the rest of the
//! world.

use std::ops::Range;

use image::RgbImage;
use rand::RngExt;
use serde::{Deserialize, Serialize};

use crate::caption::{background_phrase, noun_phrase};
use crate::palette::{Background, PAPER, Rgb, float};
use crate::render::{Canvas, Frame, Polygon, ellipse};
use crate::scene::{Object, Place, Size, Style, draw_center, draw_companions, pick, rng_at};

/// Its colour, whose hue nothing else in the world has.
pub const TEAL: Rgb = [0, 168, 166];

const SEED: u64 = 0x0070_6970;
const PURPOSE: u64 = 4;
/// Where the pictures to train on begin: the first five in a row with every size, background and place.
const TRAINING: u64 = 182;
/// Where the held-out pictures begin.
const HELD_OUT: u64 = 1_000;

/// A picture of the pip.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MascotScene {
    /// The colour behind everything.
    pub background: Background,
    /// How far the pip reaches.
    pub size: Size,
    /// Centre from the left, as a fraction of the picture's width.
    pub x: f32,
    /// Centre from the top, as a fraction of the picture's height.
    pub y: f32,
    /// A tiny shape beside it, in two of five pictures.
    pub companion: Option<Object>,
}

/// The scene at `index` of the endless row of pip pictures; the same on every platform.
pub fn scene(index: u64) -> MascotScene {
    let mut rng = rng_at(SEED, index, PURPOSE);
    let background = pick(&mut rng, &Background::ALL);
    let size = pick(&mut rng, &Size::MAIN);
    let place = pick(&mut rng, &Place::ALL);
    let (x, y) = draw_center(&mut rng, place, size.radius());
    let num_companions = usize::from(rng.random_range(0..100_u32) < 40);
    let companion = draw_companions(&mut rng, x, y, size.radius(), num_companions).pop();
    MascotScene { background, size, x, y, companion }
}

/// The five scenes of the bundled training set.
pub fn training() -> [MascotScene; 5] {
    std::array::from_fn(|i| scene(TRAINING + i as u64))
}

/// `count` scenes, none of them in [`training`].
pub fn held_out(count: usize) -> Vec<MascotScene> {
    (HELD_OUT..).take(count).map(scene).collect()
}

/// Draws the scene as a square picture of `size` pixels.
///
/// # Panics
/// If `size` is 0.
pub fn render(scene: &MascotScene, size: u32) -> RgbImage {
    let mut canvas = Canvas::new(size, scene.background.rgb());
    if let Some(companion) = &scene.companion {
        canvas.object(companion, Style::Flat);
    }
    let frame = Frame { x: scene.x, y: scene.y, radius: scene.size.radius() };
    for (part, color) in parts() {
        canvas.area(&[part], frame, Style::Flat, |_, _| float(color));
    }
    canvas.into_image()
}

/// `a pip on a gray background`, and the companion if there is one.
pub fn caption(scene: &MascotScene) -> String {
    let subject = format!("a pip{}", background_phrase("on", scene.background));
    match &scene.companion {
        Some(Object { size, color, shape, .. }) => {
            let companion = noun_phrase(&[Some(size.word()), Some(color.word()), Some(shape.word())]);
            format!("{subject} with {companion}")
        }
        None => subject,
    }
}

/// How much of the pip's colour a picture shows, in `[0, 1]`: its share of the picture, counted against (and cut off at)
/// what a small pip has.
pub fn color_presence(picture: &RgbImage) -> f64 {
    let num_pixels = f64::from(picture.width()) * f64::from(picture.height());
    let is_teal = |picture: &&image::Rgb<u8>| {
        let (hue, saturation, value) = hsv(picture.0);
        JUDGED_HUES.contains(&hue) && saturation > 0.6 && value > 0.35
    };
    let share = picture.pixels().filter(is_teal).count() as f64 / num_pixels;
    (share / SMALL_SHARE).min(1.0)
}

/// Whether a picture shows at least half of what a small pip has of its colour.
pub fn has_subject_color(picture: &RgbImage) -> bool {
    color_presence(picture) >= 0.5
}

const SMALL_SHARE: f64 = 0.06;
/// Narrower than the reserved range, at whose borders the world's colours begin and shade into it along contours.
const JUDGED_HUES: Range<f32> = 168.0..192.0;

/// The pip from back to front.
fn parts() -> [(Polygon, Rgb); 6] {
    [
        (ellipse(-0.54, -0.62, 0.3, 0.3), TEAL),
        (ellipse(0.54, -0.62, 0.3, 0.3), TEAL),
        (ellipse(0.0, 0.1, 0.86, 0.84), TEAL),
        (ellipse(-0.34, -0.14, 0.2, 0.2), PAPER),
        (ellipse(0.34, -0.14, 0.2, 0.2), PAPER),
        (ellipse(0.0, 0.46, 0.2, 0.2), PAPER),
    ]
}

/// Hue in degrees, saturation and value in `[0, 1]`.
fn hsv(rgb: Rgb) -> (f32, f32, f32) {
    let [r, g, b] = float(rgb).map(|c| c / 255.0);
    let value = r.max(g).max(b);
    let chroma = value - r.min(g).min(b);
    if chroma == 0.0 {
        return (0.0, 0.0, value);
    }
    let sextant = match () {
        () if value == r => ((g - b) / chroma).rem_euclid(6.0),
        () if value == g => (b - r) / chroma + 2.0,
        () => (r - g) / chroma + 4.0,
    };
    (60.0 * sextant, chroma / value, value)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::{Scene, Split, vocabulary};

    #[test]
    fn training_and_held_out_scenes_are_disjoint() {
        let training = training();
        for (index, scene) in held_out(500).iter().enumerate() {
            assert!(!training.contains(scene), "{index}");
        }
    }

    #[test]
    fn the_five_pictures_show_every_size_and_background() {
        let training = training();
        assert!(Background::ALL.iter().all(|b| training.iter().any(|s| s.background == *b)));
        assert!(Size::MAIN.iter().all(|size| training.iter().any(|s| s.size == *size)));
    }

    #[test]
    fn captions_use_the_vocabulary() {
        let vocabulary: HashSet<_> = vocabulary().into_iter().collect();
        for scene in held_out(500) {
            let caption = caption(&scene);
            assert!(caption.split_whitespace().all(|word| vocabulary.contains(word)), "{caption}");
        }
    }

    #[test]
    fn every_pip_shows_its_colors() {
        for scene in held_out(500) {
            let presence = color_presence(&render(&scene, 64));
            assert!(presence > 0.9, "{presence} {scene:?}");
        }
    }

    #[test]
    fn no_scene_of_the_world_shows_them() {
        for index in 0..3_000 {
            let scene = Scene::draw_at(2, index, Split::Train);
            let presence = color_presence(&crate::render(&scene, 64));
            assert!(presence < 0.1, "{presence} {scene:?}");
        }
    }
}
