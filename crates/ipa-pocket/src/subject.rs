//! Subjects that the base model has never seen, each to be learned from five pictures.
//!
//! Neither the outline of any of them nor the hue of its colour occurs in the rest of the world.

use std::ops::Range;

use image::RgbImage;
use rand::RngExt;
use serde::{Deserialize, Serialize};

use crate::caption::{background_phrase, noun_phrase};
use crate::palette::{Background, PAPER, Rgb, float};
use crate::render::{Canvas, Frame, Polygon, ellipse};
use crate::scene::{Object, Place, Size, Style, draw_center, draw_companions, pick, rng_at};

const PURPOSE: u64 = 4;
/// Where the held-out pictures begin.
const HELD_OUT: u64 = 1_000;

/// What five pictures can teach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Subject {
    /// The mascot: round, teal, with two ears and three white spots.
    Pip,
    /// A magenta fish with a white eye and a white gill.
    Fin,
}

impl Subject {
    /// All subjects, in the order of their discriminants.
    pub const ALL: [Self; 2] = [Self::Pip, Self::Fin];

    /// The word captions use.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pip => "pip",
            Self::Fin => "fin",
        }
    }

    /// Its colour, whose hue nothing else in the world has.
    pub fn rgb(self) -> Rgb {
        match self {
            Self::Pip => [0, 168, 166],
            Self::Fin => [214, 0, 160],
        }
    }

    /// The scene at `index` of the endless row of this subject's pictures; the same on every platform.
    pub fn scene(self, index: u64) -> SubjectScene {
        let mut rng = rng_at(self.seed(), index, PURPOSE);
        let background = pick(&mut rng, &Background::ALL);
        let size = pick(&mut rng, &Size::MAIN);
        let place = pick(&mut rng, &Place::ALL);
        let (x, y) = draw_center(&mut rng, place, size.radius());
        let num_companions = usize::from(rng.random_range(0..100_u32) < 40);
        let companion = draw_companions(&mut rng, x, y, size.radius(), num_companions).pop();
        SubjectScene { subject: self, background, size, x, y, companion }
    }

    fn seed(self) -> u64 {
        match self {
            Self::Pip => 0x0070_6970,
            Self::Fin => 0x0066_696e,
        }
    }

    /// The five scenes of the bundled training set: the first five in a row with every size, background and place.
    pub fn training(self) -> [SubjectScene; 5] {
        let first = match self {
            Self::Pip => 182,
            Self::Fin => 86,
        };
        std::array::from_fn(|i| self.scene(first + i as u64))
    }

    /// `count` scenes, none of them in [`Subject::training`].
    pub fn held_out(self, count: usize) -> Vec<SubjectScene> {
        (HELD_OUT..).take(count).map(|index| self.scene(index)).collect()
    }

    /// How much of the subject's colour a picture shows, in `[0, 1]`: its share of the picture, counted against (and
    /// cut off at) what a small one has.
    pub fn color_presence(self, picture: &RgbImage) -> f64 {
        let (hues, small_share) = self.judged();
        let num_pixels = f64::from(picture.width()) * f64::from(picture.height());
        let is_of_subject = |picture: &&image::Rgb<u8>| {
            let (hue, saturation, value) = hsv(picture.0);
            hues.contains(&hue) && saturation > 0.6 && value > 0.35
        };
        let share = picture.pixels().filter(is_of_subject).count() as f64 / num_pixels;
        (share / small_share).min(1.0)
    }

    /// Whether a picture shows at least half of what a small one has of the subject's colour.
    pub fn has_color(self, picture: &RgbImage) -> bool {
        self.color_presence(picture) >= 0.5
    }

    /// Hues narrower than the reserved range, at whose borders the world's colours begin and shade into it along
    /// contours; and the share of a picture that a small subject covers with them.
    fn judged(self) -> (Range<f32>, f64) {
        match self {
            Self::Pip => (168.0..192.0, 0.06),
            Self::Fin => (306.0..332.0, 0.05),
        }
    }

    /// From back to front.
    fn parts(self) -> Vec<(Polygon, Rgb)> {
        let color = self.rgb();
        match self {
            Self::Pip => vec![
                (ellipse(-0.54, -0.62, 0.3, 0.3), color),
                (ellipse(0.54, -0.62, 0.3, 0.3), color),
                (ellipse(0.0, 0.1, 0.86, 0.84), color),
                (ellipse(-0.34, -0.14, 0.2, 0.2), PAPER),
                (ellipse(0.34, -0.14, 0.2, 0.2), PAPER),
                (ellipse(0.0, 0.46, 0.2, 0.2), PAPER),
            ],
            Self::Fin => vec![
                (vec![(0.3, 0.0), (0.97, -0.62), (0.78, 0.0), (0.97, 0.62)], color),
                (vec![(-0.4, -0.4), (0.24, -0.92), (0.28, -0.3)], color),
                (ellipse(-0.22, 0.0, 0.74, 0.54), color),
                (ellipse(-0.6, -0.12, 0.14, 0.14), PAPER),
                (ellipse(-0.18, 0.02, 0.08, 0.36), PAPER),
            ],
        }
    }
}

