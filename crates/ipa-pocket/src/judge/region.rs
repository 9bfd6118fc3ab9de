//! The main object's pixels: what differs from the background, in one piece.
//!
//! A companion that merely touches is cut off: pieces are told apart after their outermost pixels are taken away.

use super::Pixels;
use crate::palette::distance2;

/// Farther from the background than anything but noise; shaded white comes as near as 38 to mint.
const THRESHOLD: f32 = 28.0;
/// Holes smaller than this share of the picture are gaps in a pattern.
const SMALL_HOLE: f32 = 0.004;
/// Regions smaller than this share of the picture are noise.
const SMALL_REGION: f32 = 0.01;

/// Things smaller than this share of the picture, without their outermost pixels, are specks.
const SPECK: f32 = 0.0012;

/// A set of pixels of a picture.
pub(super) struct Region {
    pub(super) width: usize,
    pub(super) height: usize,
    /// Left, top, right and bottom edge, in pixels.
    pub(super) bounds: [f32; 4],
    pub(super) num_pixels: usize,
    inside: Vec<bool>,
}

impl Region {
    /// All that differs from the background.
    fn foreground(pixels: &Pixels, background: [f32; 3], noise: f32) -> Self {
        let threshold = THRESHOLD + noise;
        let differs = |pixel: &[f32; 3]| distance2(*pixel, background) > threshold * threshold;
        let inside = pixels.data.iter().map(differs).collect();
        let (width, height) = (pixels.width, pixels.height);
        Self { width, height, bounds: [0.0; 4], num_pixels: 0, inside }.closed()
    }

    /// How many connected things differ from the background where `is_main` does not say that the main object is.
    pub(super) fn num_others(
        pixels: &Pixels,
        background: [f32; 3],
        noise: f32,
        is_main: impl Fn(f32, f32) -> bool,
    ) -> usize {
        let mut others = Self::foreground(pixels, background, noise);
        for at in 0..others.inside.len() {
            let (x, y) = ((at % others.width) as f32 + 0.5, (at / others.width) as f32 + 0.5);
            others.inside[at] &= !is_main(x, y);
        }
        let others = Self { inside: others.eroded(1), ..others };
        let is_thing = |thing: &Vec<usize>| thing.len() as f32 >= SPECK * others.inside.len() as f32;
        others.components(true).iter().filter(|thing| is_thing(thing)).count()
    }

    /// The largest connected region that differs from the background, its small holes filled.
    pub(super) fn main(pixels: &Pixels, background: [f32; 3], noise: f32) -> Option<Self> {
        let foreground = Self::foreground(pixels, background, noise);
        let share = |pixels: &Vec<usize>| pixels.len() as f32 / foreground.inside.len() as f32;
        let core = Self { inside: foreground.eroded(1), bounds: foreground.bounds, ..foreground };
        let largest = core.components(true).into_iter().max_by_key(Vec::len)?;
        if share(&largest) < SMALL_REGION {
            return None;
        }
        let mut inside = vec![false; foreground.inside.len()];
        for at in largest {
            inside[at] = true;
            for neighbor in foreground.neighbors(at, true) {
                inside[neighbor] = foreground.inside[neighbor];
            }
        }
        let region = Self { inside, ..foreground };
        let total = region.inside.len() as f32;
        let gaps: Vec<_> =
            region.components(false).into_iter().filter(|hole| (hole.len() as f32) < SMALL_HOLE * total).collect();
        Some(region.with(gaps.into_iter().flatten()))
    }

    /// The region and these pixels.
    fn with(mut self, pixels: impl Iterator<Item = usize>) -> Self {
        pixels.for_each(|at| self.inside[at] = true);
        self.bounds = [f32::MAX, f32::MAX, 0.0, 0.0];
        self.num_pixels = 0;
        for at in (0..self.inside.len()).filter(|&at| self.inside[at]) {
            let (x, y) = ((at % self.width) as f32, (at / self.width) as f32);
            let [left, top, right, bottom] = self.bounds;
            self.bounds = [left.min(x), top.min(y), right.max(x + 1.0), bottom.max(y + 1.0)];
            self.num_pixels += 1;
        }
        self
    }

    pub(super) fn contains(&self, at: usize) -> bool {
        self.inside[at]
    }

    pub(super) fn members(&self) -> impl Iterator<Item = usize> {
        (0..self.inside.len()).filter(|&at| self.inside[at])
    }

    /// Members at least `margin` steps away from the outside.
    pub(super) fn inner(&self, margin: usize) -> Vec<usize> {
        let inside = self.eroded(margin);
        (0..inside.len()).filter(|&at| inside[at]).collect()
    }

    /// The least of `values` around each member just inside the outermost ones, with its place.
    pub(super) fn edge_minima(&self, values: &[f32]) -> Vec<(usize, f32)> {
        let (outer, deep) = (self.eroded(1), self.eroded(2));
        let edge = (0..outer.len()).filter(|&at| outer[at] && !deep[at]);
        edge.map(|at| (at, self.neighbors(at, true).map(|n| values[n]).fold(values[at], f32::min))).collect()
    }

    /// Lines one pixel wide filled: where a color meets white, the blend between may look like the background.
    fn closed(mut self) -> Self {
        let near = |at: usize| self.inside[at] || self.neighbors(at, false).any(|n| self.inside[n]);
        let dilated: Vec<_> = (0..self.inside.len()).map(near).collect();
        let surrounded = |at: usize| self.inside[at] || self.neighbors(at, false).all(|n| dilated[n]);
        self.inside = (0..self.inside.len()).map(|at| dilated[at] && surrounded(at)).collect();
        self
    }

    fn eroded(&self, steps: usize) -> Vec<bool> {
        let mut inside = self.inside.clone();
        for _ in 0..steps {
            let kept = |at: usize| inside[at] && self.neighbors(at, false).filter(|&n| inside[n]).count() == 4;
            inside = (0..inside.len()).map(kept).collect();
        }
        inside
    }

    /// Connected sets of pixels that are members (8 neighbours) or are not (4 neighbours).
    fn components(&self, members: bool) -> Vec<Vec<usize>> {
        let mut seen = vec![false; self.inside.len()];
        let mut components = Vec::new();
        for start in 0..self.inside.len() {
            if seen[start] || self.inside[start] != members {
                continue;
            }
            seen[start] = true;
            let mut component = vec![start];
            let mut next = 0;
            while let Some(&at) = component.get(next) {
                next += 1;
                for neighbor in self.neighbors(at, members) {
                    if !seen[neighbor] && self.inside[neighbor] == members {
                        seen[neighbor] = true;
                        component.push(neighbor);
                    }
                }
            }
            components.push(component);
        }
        components
    }

    /// The 4 neighbours inside the picture, and the 4 diagonal ones.
    fn neighbors(&self, at: usize, diagonal: bool) -> impl Iterator<Item = usize> + use<> {
        const STEPS: [(isize, isize); 8] = [(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1)];
        let (width, height) = (self.width, self.height);
        STEPS.into_iter().take(if diagonal { 8 } else { 4 }).filter_map(move |(dx, dy)| {
            let x = (at % width).checked_add_signed(dx).filter(|&x| x < width)?;
            let y = (at / width).checked_add_signed(dy).filter(|&y| y < height)?;
            Some(y * width + x)
        })
    }
}
