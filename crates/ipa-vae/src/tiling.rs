//! Large pictures in overlapping tiles, for memory that does not grow with them.
//!
//! Two things make tiles visible. Convolutions pad a tile's edges, so what lies near them is left to the neighbour. And
//! tiles normalised each by itself differ in brightness, so all of them are normalised by the moments of the whole at a
//! tile's size. The result differs a little from that in one piece. (diffusers' `enable_tiling()` does neither and shows
//! its grid.)

use ipa_core::tch::{Device, Kind, Tensor};

use crate::norms::Norms;
use crate::{DiagonalGaussian, Vae, VaeConfig};

/// Shares of what two neighbours have in common: at a tile's edge, left to the neighbour, and after that, over which one
/// fades into the other.
const UNUSED: f64 = 0.375;
const FADE: f64 = 0.25;

/// What neighbours of `side` latents have in common at least.
fn overlap(side: i64) -> i64 {
    (side / 4).max(8).min(side / 2)
}

/// Tiles along one axis, in latents.
#[derive(Debug)]
struct Axis {
    /// Side of a tile, or the whole if that is smaller.
    side: i64,
    starts: Vec<i64>,
}

impl Axis {
    /// As few tiles of `side` as cover `length` with enough overlap, evenly spread.
    fn new(length: i64, side: i64) -> Self {
        let side = side.min(length);
        let step = (side - overlap(side)).max(1);
        let num = (length - side + step - 1) / step + 1;
        let start = |index: i64| if num > 1 { index * (length - side) / (num - 1) } else { 0 };
        Self { side, starts: (0..num).map(start).collect() }
    }

    /// How much of a tile counts, from its first element to its last, of which a latent is `unit` wide.
    fn weights(&self, index: usize, unit: i64) -> Tensor {
        let side = self.side * unit;
        let shared = (overlap(self.side) * unit) as f64;
        let fade_in = |distance: &Tensor| ((distance - shared * UNUSED) / (shared * FADE)).clamp(0.0, 1.0);
        let centres = Tensor::arange(side, (Kind::Float, Device::Cpu)) + 0.5;
        let mut weights = centres.ones_like();
        if index > 0 {
            weights *= fade_in(&centres);
        }
        if index + 1 < self.starts.len() {
            weights *= fade_in(&(side as f64 - &centres));
        }
        weights
    }
}

/// Elements that are one latent wide, in a tensor to be cut and in what is made of its tiles.
#[derive(Debug, Clone, Copy)]
struct Units {
    input: i64,
    output: i64,
}

/// What `compute` makes of tiles of `side` latents, put together.
fn tiled(input: &Tensor, side: i64, units: Units, compute: impl Fn(&Tensor) -> Tensor) -> Tensor {
    let [rows, columns] = [2, 3].map(|axis: usize| Axis::new(input.size()[axis] / units.input, side));
    let cut = |tensor: &Tensor, (top, left): (i64, i64), unit: i64| {
        let tensor = tensor.narrow(-2, top * unit, rows.side * unit);
        tensor.narrow(-1, left * unit, columns.side * unit)
    };
    let mut sums: Option<(Tensor, Tensor)> = None; // of weighted tiles, and of weights
    for (row, &top) in rows.starts.iter().enumerate() {
        for (column, &left) in columns.starts.iter().enumerate() {
            let tile = compute(&cut(input, (top, left), units.input));
            let weights = rows.weights(row, units.output).unsqueeze(1) * columns.weights(column, units.output);
            let weights = weights.to_device(tile.device());
            let (sum, total) = sums.get_or_insert_with(|| {
                let [height, width] = [2, 3].map(|axis: usize| input.size()[axis] / units.input * units.output);
                let zeros = |channels| Tensor::zeros([channels, height, width], (Kind::Float, tile.device()));
                (zeros(tile.size()[1]), zeros(1))
            });
            let _ = cut(sum, (top, left), units.output).g_add_(&(tile.squeeze_dim(0) * &weights));
            let _ = cut(total, (top, left), units.output).g_add_(&weights);
        }
    }
    let (sum, total) = sums.expect("at least one tile");
    (sum / total).unsqueeze(0).to_kind(input.kind())
}

impl VaeConfig {
    /// Side of a tile in latents: that of the pictures that the model was trained with.
    fn tile(&self) -> i64 {
        (self.sample_size / self.downsampling()).max(8)
    }
}

fn is_larger(tensor: &Tensor, side: i64) -> bool {
    tensor.size()[2..].iter().any(|&length| length > side)
}

/// Every so manieth element, so that the longer side is at most `side`; both are multiples of `unit`.
fn thinned(tensor: &Tensor, side: i64, unit: i64) -> Tensor {
    let (height, width) = (tensor.size()[2], tensor.size()[3]);
    let shrunk = |length: i64| (length * side / height.max(width) / unit).max(1) * unit;
    tensor.upsample_nearest2d([shrunk(height), shrunk(width)], None, None)
}

impl Vae {
    /// As [`Vae::encode`] of one picture, in tiles if it is larger than the model was trained at.
    pub fn encode_tiled(&self, pixels: &Tensor) -> DiagonalGaussian {
        let factor = self.config().downsampling();
        let side = self.config().tile() * factor;
        if !is_larger(pixels, side) {
            return self.encode(pixels);
        }
        let norms = Norms::recorded(|norms| self.moments(&thinned(pixels, side, factor), norms));
        let moments = tiled(pixels, side / factor, Units { input: factor, output: 1 }, |tile| {
            norms.rewind();
            self.moments(tile, &norms)
        });
        DiagonalGaussian::of_moments(&moments)
    }

    /// As [`Vae::decode`] of one picture, in tiles if it is larger than the model was trained at.
    pub fn decode_tiled(&self, latents: &Tensor) -> Tensor {
        let side = self.config().tile();
        if !is_larger(latents, side) {
            return self.decode(latents);
        }
        let norms = Norms::recorded(|norms| self.pixels(&thinned(latents, side, 1), norms));
        tiled(latents, side, Units { input: 1, output: self.config().downsampling() }, |tile| {
            norms.rewind();
            self.pixels(tile, &norms)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAME: Units = Units { input: 1, output: 1 };

    #[test]
    fn tiles_of_what_does_nothing_are_the_whole() {
        for (height, width) in [(5, 40), (33, 17), (16, 16), (100, 64)] {
            let input = Tensor::randn([1, 2, height, width], (Kind::Float, Device::Cpu));
            let whole = tiled(&input, 16, SAME, Tensor::shallow_clone);
            assert_eq!(whole.size(), input.size());
            let error = (whole - &input).abs().max().double_value(&[]);
            assert!(error < 1e-6, "{height} x {width}: {error}");
        }
    }

    #[test]
    fn what_is_wrong_at_the_edge_of_a_tile_is_not_seen() {
        let input = Tensor::ones([1, 1, 48, 48], (Kind::Float, Device::Cpu));
        let whole = tiled(&input, 16, SAME, |tile| {
            let padded = tile.narrow(2, 1, 14).narrow(3, 1, 14).constant_pad_nd([1, 1, 1, 1]);
            assert_eq!(padded.size(), tile.size());
            padded
        });
        let inner = whole.narrow(2, 1, 46).narrow(3, 1, 46);
        assert_eq!(inner.min().double_value(&[]), 1.0);
    }
}
