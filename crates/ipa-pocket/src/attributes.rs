//! What an object or a picture can be like, and the words for it.

use serde::{Deserialize, Serialize};

/// The outline of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Shape {
    Circle,
    Square,
    Triangle,
    Star,
    Heart,
    Cross,
    Ring,
    Moon,
}

impl Shape {
    /// All shapes, in the order of their discriminants.
    pub const ALL: [Self; 8] =
        [Self::Circle, Self::Square, Self::Triangle, Self::Star, Self::Heart, Self::Cross, Self::Ring, Self::Moon];

    /// The word captions use.
    pub fn word(self) -> &'static str {
        match self {
            Self::Circle => "circle",
            Self::Square => "square",
            Self::Triangle => "triangle",
            Self::Star => "star",
            Self::Heart => "heart",
            Self::Cross => "cross",
            Self::Ring => "ring",
            Self::Moon => "moon",
        }
    }

    /// The fills this shape comes in.
    ///
    /// A hollow circle would be a ring, and cross, ring and moon have no room for a hole.
    pub fn fills(self) -> &'static [Fill] {
        match self {
            Self::Square | Self::Triangle | Self::Star | Self::Heart => &Fill::ALL,
            Self::Circle | Self::Cross | Self::Ring | Self::Moon => &Fill::ALL[..3],
        }
    }
}

/// How far an object reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Size {
    /// Companions only; main objects are at least small.
    Tiny,
    /// About four tenths of the picture's width.
    Small,
    /// More than half of the picture's width.
    Medium,
    /// About two thirds of the picture's width.
    Large,
}

impl Size {
    /// The sizes of a main object.
    pub const MAIN: [Self; 3] = [Self::Small, Self::Medium, Self::Large];

    /// The word captions use.
    pub fn word(self) -> &'static str {
        match self {
            Self::Tiny => "tiny",
            Self::Small => "small",
            Self::Medium => "medium",
            Self::Large => "large",
        }
    }

    /// Half the object's extent, as a fraction of the picture's width.
    pub fn radius(self) -> f32 {
        match self {
            Self::Tiny => 0.11,
            Self::Small => 0.22,
            Self::Medium => 0.28,
            Self::Large => 0.34,
        }
    }
}

/// What an object's inside looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fill {
    /// One colour.
    Solid,
    /// Horizontal white stripes.
    Striped,
    /// White dots.
    Dotted,
    /// A hole of the same shape, half as large.
    Hollow,
}

impl Fill {
    /// All fills, in the order of their discriminants.
    pub const ALL: [Self; 4] = [Self::Solid, Self::Striped, Self::Dotted, Self::Hollow];

    /// The word captions use.
    pub fn word(self) -> &'static str {
        match self {
            Self::Solid => "solid",
            Self::Striped => "striped",
            Self::Dotted => "dotted",
            Self::Hollow => "hollow",
        }
    }
}

/// How the whole picture is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Style {
    /// Plain areas.
    Flat,
    /// A dark contour around every object.
    Outlined,
    /// Light from the upper left, shade at the lower right.
    Shaded,
}

impl Style {
    /// All styles, in the order of their discriminants.
    pub const ALL: [Self; 3] = [Self::Flat, Self::Outlined, Self::Shaded];

    /// The word captions use.
    pub fn word(self) -> &'static str {
        match self {
            Self::Flat => "flat",
            Self::Outlined => "outlined",
            Self::Shaded => "shaded",
        }
    }
}

/// Where the main object lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Place {
    Center,
    Left,
    Right,
    Top,
    Bottom,
}

impl Place {
    /// All places, in the order of their discriminants.
    pub const ALL: [Self; 5] = [Self::Center, Self::Left, Self::Right, Self::Top, Self::Bottom];

    /// The word captions use.
    pub fn word(self) -> &'static str {
        match self {
            Self::Center => "center",
            Self::Left => "left",
            Self::Right => "right",
            Self::Top => "top",
            Self::Bottom => "bottom",
        }
    }

    /// The unit vector from the picture's centre.
    pub(crate) fn direction(self) -> (f32, f32) {
        match self {
            Self::Center => (0.0, 0.0),
            Self::Left => (-1.0, 0.0),
            Self::Right => (1.0, 0.0),
            Self::Top => (0.0, -1.0),
            Self::Bottom => (0.0, 1.0),
        }
    }
}
