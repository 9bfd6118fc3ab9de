//! What a picture shows, and how scenes are drawn from a seed.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

pub use crate::attributes::{Fill, Place, Shape, Size, Style};
pub use crate::palette::{Background, Color};
use crate::palette::{RESERVED_HUES, Rgb, from_hsv};

/// One thing in a picture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Object {
    /// Its outline.
    pub shape: Shape,
    /// Its extent.
    pub size: Size,
    /// Its colour, unless it has a tint.
    pub color: Color,
    /// A colour that no word names, in place of `color`: only an image prompt can ask for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tint: Option<Rgb>,
    /// Its inside.
    pub fill: Fill,
    /// Centre from the left, as a fraction of the picture's width.
    pub x: f32,
    /// Centre from the top, as a fraction of the picture's height.
    pub y: f32,
}

impl Object {
    /// The colour as painted in the flat style.
    pub fn rgb(&self) -> Rgb {
        self.tint.unwrap_or_else(|| self.color.rgb())
    }

    /// The place its centre is nearest to.
    pub fn place(&self) -> Place {
        let (dx, dy) = (self.x - 0.5, self.y - 0.5);
        match () {
            () if dx.abs().max(dy.abs()) < 0.07 => Place::Center,
            () if dx.abs() >= dy.abs() && dx < 0.0 => Place::Left,
            () if dx.abs() >= dy.abs() => Place::Right,
            () if dy < 0.0 => Place::Top,
            () => Place::Bottom,
        }
    }
}

/// Everything a picture shows; [`crate::render`] draws it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scene {
    /// The colour behind everything.
    pub background: Background,
    /// How every object is drawn.
    pub style: Style,
    /// One to three objects; the first is the main one, the largest, never covered.
    pub objects: Vec<Object>,
}

/// Which combinations of shape and colour a scene may show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// Held-out combinations appear nowhere.
    Train,
    /// The main object is of a held-out combination.
    HeldOut,
}

/// Whether a combination is never shown in [`Split::Train`].
///
/// One colour for each shape and one shape for each colour: 8 of 64.
pub fn is_held_out(shape: Shape, color: Color) -> bool {
    (5 * shape as usize + color as usize + 3).is_multiple_of(8)
}

/// How many of 100 training scenes have a main object of a colour without a name.
const TINTED_PERCENT: u32 = 30;

impl Scene {
    /// The scene at `index` of the endless row that `seed` and `split` name.
    ///
    /// Counter-based: any index can be drawn at once, on every platform the same.
    pub fn draw_at(seed: u64, index: u64, split: Split) -> Self {
        let purpose = match split {
            Split::Train => 1,
            Split::HeldOut => 2,
        };
        let mut rng = rng_at(seed, index, purpose);
        let mut main = draw_main(&mut rng, split);
        let background = pick(&mut rng, &Background::ALL);
        let style = pick(&mut rng, &Style::ALL);
        let num_companions = match rng.random_range(0..100_u32) {
            0..65 => 0,
            65..90 => 1,
            _ => 2,
        };
        let companions = draw_companions(&mut rng, main.x, main.y, main.size.radius(), num_companions);
        // Last, so that it changes nothing else of a scene.
        let is_tinted = split == Split::Train && rng.random_range(0..100_u32) < TINTED_PERCENT;
        main.tint = is_tinted.then(|| draw_tint(&mut rng, main.shape));
        let objects = std::iter::once(main).chain(companions).collect();
        Self { background, style, objects }
    }

