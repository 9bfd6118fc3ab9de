//! 3×3 convolutions with fewer multiplications: Winograd's F(2×2, 3×3), arXiv:1509.09308.
//!
//! A tile of 2×2 results needs 16 products in place of 36. Weights become 16 matrices `[outputs, inputs]`, once; the
//! picture's tiles become 16 matrices `[inputs, tiles]`, by sums and differences alone; their products become tiles of
//! the result the same way. In f32 the error is about twice that of the direct sum; larger tiles would lose ten times as
//! much.

use std::cell::Cell;

use tch::{Device, Kind, Tensor};

use crate::autograd::is_grad_enabled;
use crate::parallel::{Shared, floats, for_each, is_shared};

/// Products of a tile.
const POINTS: usize = 16;
/// Tiles whose transforms lie in memory at a time, at least: as many as a matrix product needs to be fast.
const TILES: usize = 512;

thread_local! {
    static ENABLED: Cell<bool> = const { Cell::new(false) };
}

/// While it lives, 3×3 convolutions on this thread, by weights that have no gradient, may be computed by Winograd's
/// algorithm, and so may be their ways back.
#[derive(Debug)]
#[must_use = "it ends when it is dropped"]
pub struct FewerProducts {
    before: bool,
}

impl FewerProducts {
    /// From now on.
    pub fn new() -> Self {
        Self { before: ENABLED.replace(true) }
    }
}

impl Default for FewerProducts {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for FewerProducts {
    fn drop(&mut self) {
        ENABLED.set(self.before);
    }
}

/// Whether a convolution of a picture by a 3×3 kernel, stride 1, padded by 1, is faster so, and may be so.
pub(crate) fn suits(hidden: &Tensor, weight: &Tensor) -> bool {
    let (batch, inputs, height, width) = hidden.size4().unwrap_or_default();
    let outputs = weight.size()[0];
    // In training, weights are transformed at each call.
    let is_enough = if is_grad_enabled() { batch * height * width >= 1024 } else { height * width >= 256 };
    is_enabled()
        && hidden.device() == Device::Cpu
        && (hidden.kind(), weight.kind()) == (Kind::Float, Kind::Float)
        && batch > 0
        && inputs.min(outputs) >= 64
        && is_enough
        && is_shared()
}

/// Whether a [`FewerProducts`] lives on this thread.
pub(crate) fn is_enabled() -> bool {
    ENABLED.get()
}

/// The 16 matrices of weights `[outputs, inputs, 3, 3]`: `[16, outputs, inputs]`.
pub(crate) fn transformed(weight: &Tensor) -> Tensor {
    let g = [[1.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.0, 0.0, 1.0_f32]];
    let both: Vec<f32> =
        (0..POINTS).flat_map(|point| (0..9).map(move |tap| g[point / 4][tap / 3] * g[point % 4][tap % 3])).collect();
    let both = Tensor::from_slice(&both).view([POINTS as i64, 9]);
    let (outputs, inputs, ..) = weight.size4().expect("a convolution's weights have four sizes");
    both.matmul(&weight.reshape([outputs * inputs, 9]).tr()).view([POINTS as i64, outputs, inputs])
}

/// Which way a convolution is walked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// From pictures to features.
    Forward,
    /// From the gradient of features to that of pictures: the convolution by the kernel turned about, outputs for inputs.
    Back,
}

impl Way {
    /// The matrix that a product is with. A kernel turned about has its transform's first and last rows and columns
    /// exchanged.
    fn matrix(self, point: usize) -> usize {
        let turned = |index: usize| [3, 1, 2, 0][index];
        match self {
            Self::Forward => point,
            Self::Back => 4 * turned(point / 4) + turned(point % 4),
        }
    }
}

