//! Which shape, where and how large, covers a region best.

use std::sync::LazyLock;

use super::region::Region;
use crate::render::{Frame, Polygon, contour_width, polygons};
use crate::scene::{Fill, Shape, Size};

/// Pixels along one side of a template, which shows `[-REACH, REACH]²`.
const SIDE: usize = 96;
const REACH: f32 = 1.2;
/// How many of the best first fits are refined.
const NUM_REFINED: usize = 8;

/// A shape laid over a region.
pub(super) struct Fit {
    pub(super) shape: Shape,
    pub(super) is_hollow: bool,
    /// In pixels.
    pub(super) frame: Frame,
    /// Intersection over union, in `[0, 1]`.
    pub(super) overlap: f32,
}

impl Fit {
    /// Whether a place, in pixels, belongs to the shape, its hole or its contour.
    pub(super) fn covers(&self, x: f32, y: f32) -> bool {
        const CONTOUR: f32 = 0.16;
        let (u, v) = self.frame.local(x, y);
        let polygons = polygons(self.shape, Fill::Solid);
        contains(polygons, u, v) || edge_distance(polygons, u, v) < CONTOUR
    }
}

/// Tries every shape, with and without hole and contour, from the region's bounding box on.
pub(super) fn best_fit(region: &Region) -> Fit {
    static TEMPLATES: LazyLock<Vec<Template>> = LazyLock::new(Template::all);
    let mut fits: Vec<_> = TEMPLATES.iter().map(|template| (template, template.first_fit(region))).collect();
    fits.sort_by(|(_, a), (_, b)| b.overlap.total_cmp(&a.overlap));
    fits.truncate(NUM_REFINED);
    let refined = fits.into_iter().map(|(template, fit)| template.refine(region, fit));
    refined.max_by(|a, b| a.overlap.total_cmp(&b.overlap)).expect("there are eight shapes")
}

/// A shape as a picture of its own, looked up instead of drawn anew for every place and size.
struct Template {
    shape: Shape,
    is_hollow: bool,
    /// Left, top, right and bottom edge in the shape's own coordinates.
    bounds: [f32; 4],
    covered: Vec<bool>,
}

impl Template {
    fn all() -> Vec<Self> {
        let contours = [0.0, contour_width(Size::Medium.radius())];
        let variants = Shape::ALL.into_iter().flat_map(|shape| {
            let hollow = shape.fills().contains(&Fill::Hollow).then_some((shape, Fill::Hollow));
            std::iter::once((shape, Fill::Solid)).chain(hollow)
        });
        variants.flat_map(|(shape, fill)| contours.map(|contour| Self::new(shape, fill, contour))).collect()
    }

    fn new(shape: Shape, fill: Fill, contour: f32) -> Self {
        let polygons = polygons(shape, fill);
        let own = |i: usize| ((i as f32 + 0.5) / SIDE as f32 * 2.0 - 1.0) * REACH;
        let covers = |x, y| contains(polygons, x, y) || edge_distance(polygons, x, y) < 0.5 * contour;
        let covered: Vec<_> = (0..SIDE * SIDE).map(|at| covers(own(at % SIDE), own(at / SIDE))).collect();
        let mut bounds = [f32::MAX, f32::MAX, f32::MIN, f32::MIN];
        for at in (0..covered.len()).filter(|&at| covered[at]) {
            let (x, y) = (own(at % SIDE), own(at / SIDE));
            bounds = [bounds[0].min(x), bounds[1].min(y), bounds[2].max(x), bounds[3].max(y)];
        }
        Self { shape, is_hollow: fill == Fill::Hollow, bounds, covered }
    }

    /// The frame that makes the bounding boxes equal.
    fn first_fit(&self, region: &Region) -> Fit {
        let [left, top, right, bottom] = region.bounds;
        let [own_left, own_top, own_right, own_bottom] = self.bounds;
        let across = (right - left) / (own_right - own_left);
        let down = (bottom - top) / (own_bottom - own_top);
        let radius = 0.5 * (across + down);
        let frame = Frame {
            x: 0.5 * (left + right - radius * (own_left + own_right)),
            y: 0.5 * (top + bottom - radius * (own_top + own_bottom)),
            radius,
        };
        self.at(region, frame)
    }

    /// Moves and scales the frame as long as that helps.
    fn refine(&self, region: &Region, mut fit: Fit) -> Fit {
        for step in [0.08, 0.04, 0.02] {
            loop {
                let neighbors = moves(fit.frame, step * fit.frame.radius).map(|frame| self.at(region, frame));
                match neighbors.into_iter().max_by(|a, b| a.overlap.total_cmp(&b.overlap)) {
                    Some(better) if better.overlap > fit.overlap => fit = better,
                    _ => break,
                }
            }
        }
        fit
    }

    fn at(&self, region: &Region, frame: Frame) -> Fit {
        Fit { shape: self.shape, is_hollow: self.is_hollow, frame, overlap: self.overlap(region, frame) }
    }

    /// Intersection over union of the region and the template in this frame.
    fn overlap(&self, region: &Region, frame: Frame) -> f32 {
        let (mut both, mut template_only) = (0_u32, 0_u32);
        let scale = 0.5 * SIDE as f32 / (REACH * frame.radius);
        let cell = |pixel: usize, center: f32| {
            let at = (pixel as f32 + 0.5 - center) * scale + 0.5 * SIDE as f32;
            (at >= 0.0 && at < SIDE as f32).then_some(at as usize)
        };
        let columns: Vec<_> = (0..region.width).filter_map(|x| Some((x, cell(x, frame.x)?))).collect();
        for y in 0..region.height {
            let Some(row) = cell(y, frame.y) else { continue };
            let covered = &self.covered[row * SIDE..(row + 1) * SIDE];
            for &(x, _) in columns.iter().filter(|(_, column)| covered[*column]) {
                if region.contains(y * region.width + x) {
                    both += 1;
                } else {
                    template_only += 1;
                }
            }
        }
        both as f32 / (region.num_pixels as f32 + template_only as f32)
    }
}

fn moves(frame: Frame, step: f32) -> [Frame; 6] {
    let Frame { x, y, radius } = frame;
    [
        Frame { x: x - step, ..frame },
        Frame { x: x + step, ..frame },
        Frame { y: y - step, ..frame },
        Frame { y: y + step, ..frame },
        Frame { radius: radius - step, ..frame },
        Frame { radius: radius + step, ..frame },
    ]
}

/// Even-odd rule.
fn contains(polygons: &[Polygon], x: f32, y: f32) -> bool {
    let crossings = polygons.iter().flat_map(|polygon| {
        let ends = polygon.iter().cycle().skip(1);
        polygon
            .iter()
            .zip(ends)
            .filter(move |((x0, y0), (x1, y1))| (*y0 > y) != (*y1 > y) && x < x0 + (y - y0) / (y1 - y0) * (x1 - x0))
    });
    crossings.count() % 2 == 1
}

fn edge_distance(polygons: &[Polygon], x: f32, y: f32) -> f32 {
    let edges = polygons.iter().flat_map(|polygon| polygon.iter().zip(polygon.iter().cycle().skip(1)));
    let distances = edges.map(|(&(x0, y0), &(x1, y1))| {
        let (dx, dy) = (x1 - x0, y1 - y0);
        let along = (((x - x0) * dx + (y - y0) * dy) / (dx * dx + dy * dy)).clamp(0.0, 1.0);
        (x - x0 - along * dx).hypot(y - y0 - along * dy)
    });
    distances.fold(f32::MAX, f32::min)
}