    /// The scene at `index` with objects of any colour, of reserved hues too, and small ones thrown over
    /// the main one: for what should know all colours side by side, as an autoencoder should. It has no main object.
    pub fn jumbled_at(seed: u64, index: u64) -> Self {
        let mut scene = Self::draw_at(seed, index, Split::Train);
        let mut rng = rng_at(seed, index, 5);
        let Object { x, y, size, .. } = *scene.main();
        for _ in 0..rng.random_range(0..4_u32) {
            let mut around = |center: f32| center + (rng.random::<f32>() - 0.5) * 1.6 * size.radius();
            let (x, y) = (around(x), around(y));
            let (shape, color) = draw_combination(&mut rng, Split::Train);
            let object = Object { shape, size: Size::Tiny, color, tint: None, fill: Fill::Solid, x, y };
            scene.objects.insert(0, object); // the first is painted last
        }
        for object in &mut scene.objects {
            let hue = rng.random_range(0.0..360.0_f32);
            object.tint = Some(from_hsv(hue, rng.random_range(0.5..1.0), rng.random_range(0.3..1.0)));
        }
        scene
    }

    /// The main object.
    ///
    /// # Panics
    /// If the scene has no object, which [`Scene::draw_at`] never returns.
    pub fn main(&self) -> &Object {
        &self.objects[0]
    }
}

/// An independent generator for every (seed, index, purpose).
pub(crate) fn rng_at(seed: u64, index: u64, purpose: u64) -> ChaCha8Rng {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&index.to_le_bytes());
    key[16..24].copy_from_slice(&purpose.to_le_bytes());
    ChaCha8Rng::from_seed(key)
}

/// One of `items`, each equally often.
pub(crate) fn pick<T: Copy>(rng: &mut ChaCha8Rng, items: &[T]) -> T {
    items[rng.random_range(0..items.len() as u32) as usize]
}

/// A centre near `place` such that an object of this radius stays inside the picture.
pub(crate) fn draw_center(rng: &mut ChaCha8Rng, place: Place, radius: f32) -> (f32, f32) {
    let room = 0.5 - radius - 0.02;
    let reach = room.min(0.22);
    let (dx, dy) = place.direction();
    let mut along = |direction: f32| {
        let jitter = (rng.random::<f32>() - 0.5) * 0.06;
        0.5 + (direction * reach + jitter).clamp(-room, room)
    };
    (along(dx), along(dy))
}

/// Up to `count` tiny objects of trained combinations, towards the edge and clear of the main object.
pub(crate) fn draw_companions(
    rng: &mut ChaCha8Rng,
    main_x: f32,
    main_y: f32,
    main_radius: f32,
    count: usize,
) -> Vec<Object> {
    const SPOTS: [(f32, f32); 8] =
        [(0.13, 0.13), (0.87, 0.13), (0.13, 0.87), (0.87, 0.87), (0.5, 0.13), (0.5, 0.87), (0.13, 0.5), (0.87, 0.5)];
    let clearance = main_radius * 1.12 + Size::Tiny.radius();
    let mut free: Vec<_> = SPOTS.into_iter().filter(|(x, y)| (x - main_x).hypot(y - main_y) >= clearance).collect();
    let mut companions = Vec::new();
    while companions.len() < count && !free.is_empty() {
        let (x, y) = free.swap_remove(rng.random_range(0..free.len() as u32) as usize);
        let (shape, color) = draw_combination(rng, Split::Train);
        companions.push(Object {
            shape,
            size: Size::Tiny,
            color,
            tint: None,
            fill: Fill::Solid,
            x: x + (rng.random::<f32>() - 0.5) * 0.02,
            y: y + (rng.random::<f32>() - 0.5) * 0.02,
        });
    }
    companions
}

fn draw_main(rng: &mut ChaCha8Rng, split: Split) -> Object {
    let (shape, color) = draw_combination(rng, split);
    let size = pick(rng, &Size::MAIN);
    let place = pick(rng, &Place::ALL);
    let (x, y) = draw_center(rng, place, size.radius());
    Object { shape, size, color, tint: None, fill: draw_fill(rng, shape), x, y }
}