/// `hidden` `[batch, inputs, height, width]` by transformed weights `[16, outputs, inputs]`, padded by 1; back,
/// `[batch, outputs, height, width]` by the same.
pub(crate) fn convolved(hidden: &Tensor, weights: &Tensor, bias: Option<&Tensor>, way: Way) -> Tensor {
    let hidden = hidden.contiguous();
    let (batch, inputs, height, width) = hidden.size4().expect("pictures have four sizes");
    let weights = match way {
        Way::Forward => weights.shallow_clone(),
        Way::Back => weights.transpose(1, 2),
    };
    let outputs = weights.size()[1];
    let result = Tensor::empty([batch, outputs, height, width], (Kind::Float, Device::Cpu));
    let sizes = Sizes { height: height as usize, width: width as usize };
    let rows = batch as usize * sizes.tile_rows();
    let rows_at_once = TILES.div_ceil(sizes.tile_columns()).max(rows.div_ceil(8)).min(rows);
    let bias = bias.map(|bias| floats(&bias.contiguous()).to_vec());
    for first in (0..rows).step_by(rows_at_once) {
        let band = Band { sizes, way, first, rows: rows_at_once.min(rows - first) };
        let tiles = band.tiles() as i64;
        let spread = Tensor::empty([POINTS as i64, inputs, tiles], (Kind::Float, Device::Cpu));
        band.spread(&hidden, &spread);
        let products = weights.bmm(&spread);
        band.gather(&products, bias.as_deref(), &result);
    }
    result
}

#[derive(Clone, Copy)]
struct Sizes {
    height: usize,
    width: usize,
}

impl Sizes {
    fn tile_rows(self) -> usize {
        self.height.div_ceil(2)
    }

    fn tile_columns(self) -> usize {
        self.width.div_ceil(2)
    }
}

/// Rows of tiles that are computed together, counted through all pictures.
#[derive(Clone, Copy)]
struct Band {
    sizes: Sizes,
    way: Way,
    first: usize,
    rows: usize,
}

impl Band {
    fn tiles(self) -> usize {
        self.rows * self.sizes.tile_columns()
    }

    /// `Bᵀ d B` of every tile of every channel.
    fn spread(self, hidden: &Tensor, spread: &Tensor) {
        let channels = hidden.size()[1] as usize;
        let (from, to) = (floats(hidden), Shared::new(spread));
        for_each(channels, |channel| {
            let mut lines = Lines::new(self.sizes.tile_columns());
            for row in 0..self.rows {
                let (picture, tile_row) =
                    ((self.first + row) / self.sizes.tile_rows(), (self.first + row) % self.sizes.tile_rows());
                let plane = picture * channels + channel;
                lines.load(from, plane, tile_row, self.sizes);
                let place = |point| {
                    (self.way.matrix(point) * channels + channel) * self.tiles() + row * self.sizes.tile_columns()
                };
                // SAFETY: every channel writes its own part of each of the 16 matrices.
                lines.spread(|point| unsafe { to.part(place(point), self.sizes.tile_columns()) });
            }
        });
    }

    /// `Aᵀ m A` of every tile of every channel.
    fn gather(self, products: &Tensor, bias: Option<&[f32]>, result: &Tensor) {
        let channels = result.size()[1] as usize;
        let (from, to) = (floats(products), Shared::new(result));
        let columns = self.sizes.tile_columns();
        for_each(channels, |channel| {
            let bias = bias.map_or(0.0, |bias| bias[channel]);
            let mut sums = vec![0.0; 2 * columns * 4];
            for row in 0..self.rows {
                let (picture, tile_row) =
                    ((self.first + row) / self.sizes.tile_rows(), (self.first + row) % self.sizes.tile_rows());
                let part = |point: usize| {
                    let begin = (self.way.matrix(point) * channels + channel) * self.tiles() + row * columns;
                    &from[begin..begin + columns]
                };
                for column in 0..4 {
                    let [m0, m1, m2, m3] = [0, 4, 8, 12].map(|line| part(line + column));
                    let (upper, lower) = sums[2 * column * columns..][..2 * columns].split_at_mut(columns);
                    for t in 0..columns {
                        upper[t] = m0[t] + m1[t] + m2[t];
                        lower[t] = m1[t] - m2[t] - m3[t];
                    }
                }
                for line in 0..2.min(self.sizes.height - 2 * tile_row) {
                    let [s0, s1, s2, s3] = [0, 1, 2, 3].map(|column| &sums[(2 * column + line) * columns..][..columns]);
                    let begin =
                        ((picture * channels + channel) * self.sizes.height + 2 * tile_row + line) * self.sizes.width;
                    // SAFETY: every channel writes its own planes of the result.
                    let out = unsafe { to.part(begin, self.sizes.width) };
                    let (pairs, rest) = out.as_chunks_mut::<2>();
                    for (t, pair) in pairs.iter_mut().enumerate() {
                        *pair = [s0[t] + s1[t] + s2[t] + bias, s1[t] - s2[t] - s3[t] + bias];
                    }
                    if let ([last], t) = (rest, columns - 1) {
                        *last = s0[t] + s1[t] + s2[t] + bias;
                    }
                }
            }
        });
    }
}

