//! Draws scenes: coverage masks from tiny-skia, colours per pixel.
//!
//! Shapes are polygons in the square `[-1, 1]²`, so one description serves drawing at any size and the judges.

use std::f32::consts::TAU;
use std::sync::LazyLock;

use image::RgbImage;
use rayon::prelude::*;
use tiny_skia::{FillRule, LineJoin, Mask, Path, PathBuilder, Stroke, Transform};

use crate::palette::{INK, PAPER, Rgb, float, mix};
use crate::scene::{Fill, Object, Scene, Shape, Style};

/// From stripe to stripe, as a fraction of the picture's width.
pub(crate) const STRIPE_PERIOD: f32 = 0.148;
/// From dot to dot, as a fraction of the picture's width.
pub(crate) const DOT_PITCH: f32 = 0.15;
/// Half of a dot's width, as a fraction of the picture's width.
const DOT_RADIUS: f32 = 0.045;

/// A closed polygon around the origin; `y` points down.
pub(crate) type Polygon = Vec<(f32, f32)>;

/// Draws the scene as a square picture of `size` pixels.
///
/// # Panics
/// If `size` is 0.
pub fn render(scene: &Scene, size: u32) -> RgbImage {
    let mut canvas = Canvas::new(size, scene.background.rgb());
    for object in scene.objects.iter().rev() {
        canvas.object(object, scene.style);
    }
    canvas.into_image()
}

/// Draws every scene, on all cores.
///
/// # Panics
/// If `size` is 0.
pub fn render_many(scenes: &[Scene], size: u32) -> Vec<RgbImage> {
    scenes.par_iter().map(|scene| render(scene, size)).collect()
}

/// Where a drawing's own coordinates, `[-1, 1]²`, lie in the picture, in fractions of its width.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame {
    pub(crate) x: f32,
    pub(crate) y: f32,
    pub(crate) radius: f32,
}

impl Frame {
    pub(crate) fn of(object: &Object) -> Self {
        Self { x: object.x, y: object.y, radius: object.size.radius() }
    }

    fn transform(self, size: f32) -> Transform {
        let scale = self.radius * size;
        Transform::from_row(scale, 0.0, 0.0, scale, self.x * size, self.y * size)
    }

    /// A point of the picture in the drawing's own coordinates.
    pub(crate) fn local(self, x: f32, y: f32) -> (f32, f32) {
        ((x - self.x) / self.radius, (y - self.y) / self.radius)
    }

    /// The pixels that the frame and a margin for contours can touch along one axis.
    fn span(self, center: f32, size: usize) -> std::ops::Range<usize> {
        let reach = self.radius * 1.2 + 0.02;
        let pixel = |at: f32| (at * size as f32).clamp(0.0, size as f32);
        pixel(center - reach).floor() as usize..pixel(center + reach).ceil() as usize
    }
}

/// The picture being drawn.
pub(crate) struct Canvas {
    pixels: Vec<Rgb>,
    mask: Mask,
}

impl Canvas {
    pub(crate) fn new(size: u32, background: Rgb) -> Self {
        Self {
            pixels: vec![background; (size * size) as usize],
            mask: Mask::new(size, size).expect("a picture has at least one pixel"),
        }
    }

    pub(crate) fn into_image(self) -> RgbImage {
        let size = self.mask.width();
        RgbImage::from_raw(size, size, self.pixels.into_flattened())
            .expect("the canvas holds one colour for each pixel")
    }

    /// Draws one of the eight shapes.
    pub(crate) fn object(&mut self, object: &Object, style: Style) {
        let frame = Frame::of(object);
        let color = float(object.rgb());
        let softness = 0.5 / (frame.radius * self.mask.width() as f32);
        self.area(polygons(object.shape, object.fill), frame, style, |u, v| {
            let paper = match object.fill {
                Fill::Solid | Fill::Hollow => 0.0,
                Fill::Striped => stripes(v, frame.radius, softness),
                Fill::Dotted => dots(u, v, frame.radius, softness),
            };
            mix(color, float(PAPER), paper)
        });
    }

    /// Fills the polygons (even-odd) with `paint(u, v)` in the frame's own coordinates, in the given style.
    pub(crate) fn area(
        &mut self,
        polygons: &[Polygon],
        frame: Frame,
        style: Style,
        paint: impl Fn(f32, f32) -> [f32; 3],
    ) {
        let Some(path) = path(polygons) else { return };
        self.cover(&path, FillRule::EvenOdd, frame);
        self.blend(frame, |u, v| match style {
            Style::Shaded => shade(paint(u, v), u, v),
            Style::Flat | Style::Outlined => paint(u, v),
        });
        if style == Style::Outlined {
            self.contour(&path, frame);
        }
    }