/// Any hue but the reserved ones and those that pass for the colour held out with this shape.
///
/// Without tints a model knows eight colours and none between; with them it can learn a ninth from five pictures.
fn draw_tint(rng: &mut ChaCha8Rng, shape: Shape) -> Rgb {
    loop {
        let hue = rng.random_range(0.0..360.0_f32);
        let tint = from_hsv(hue, rng.random_range(0.65..1.0), rng.random_range(0.5..1.0));
        let is_reserved = RESERVED_HUES.iter().any(|hues| hues.contains(&hue));
        if !is_reserved && !is_held_out(shape, Color::nearest(tint)) {
            return tint;
        }
    }
}

/// Solid in 40 of 100 cases, else one of the shape's other fills.
fn draw_fill(rng: &mut ChaCha8Rng, shape: Shape) -> Fill {
    if rng.random_range(0..100_u32) < 40 { Fill::Solid } else { pick(rng, &shape.fills()[1..]) }
}

fn draw_combination(rng: &mut ChaCha8Rng, split: Split) -> (Shape, Color) {
    let combinations: Vec<_> = Shape::ALL
        .into_iter()
        .flat_map(|shape| Color::ALL.map(|color| (shape, color)))
        .filter(|&(shape, color)| is_held_out(shape, color) == (split == Split::HeldOut))
        .collect();
    pick(rng, &combinations)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_shape_and_each_color_has_one_held_out_combination() {
        for shape in Shape::ALL {
            assert_eq!(Color::ALL.iter().filter(|&&c| is_held_out(shape, c)).count(), 1);
        }
        for color in Color::ALL {
            assert_eq!(Shape::ALL.iter().filter(|&&s| is_held_out(s, color)).count(), 1);
        }
    }

    #[test]
    fn train_scenes_never_show_a_held_out_combination() {
        for index in 0..5_000 {
            let scene = Scene::draw_at(3, index, Split::Train);
            assert!(scene.objects.iter().all(|o| !is_held_out(o.shape, Color::nearest(o.rgb()))));
        }
    }

    #[test]
    fn held_out_scenes_have_a_held_out_main_object() {
        for index in 0..2_000 {
            let scene = Scene::draw_at(3, index, Split::HeldOut);
            assert!(is_held_out(scene.main().shape, scene.main().color));
        }
    }

    #[test]
    fn the_same_index_gives_the_same_scene() {
        for index in [0, 1, 77, u64::MAX] {
            let scene = Scene::draw_at(5, index, Split::Train);
            assert_eq!(scene, Scene::draw_at(5, index, Split::Train));
            assert_ne!(scene, Scene::draw_at(6, index, Split::Train));
        }
    }

    #[test]
    fn most_scenes_have_one_object() {
        let mut counts = [0; 4];
        for index in 0..2_000 {
            counts[Scene::draw_at(0, index, Split::Train).objects.len()] += 1;
        }
        assert_eq!(counts[0], 0);
        assert!((1_200..1_400).contains(&counts[1]), "{counts:?}");
        assert!((420..580).contains(&counts[2]), "{counts:?}");
        assert!((150..260).contains(&counts[3]), "{counts:?}");
    }

    #[test]
    fn companions_keep_clear_of_the_main_object() {
        for index in 0..3_000 {
            let scene = Scene::draw_at(9, index, Split::Train);
            let main = scene.main();
            for other in &scene.objects[1..] {
                let distance = (main.x - other.x).hypot(main.y - other.y);
                assert!(distance > main.size.radius() + other.size.radius());
            }
        }
    }

    #[test]
    fn every_shape_offers_its_fills_and_every_place_is_found_again() {
        let mut rng = rng_at(0, 0, 99);
        for place in Place::ALL {
            for size in Size::MAIN {
                let (x, y) = draw_center(&mut rng, place, size.radius());
                let object =
                    Object { shape: Shape::Star, size, color: Color::Red, tint: None, fill: Fill::Solid, x, y };
                assert_eq!(object.place(), place);
            }
        }
    }
}