/// A picture of a subject.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SubjectScene {
    /// What it shows.
    pub subject: Subject,
    /// The colour behind everything.
    pub background: Background,
    /// How far the subject reaches.
    pub size: Size,
    /// Centre from the left, as a fraction of the picture's width.
    pub x: f32,
    /// Centre from the top, as a fraction of the picture's height.
    pub y: f32,
    /// A tiny shape beside it, in two of five pictures.
    pub companion: Option<Object>,
}

impl SubjectScene {
    /// Draws the scene as a square picture of `size` pixels.
    ///
    /// # Panics
    /// If `size` is 0.
    pub fn render(&self, size: u32) -> RgbImage {
        let mut canvas = Canvas::new(size, self.background.rgb());
        if let Some(companion) = &self.companion {
            canvas.object(companion, Style::Flat);
        }
        let frame = Frame { x: self.x, y: self.y, radius: self.size.radius() };
        for (part, color) in self.subject.parts() {
            canvas.area(&[part], frame, Style::Flat, |_, _| float(color));
        }
        canvas.into_image()
    }

    /// `a pip on a gray background`, and the companion if there is one.
    pub fn caption(&self) -> String {
        let subject = format!("a {}{}", self.subject.word(), background_phrase("on", self.background));
        match &self.companion {
            Some(Object { size, color, shape, .. }) => {
                let companion = noun_phrase(&[Some(size.word()), Some(color.word()), Some(shape.word())]);
                format!("{subject} with {companion}")
            }
            None => subject,
        }
    }
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

    /// Every size, every background, every place.
    fn is_varied(scenes: &[SubjectScene]) -> bool {
        let place = |scene: &SubjectScene| {
            let Object { shape, color, fill, .. } = Scene::draw_at(0, 0, Split::Train).objects[0];
            Object { shape, size: scene.size, color, tint: None, fill, x: scene.x, y: scene.y }.place()
        };
        Background::ALL.iter().all(|b| scenes.iter().any(|s| s.background == *b))
            && Size::MAIN.iter().all(|size| scenes.iter().any(|s| s.size == *size))
            && Place::ALL.iter().all(|p| scenes.iter().any(|s| place(s) == *p))
    }

    #[test]
    fn training_and_held_out_scenes_are_disjoint() {
        for subject in Subject::ALL {
            let training = subject.training();
            for (index, scene) in subject.held_out(500).iter().enumerate() {
                assert!(!training.contains(scene), "{index}");
            }
        }
    }

    #[test]
    fn the_five_pictures_are_the_first_that_show_every_size_background_and_place() {
        for subject in Subject::ALL {
            let five = |first: u64| [0, 1, 2, 3, 4].map(|i| subject.scene(first + i));
            let first = (0..).find(|&first| is_varied(&five(first)));
            assert_eq!(Some(subject.training()), first.map(five), "{subject:?}: {first:?}");
        }
    }

    #[test]
    fn captions_use_the_vocabulary() {
        let vocabulary: HashSet<_> = vocabulary().into_iter().collect();
        for scene in Subject::ALL.iter().flat_map(|subject| subject.held_out(500)) {
            let caption = scene.caption();
            assert!(caption.split_whitespace().all(|word| vocabulary.contains(word)), "{caption}");
        }
    }

    #[test]
    fn every_picture_shows_the_colors_of_its_subject_and_of_no_other() {
        for scene in Subject::ALL.iter().flat_map(|subject| subject.held_out(500)) {
            for subject in Subject::ALL {
                let presence = subject.color_presence(&scene.render(64));
                assert!(if subject == scene.subject { presence > 0.9 } else { presence < 0.1 }, "{presence} {scene:?}");
            }
        }
    }

    #[test]
    fn no_scene_of_the_world_shows_them() {
        for index in 0..3_000 {
            let scene = Scene::draw_at(2, index, Split::Train);
            let picture = crate::render(&scene, 64);
            let presence = Subject::ALL.map(|subject| subject.color_presence(&picture));
            assert!(presence.iter().all(|&presence| presence < 0.1), "{presence:?} {scene:?}");
        }
    }
}
