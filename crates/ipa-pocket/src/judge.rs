//! What a picture shows, measured in its pixels: no network, no opinion.
//!
//! The background is the border's median colour. What differs from it falls into connected regions; the largest is
//! the main object. Its colour is the median of its most colourful pixels, its shape that of the eight (with or
//! without a hole) that covers the region best, its fill and style follow from where it is pale, dark or light.

mod fit;
mod region;

use image::RgbImage;

use crate::palette::{Background, Color, INK, distance2, float, nearest};
use crate::render::{DOT_PITCH, STRIPE_PERIOD, dots, stripes};
use crate::scene::{Fill, Scene, Shape, Style};
use fit::{Fit, best_fit};
use region::Region;

/// What the pixels say about a picture's background and main object.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Judgement {
    /// The background nearest to the border's colour.
    pub background: Background,
    /// The colour nearest to the main object's.
    pub color: Color,
    /// The shape that covers the main object best.
    pub shape: Shape,
    /// Its inside.
    pub fill: Fill,
    /// The drawing style.
    pub style: Style,
    /// How many objects there are.
    pub num_objects: usize,
    /// Intersection over union of the main object and the best shape; 0 if nothing stands out from the background,
    /// and then only `background` has a meaning.
    pub overlap: f32,
}

/// Which parts of a picture are as a scene asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the scene's attribute of that name")]
pub struct Agreement {
    pub num_objects: bool,
    pub background: bool,
    pub color: bool,
    pub shape: bool,
    pub fill: bool,
    pub style: bool,
}

impl Judgement {
    /// Compares with what the picture should show; an empty picture agrees in its background at most.
    pub fn agreement(&self, scene: &Scene) -> Agreement {
        let main = scene.main();
        let found = self.overlap > 0.0;
        Agreement {
            num_objects: self.num_objects == scene.objects.len(),
            background: self.background == scene.background,
            color: found && self.color == main.color,
            shape: found && self.shape == main.shape,
            fill: found && self.fill == main.fill,
            style: found && self.style == scene.style,
        }
    }
}

/// Measures a picture of the drawn world, rendered or generated, of any size of at least 16 pixels.
pub fn judge(picture: &RgbImage) -> Judgement {
    let pixels = Pixels::new(picture);
    let (border, noise) = pixels.border();
    let background = nearest(border, &Background::ALL, Background::rgb);
    let Some(region) = Region::main(&pixels, border, noise) else {
        let (color, shape) = (Color::Red, Shape::Circle);
        let (fill, style) = (Fill::Solid, Style::Flat);
        return Judgement { background, color, shape, fill, style, num_objects: 0, overlap: 0.0 };
    };
    let tone = tone(&pixels, &region);
    let fit = best_fit(&region);
    Judgement {
        background,
        color: nearest(tone, &Color::ALL, Color::rgb),
        shape: fit.shape,
        fill: fill(&pixels, &region, &fit, tone),
        style: style(&pixels, &region, &fit, tone),
        num_objects: 1 + num_companions(&pixels, (border, noise), &fit),
        overlap: fit.overlap,
    }
}

/// Things outside the main object, which some of them touch.
fn num_companions(pixels: &Pixels, (border, noise): ([f32; 3], f32), fit: &Fit) -> usize {
    Region::num_others(pixels, border, noise, |x, y| fit.covers(x, y))
}

/// Half the width of a pattern's edges, in fractions of the picture's width.
const PATTERN_SOFTNESS: f32 = 0.012;

/// A picture as floats.
struct Pixels {
    width: usize,
    height: usize,
    data: Vec<[f32; 3]>,
}

impl Pixels {
    fn new(picture: &RgbImage) -> Self {
        Self {
            width: picture.width() as usize,
            height: picture.height() as usize,
            data: picture.pixels().map(|pixel| float(pixel.0)).collect(),
        }
    }

    /// The median colour of the outermost pixels, and their mean distance from it: noise.
    fn border(&self) -> ([f32; 3], f32) {
        let at_border = |&at: &usize| {
            let (x, y) = (at % self.width, at / self.width);
            x == 0 || y == 0 || x + 1 == self.width || y + 1 == self.height
        };
        let pixels: Vec<_> = (0..self.data.len()).filter(at_border).map(|at| self.data[at]).collect();
        let color = median_color(&pixels);
        let distances: Vec<_> = pixels.iter().map(|pixel| distance2(*pixel, color).sqrt()).collect();
        (color, median(distances))
    }
}

/// The main object's own colour: the median of the most colourful fifth of its pixels.
fn tone(pixels: &Pixels, region: &Region) -> [f32; 3] {
    let mut colors: Vec<_> = region.members().map(|at| pixels.data[at]).collect();
    colors.sort_by(|a, b| chroma(*b).total_cmp(&chroma(*a)));
    colors.truncate(colors.len().div_ceil(5));
    median_color(&colors)
}