    fn contour(&mut self, path: &Path, frame: Frame) {
        let stroke = Stroke { width: contour_width(frame.radius), line_join: LineJoin::Round, ..Stroke::default() };
        let scale = frame.radius * self.mask.width() as f32;
        if let Some(outline) = path.stroke(&stroke, scale) {
            self.cover(&outline, FillRule::Winding, frame);
            self.blend(frame, |_, _| float(INK));
        }
    }

    fn cover(&mut self, path: &Path, rule: FillRule, frame: Frame) {
        let transform = frame.transform(self.mask.width() as f32);
        self.mask.clear();
        self.mask.fill_path(path, rule, true, transform);
    }

    /// Lays `paint` over the picture where the mask covers it.
    fn blend(&mut self, frame: Frame, paint: impl Fn(f32, f32) -> [f32; 3]) {
        let size = self.mask.width() as usize;
        for row in frame.span(frame.y, size) {
            for column in frame.span(frame.x, size) {
                let at = row * size + column;
                let coverage = self.mask.data()[at];
                if coverage == 0 {
                    continue;
                }
                let center = |pixel: usize| (pixel as f32 + 0.5) / size as f32;
                let (u, v) = frame.local(center(column), center(row));
                let under = float(self.pixels[at]);
                let color = mix(under, paint(u, v), f32::from(coverage) / 255.0);
                self.pixels[at] = color.map(|c| (c + 0.5) as u8);
            }
        }
    }
}

/// How wide the contour of an object of this radius is, in the object's own coordinates.
pub(crate) fn contour_width(radius: f32) -> f32 {
    0.05 + 0.02 / radius
}

/// The outline of a shape, with its hole if it has one.
pub(crate) fn polygons(shape: Shape, fill: Fill) -> &'static [Polygon] {
    static OUTLINES: LazyLock<Vec<Vec<Polygon>>> =
        LazyLock::new(|| Shape::ALL.iter().map(|&shape| outline(shape)).collect());
    static HOLLOW: LazyLock<Vec<Vec<Polygon>>> =
        LazyLock::new(|| Shape::ALL.iter().map(|&shape| hollow(shape)).collect());
    match fill {
        Fill::Hollow => &HOLLOW[shape as usize],
        Fill::Solid | Fill::Striped | Fill::Dotted => &OUTLINES[shape as usize],
    }
}

/// A regular polygon fine enough to pass for an ellipse.
pub(crate) fn ellipse(x: f32, y: f32, rx: f32, ry: f32) -> Polygon {
    const CORNERS: usize = 48;
    let corner = |i: usize| {
        let (sin, cos) = (TAU * i as f32 / CORNERS as f32).sin_cos();
        (x + rx * cos, y + ry * sin)
    };
    (0..CORNERS).map(corner).collect()
}

fn outline(shape: Shape) -> Vec<Polygon> {
    match shape {
        Shape::Circle => vec![ellipse(0.0, 0.0, 0.94, 0.94)],
        Shape::Square => vec![vec![(-0.84, -0.84), (0.84, -0.84), (0.84, 0.84), (-0.84, 0.84)]],
        Shape::Triangle => vec![vec![(0.0, -0.92), (0.98, 0.82), (-0.98, 0.82)]],
        Shape::Star => vec![star()],
        Shape::Heart => vec![heart()],
        Shape::Cross => vec![cross(0.34, 0.95)],
        Shape::Ring => vec![ellipse(0.0, 0.0, 0.97, 0.97), ellipse(0.0, 0.0, 0.5, 0.5)],
        Shape::Moon => vec![moon()],
    }
}

/// The outline and a hole of the same form, half as large, around a point deep inside.
fn hollow(shape: Shape) -> Vec<Polygon> {
    let mut polygons = outline(shape);
    let deep = match shape {
        Shape::Triangle => 0.26,
        Shape::Heart => -0.06,
        Shape::Star => 0.04,
        _ => 0.0,
    };
    let hole = |&(x, y): &(f32, f32)| (0.5 * x, deep + 0.5 * (y - deep));
    polygons.push(polygons[0].iter().map(hole).collect());
    polygons
}

fn star() -> Polygon {
    let corner = |i: usize| {
        let radius = if i.is_multiple_of(2) { 1.04 } else { 0.46 };
        let (sin, cos) = (TAU * i as f32 / 10.0).sin_cos();
        (radius * sin, 0.08 - radius * cos)
    };
    (0..10).map(corner).collect()
}

