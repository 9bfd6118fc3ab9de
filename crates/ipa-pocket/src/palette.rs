//! Every named colour of the drawn world, as 8-bit sRGB.
//!
//! Object colours are saturated, backgrounds are pale, so that a few pixels are enough to tell which is which.

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// An 8-bit sRGB colour.
pub type Rgb = [u8; 3];

/// The contour of the outlined style.
pub const INK: Rgb = [22, 20, 26];
/// The second tone of striped and dotted fills.
pub const PAPER: Rgb = [255, 255, 255];

/// Hues in degrees that no scene of the world has, kept for subjects that a model must not know: teal and
/// magenta.
pub(crate) const RESERVED_HUES: [Range<f32>; 2] = [163.0..197.0, 300.0..342.0];

/// The colour of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Color {
    Red,
    Orange,
    Yellow,
    Green,
    Blue,
    Purple,
    Pink,
    Brown,
}

impl Color {
    /// All colours, in the order of their discriminants.
    pub const ALL: [Self; 8] =
        [Self::Red, Self::Orange, Self::Yellow, Self::Green, Self::Blue, Self::Purple, Self::Pink, Self::Brown];

    /// The word captions use.
    pub fn word(self) -> &'static str {
        match self {
            Self::Red => "red",
            Self::Orange => "orange",
            Self::Yellow => "yellow",
            Self::Green => "green",
            Self::Blue => "blue",
            Self::Purple => "purple",
            Self::Pink => "pink",
            Self::Brown => "brown",
        }
    }

    /// The colour that `rgb` is nearest to.
    pub fn nearest(rgb: Rgb) -> Self {
        nearest(float(rgb), &Self::ALL, Self::rgb)
    }

    /// The colour as painted in the flat style.
    pub fn rgb(self) -> Rgb {
        match self {
            Self::Red => [222, 30, 36],
            Self::Orange => [250, 138, 12],
            Self::Yellow => [252, 220, 24],
            Self::Green => [34, 160, 66],
            Self::Blue => [30, 88, 226],
            Self::Purple => [136, 50, 200],
            Self::Pink => [252, 124, 184],
            Self::Brown => [120, 70, 34],
        }
    }
}

/// The uniform colour behind the objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Background {
    Gray,
    Sky,
    Cream,
    Mint,
}

impl Background {
    /// All backgrounds, in the order of their discriminants.
    pub const ALL: [Self; 4] = [Self::Gray, Self::Sky, Self::Cream, Self::Mint];

    /// The word captions use.
    pub fn word(self) -> &'static str {
        match self {
            Self::Gray => "gray",
            Self::Sky => "sky",
            Self::Cream => "cream",
            Self::Mint => "mint",
        }
    }

    /// The colour as painted.
    pub fn rgb(self) -> Rgb {
        match self {
            Self::Gray => [150, 150, 156],
            Self::Sky => [166, 210, 246],
            Self::Cream => [250, 232, 186],
            Self::Mint => [176, 228, 190],
        }
    }
}

/// A colour of hue in degrees, saturation and value in `[0, 1]`.
pub(crate) fn from_hsv(hue: f32, saturation: f32, value: f32) -> Rgb {
    let channel = |offset: f32| {
        let at = (offset + hue / 60.0).rem_euclid(6.0);
        let depth = at.min(4.0 - at).clamp(0.0, 1.0);
        (255.0 * value * (1.0 - saturation * depth)).round() as u8
    };
    [5.0, 3.0, 1.0].map(channel)
}

/// The item whose colour is nearest in sRGB.
pub(crate) fn nearest<T: Copy>(color: [f32; 3], items: &[T], rgb: fn(T) -> Rgb) -> T {
    let distance = |item: &T| distance2(color, float(rgb(*item)));
    *items.iter().min_by(|a, b| distance(a).total_cmp(&distance(b))).expect("there is something to choose from")
}

/// Squared Euclidean distance in sRGB.
pub(crate) fn distance2(a: [f32; 3], b: [f32; 3]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum()
}

/// The colour as three floats in `[0, 255]`.
pub(crate) fn float(rgb: Rgb) -> [f32; 3] {
    rgb.map(f32::from)
}

/// `a` where `t` is 0, `b` where `t` is 1.
pub(crate) fn mix(a: [f32; 3], b: [f32; 3], t: f32) -> [f32; 3] {
    std::array::from_fn(|i| a[i] + (b[i] - a[i]) * t)
}