/// Pale pixels make a pattern; which one, their correlation with either tells.
fn fill(pixels: &Pixels, region: &Region, fit: &Fit, tone: [f32; 3]) -> Fill {
    if fit.is_hollow {
        return Fill::Hollow;
    }
    let inside = region.inner(2).into_iter().filter(|&at| value(pixels.data[at]) > 90.0);
    let pale: Vec<_> = inside
        .map(|at| {
            let x = (at % pixels.width) as f32 + 0.5 - fit.frame.x;
            let y = (at / pixels.width) as f32 + 0.5 - fit.frame.y;
            Pale { x: x / pixels.width as f32, y: y / pixels.width as f32, paleness: paleness(pixels.data[at], tone) }
        })
        .collect();
    let share = pale.iter().filter(|pixel| pixel.paleness > 0.65).count() as f32 / pale.len().max(1) as f32;
    match () {
        () if share < 0.08 => Fill::Solid,
        () if best_correlation(&pale, Pattern::Stripes) > best_correlation(&pale, Pattern::Dots) => Fill::Striped,
        () => Fill::Dotted,
    }
}

/// A pixel seen from the object's centre, in fractions of the picture's width.
struct Pale {
    x: f32,
    y: f32,
    paleness: f32,
}

#[derive(Clone, Copy, PartialEq)]
enum Pattern {
    Stripes,
    Dots,
}

/// The highest correlation of paleness and pattern over the pattern's possible shifts.
fn best_correlation(pale: &[Pale], pattern: Pattern) -> f32 {
    const NUM_SHIFTS: usize = 8;
    let (period_x, period_y) = match pattern {
        Pattern::Stripes => (0.0, STRIPE_PERIOD),
        Pattern::Dots => (DOT_PITCH, 2.0 * DOT_PITCH),
    };
    let shift = |i: usize, period: f32| i as f32 / NUM_SHIFTS as f32 * period;
    let num_x = if period_x == 0.0 { 1 } else { NUM_SHIFTS };
    let shifts = (0..num_x * NUM_SHIFTS).map(|i| (shift(i / NUM_SHIFTS, period_x), shift(i % NUM_SHIFTS, period_y)));
    let correlations = shifts.map(|(dx, dy)| {
        correlation(pale.iter().map(|pixel| {
            let (x, y) = (pixel.x + dx, pixel.y + dy);
            let drawn = match pattern {
                Pattern::Stripes => stripes(y, 1.0, PATTERN_SOFTNESS),
                Pattern::Dots => dots(x, y, 1.0, PATTERN_SOFTNESS),
            };
            (pixel.paleness, drawn)
        }))
    });
    correlations.fold(0.0, f32::max)
}

/// Pearson's coefficient; 0 if either side is constant.
fn correlation(pairs: impl Iterator<Item = (f32, f32)>) -> f32 {
    let (mut n, mut a, mut b, mut aa, mut bb, mut ab) = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0);
    for (x, y) in pairs {
        (n, a, b) = (n + 1.0, a + x, b + y);
        (aa, bb, ab) = (aa + x * x, bb + y * y, ab + x * y);
    }
    let spread = (n * aa - a * a) * (n * bb - b * b);
    if spread > 0.0 { (n * ab - a * b) / spread.sqrt() } else { 0.0 }
}

/// Dark at the edge towards the light: outlined; lighter there than on the far side: shaded.
fn style(pixels: &Pixels, region: &Region, fit: &Fit, tone: [f32; 3]) -> Style {
    let depth = |at: usize| {
        let (x, y) = (at % pixels.width, at / pixels.width);
        let (u, v) = fit.frame.local(x as f32 + 0.5, y as f32 + 0.5);
        0.5 * (u + v)
    };
    let values: Vec<_> = pixels.data.iter().map(|pixel| value(*pixel)).collect();
    let dark = 0.5 * (value(float(INK)) + value(tone));
    let edge: Vec<_> = region.edge_minima(&values).into_iter().filter(|(at, _)| depth(*at) < -0.1).collect();
    let num_dark = edge.iter().filter(|(_, least)| *least < dark).count();
    if 2 * num_dark > edge.len() {
        return Style::Outlined;
    }
    let mut inside = region.inner(1);
    inside.retain(|&at| paleness(pixels.data[at], tone) < 0.5);
    let light = |wanted: &dyn Fn(f32) -> bool| {
        mean(inside.iter().filter(|&&at| wanted(depth(at))).map(|&at| luma(pixels.data[at])))
    };
    let (near, far) = (light(&|depth| depth < -0.2), light(&|depth| depth > 0.2));
    if near - far > 0.1 * (near + far) { Style::Shaded } else { Style::Flat }
}

/// 0 for the object's own colour, however dark, 1 for white and gray.
fn paleness(color: [f32; 3], tone: [f32; 3]) -> f32 {
    (1.0 - saturation(color) / saturation(tone).max(0.1)).clamp(0.0, 1.0)
}

fn median_color(colors: &[[f32; 3]]) -> [f32; 3] {
    std::array::from_fn(|channel| median(colors.iter().map(|color| color[channel]).collect()))
}

/// 0 if there is nothing.
fn median(mut values: Vec<f32>) -> f32 {
    values.sort_by(f32::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

fn mean(values: impl Iterator<Item = f32>) -> f32 {
    let (sum, count) = values.fold((0.0, 0_u32), |(sum, count), value| (sum + value, count + 1));
    if count == 0 { 0.0 } else { sum / count as f32 }
}

fn value(color: [f32; 3]) -> f32 {
    color.into_iter().fold(0.0, f32::max)
}

fn chroma(color: [f32; 3]) -> f32 {
    value(color) - color.into_iter().fold(255.0, f32::min)
}

fn saturation(color: [f32; 3]) -> f32 {
    chroma(color) / value(color).max(1.0)
}

fn luma([r, g, b]: [f32; 3]) -> f32 {
    0.299 * r + 0.587 * g + 0.114 * b
}