/// Four lines of a picture, combined as the tiles' rows are, their even and odd columns apart.
struct Lines {
    columns: usize,
    /// By line, columns −1, 1, 3, …: what lies left of each tile, and right.
    odd: [Vec<f32>; 4],
    /// By line, columns 0, 2, 4, …, one more than there are tiles.
    even: [Vec<f32>; 4],
}

impl Lines {
    fn new(columns: usize) -> Self {
        let zeros = || [(); 4].map(|()| vec![0.0; columns + 1]);
        Self { columns, odd: zeros(), even: zeros() }
    }

    fn load(&mut self, from: &[f32], plane: usize, tile_row: usize, Sizes { height, width }: Sizes) {
        const NOTHING: &[f32] = &[];
        let line = |offset: usize| match (2 * tile_row + offset).checked_sub(1).filter(|line| *line < height) {
            Some(line) => &from[(plane * height + line) * width..][..width],
            None => NOTHING,
        };
        let [l0, l1, l2, l3] = [0, 1, 2, 3].map(line);
        for (index, (a, b, sign)) in
            [(l0, l2, -1.0), (l1, l2, 1.0), (l2, l1, -1.0), (l1, l3, -1.0_f32)].into_iter().enumerate()
        {
            let (odd, even) = (&mut self.odd[index][1..], &mut self.even[index]);
            let pairs = width / 2;
            let zeros = [0.0_f32; 2];
            if !a.is_empty() && !b.is_empty() {
                let (a, b) = (a.as_chunks::<2>().0, b.as_chunks::<2>().0);
                for t in 0..pairs {
                    even[t] = a[t][0] + sign * b[t][0];
                    odd[t] = a[t][1] + sign * b[t][1];
                }
            } else {
                let (a, b) = (a.as_chunks::<2>().0, b.as_chunks::<2>().0);
                for t in 0..pairs {
                    let (a, b) = (a.get(t).unwrap_or(&zeros), b.get(t).unwrap_or(&zeros));
                    even[t] = a[0] + sign * b[0];
                    odd[t] = a[1] + sign * b[1];
                }
            }
            if width % 2 == 1 {
                let last = |line: &[f32]| line.last().copied().unwrap_or_default();
                even[pairs] = last(a) + sign * last(b);
                odd[pairs] = 0.0;
            }
        }
    }