/// The usual parametric heart, scaled to the frame.
fn heart() -> Polygon {
    let corner = |i: usize| {
        let t = TAU * i as f32 / 48.0;
        let y = 13.0 * t.cos() - 5.0 * (2.0 * t).cos() - 2.0 * (3.0 * t).cos() - (4.0 * t).cos();
        (0.98 * t.sin().powi(3), -(y + 2.5) / 15.5)
    };
    (0..48).map(corner).collect()
}

fn cross(half_width: f32, reach: f32) -> Polygon {
    let (w, r) = (half_width, reach);
    vec![(-w, -r), (w, -r), (w, -w), (r, -w), (r, w), (w, w), (w, r), (-w, r), (-w, w), (-r, w), (-r, -w), (-w, -w)]
}

/// A disc without a slightly smaller disc to its right.
fn moon() -> Polygon {
    const STEPS: usize = 28;
    const OUTER: f32 = 0.97;
    const INNER: f32 = 0.8;
    const APART: f32 = 0.52;
    // Where the two circles meet, seen from either centre; the whole is moved right to be centred.
    let x = (APART * APART + OUTER * OUTER - INNER * INNER) / (2.0 * APART);
    let y = (OUTER * OUTER - x * x).sqrt();
    let (from, to) = (y.atan2(x), y.atan2(x - APART));
    let arc = |center: f32, radius: f32, start: f32, i: usize| {
        let angle = start + (TAU - 2.0 * start) * i as f32 / STEPS as f32;
        (center + radius * angle.cos() + 0.1, radius * angle.sin())
    };
    let outside = (0..=STEPS).map(|i| arc(0.0, OUTER, from, i));
    let inside = (1..STEPS).rev().map(|i| arc(APART, INNER, to, i));
    outside.chain(inside).collect()
}

fn path(polygons: &[Polygon]) -> Option<Path> {
    let mut builder = PathBuilder::new();
    for polygon in polygons {
        let (&(x, y), rest) = polygon.split_first()?;
        builder.move_to(x, y);
        for &(x, y) in rest {
            builder.line_to(x, y);
        }
        builder.close();
    }
    builder.finish()
}

/// How much white a striped fill has at height `v`: every other band, half a period high, is white.
pub(crate) fn stripes(v: f32, radius: f32, softness: f32) -> f32 {
    let period = STRIPE_PERIOD / radius;
    let phase = (v / period).rem_euclid(1.0) - 0.5;
    step((phase.abs() - 0.25) * period, softness)
}

/// How much white a dotted fill has: dots on a staggered grid.
pub(crate) fn dots(u: f32, v: f32, radius: f32, softness: f32) -> f32 {
    let pitch = DOT_PITCH / radius;
    let row = (v / pitch).round();
    let shift = if row.rem_euclid(2.0) > 0.5 { 0.5 } else { 0.0 };
    let across = u / pitch - shift;
    let distance = ((across - across.round()) * pitch).hypot(v - row * pitch);
    step(DOT_RADIUS / radius - distance, softness)
}

/// 0 well below zero, 1 well above, linear within `softness` of it.
fn step(value: f32, softness: f32) -> f32 {
    (0.5 + 0.5 * value / softness).clamp(0.0, 1.0)
}

/// Light from the upper left.
fn shade(color: [f32; 3], u: f32, v: f32) -> [f32; 3] {
    let depth = (0.5 * (u + v)).clamp(-1.0, 1.0);
    if depth < 0.0 { mix(color, [255.0; 3], -0.75 * depth) } else { mix(color, [0.0; 3], 0.75 * depth) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scene::Split;

    #[test]
    fn every_scene_renders_at_every_size() {
        for index in 0..300 {
            let scene = Scene::draw_at(1, index, Split::Train);
            for size in [1, 7, 32, 64, 100] {
                assert_eq!(render(&scene, size).dimensions(), (size, size));
            }
        }
    }

    #[test]
    fn rendering_many_equals_rendering_each() {
        let scenes: Vec<_> = (0..20).map(|i| Scene::draw_at(1, i, Split::HeldOut)).collect();
        let each: Vec<_> = scenes.iter().map(|scene| render(scene, 64)).collect();
        assert_eq!(render_many(&scenes, 64), each);
    }

    #[test]
    fn the_border_shows_the_background() {
        for index in 0..200 {
            let scene = Scene::draw_at(1, index, Split::Train);
            assert_eq!(render(&scene, 64).get_pixel(0, 0).0, scene.background.rgb());
        }
    }
}