    fn spread<'a>(&self, mut to: impl FnMut(usize) -> &'a mut [f32]) {
        for line in 0..4 {
            let columns = self.columns;
            let (left, right) = (&self.odd[line][..columns], &self.odd[line][1..]);
            let (middle, beyond) = (&self.even[line][..columns], &self.even[line][1..]);
            let out = to(4 * line);
            out.iter_mut().zip(left.iter().zip(right)).for_each(|(out, (left, right))| *out = left - right);
            let out = to(4 * line + 1);
            out.iter_mut().zip(middle.iter().zip(right)).for_each(|(out, (middle, right))| *out = middle + right);
            let out = to(4 * line + 2);
            out.iter_mut().zip(middle.iter().zip(right)).for_each(|(out, (middle, right))| *out = right - middle);
            let out = to(4 * line + 3);
            out.iter_mut().zip(middle.iter().zip(beyond)).for_each(|(out, (middle, beyond))| *out = middle - beyond);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::Draws;

    #[test]
    fn it_is_the_convolution() {
        for (batch, inputs, outputs, height, width) in
            [(2, 64, 70, 16, 16), (1, 3, 5, 17, 19), (3, 8, 4, 1, 2), (1, 65, 64, 40, 30)]
        {
            let hidden = Draws::seeded(1).normal(&[batch, inputs, height, width]);
            let weight = Draws::seeded(2).normal(&[outputs, inputs, 3, 3]);
            let bias = Draws::seeded(3).normal(&[outputs]);
            let direct = hidden.to_kind(Kind::Double).conv2d(
                &weight.to_kind(Kind::Double),
                Some(&bias.to_kind(Kind::Double)),
                [1, 1],
                [1, 1],
                [1, 1],
                1,
            );
            let found = convolved(&hidden, &transformed(&weight), Some(&bias), Way::Forward).to_kind(Kind::Double);
            let error = (&found - &direct).abs().max().double_value(&[]) / direct.abs().max().double_value(&[]);
            assert!(error < 2e-6, "{error} for {height} x {width}");
        }
    }

    #[test]
    fn its_way_back_is_the_convolutions() {
        for (batch, inputs, outputs, height, width) in [(2, 64, 70, 16, 16), (1, 3, 5, 17, 19), (1, 65, 64, 40, 30)] {
            let weight = Draws::seeded(2).normal(&[outputs, inputs, 3, 3]);
            let gradient = Draws::seeded(3).normal(&[batch, outputs, height, width]);
            let expected = Tensor::conv_transpose2d(
                &gradient.to_kind(Kind::Double),
                &weight.to_kind(Kind::Double),
                None::<&Tensor>,
                [1, 1],
                [1, 1],
                [0, 0],
                1,
                [1, 1],
            );
            let found = convolved(&gradient, &transformed(&weight), None, Way::Back).to_kind(Kind::Double);
            let error = (&found - &expected).abs().max().double_value(&[]) / expected.abs().max().double_value(&[]);
            assert!(error < 2e-6, "{error} for {height} x {width}");
        }
    }

    fn conv(inputs: i64, outputs: i64) -> (crate::layers::Conv2d, Tensor) {
        let vs = tch::nn::VarStore::new(Device::Cpu);
        let conv = crate::layers::conv2d(&vs.root(), inputs, outputs, 3);
        for (name, mut variable) in vs.variables() {
            variable.set_data(&Draws::seeded(name.len() as u64).normal(&variable.size()));
        }
        (conv, vs.variables()["weight"].shallow_clone())
    }

    fn is_near(found: &Tensor, direct: &Tensor) -> bool {
        (found - direct).abs().max().double_value(&[]) < 1e-5 * direct.abs().max().double_value(&[])
    }

    #[test]
    fn it_is_taken_where_it_may_be() {
        let (conv, _) = conv(64, 64);
        let hidden = Draws::seeded(1).normal(&[1, 64, 16, 16]);
        let no_grad = tch::no_grad_guard();
        let direct = hidden.apply(&conv);
        let fewer = FewerProducts::new();
        let found = hidden.apply(&conv);
        assert_eq!(found != direct, is_shared(), "the last bits differ");
        assert!(is_near(&found, &direct));
        drop(no_grad);
        assert!(hidden.apply(&conv) == direct, "too few places for weights transformed at each call");
        drop(fewer);
        assert_eq!(hidden.apply(&conv), direct);
    }

    #[test]
    fn training_takes_it_where_weights_are_frozen() {
        let (conv, mut weight) = conv(64, 80);
        let hidden = Draws::seeded(1).normal(&[1, 64, 32, 32]);
        let way = || {
            let hidden = hidden.copy().set_requires_grad(true);
            let result = hidden.apply(&conv);
            (&result * Draws::seeded(7).normal(&result.size())).sum(None).backward();
            (result.detach(), hidden.grad())
        };
        let direct = way();
        let _fewer = FewerProducts::new();
        let found = way();
        assert_eq!(found.0 != direct.0, is_shared(), "the last bits differ");
        assert!(is_near(&found.0, &direct.0) && is_near(&found.1, &direct.1));
        assert_eq!(found, way(), "the same again");
        let _ = weight.requires_grad_(true);
        assert_eq!(way(), direct, "what learns goes through libtorch");
        assert!(weight.grad().defined());
    }
}
