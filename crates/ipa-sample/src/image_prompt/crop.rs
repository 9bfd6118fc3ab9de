//! Squares of pictures that are none: what an image encoder sees.

use std::fmt;

use image::{Rgb, RgbImage, imageops};
use ipa_clip::preprocess::{Filter, resize};
use serde::{Deserialize, Serialize};

use crate::RequestError;

/// Most squares of one picture.
const MAX_TILES: u32 = 16;

/// What the encoder sees of a picture that is not square.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", expecting = "center, pad, squash, tiles, or a point { x = 0.3, y = 0.5 }")]
pub enum Crop {
    /// The middle, as the encoder's own preprocessing cuts it out.
    #[default]
    Center,
    /// All of it, with borders in the encoder's mean colour.
    Pad,
    /// All of it, out of proportion.
    Squash,
    /// Squares that cover all of it, each a reference of its own.
    Tiles,
    /// The square around a point, as far as the picture reaches; shares of width and height.
    #[serde(untagged)]
    Focus {
        /// From the left, 0 to 1.
        x: f64,
        /// From the top, 0 to 1.
        y: f64,
    },
}

impl fmt::Display for Crop {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Center => f.write_str("center"),
            Self::Pad => f.write_str("pad"),
            Self::Squash => f.write_str("squash"),
            Self::Focus { x, y } => write!(f, "{{ x = {x}, y = {y} }}"),
            Self::Tiles => f.write_str("tiles"),
        }
    }
}

impl Crop {
    pub(super) fn check(self) -> Result<(), RequestError> {
        match self {
            Self::Focus { x, y } if !(0.0..=1.0).contains(&x) || !(0.0..=1.0).contains(&y) => {
                let allowed = "choose shares of width and height, 0 to 1";
                Err(RequestError::Field { field: "crop", value: self.to_string(), allowed })
            }
            _ => Ok(()),
        }
    }

    /// The squares that an encoder for pictures of `side` is to see; a square picture is one whatever the crop.
    ///
    /// `mean` is the colour that is zero to the encoder.
    ///
    /// # Errors
    /// [`RequestError::Field`] if it would take very many.
    pub(crate) fn squares(self, picture: &RgbImage, side: u32, mean: Rgb<u8>) -> Result<Vec<RgbImage>, RequestError> {
        let (width, height) = picture.dimensions();
        let (short, long) = (width.min(height), width.max(height));
        if short == long {
            return Ok(vec![picture.clone()]);
        }
        Ok(match self {
            Self::Center => vec![picture.clone()], // the encoder's own preprocessing does it
            Self::Pad => {
                // Brought to the encoder's size first: borders of a long picture are many times the picture.
                let fitted =
                    |length: u32| ((u64::from(length) * u64::from(side)).div_ceil(u64::from(long)) as u32).max(1);
                let small = resize(picture, fitted(width), fitted(height), Filter::Bicubic);
                let mut square = RgbImage::from_pixel(side, side, mean);
                let [x, y] = [small.width(), small.height()].map(|length| i64::from((side - length) / 2));
                imageops::replace(&mut square, &small, x, y);
                vec![square]
            }
            Self::Squash => vec![resize(picture, side, side, Filter::Bicubic)],
            Self::Focus { x, y } => {
                let begin = |share: f64, side: u32| {
                    let begin = (share * f64::from(side) - f64::from(short) / 2.0).round();
                    begin.clamp(0.0, f64::from(side - short)) as u32
                };
                vec![imageops::crop_imm(picture, begin(x, width), begin(y, height), short, short).to_image()]
            }
            Self::Tiles => {
                let num = long.div_ceil(short);
                if num > MAX_TILES {
                    let value = format!("tiles of a picture of {width} x {height}");
                    let allowed = "they would be more than 16: choose pad or squash, or cut the picture";
                    return Err(RequestError::Field { field: "crop", value, allowed });
                }
                let begin = |index: u32, side: u32| {
                    (f64::from(side - short) * f64::from(index) / f64::from(num - 1)).round() as u32
                };
                let tile = |index| {
                    imageops::crop_imm(picture, begin(index, width), begin(index, height), short, short).to_image()
                };
                (0..num).map(tile).collect()
            }
        })
    }
}

/// What the encoder does not see of a picture, or not as it is, for a warning.
pub fn what_is_lost(crop: Crop, picture: &RgbImage) -> Option<String> {
    let (width, height) = picture.dimensions();
    let (short, long) = (width.min(height), width.max(height));
    if short == long {
        return None;
    }
    let unseen = 100.0 * (1.0 - f64::from(short) / f64::from(long));
    let sides = if width > height { "left and right" } else { "top and bottom" };
    Some(match crop {
        Crop::Center => format!(
            "{unseen:.0} % of it, {sides}, are not seen; to see all of it, give an image prompt crop = \"pad\", \"squash\" or \
             \"tiles\""
        ),
        Crop::Focus { x, y } => format!("{unseen:.0} % of it, away from ({x}, {y}), are not seen"),
        Crop::Squash => {
            let how = if width > height { "narrow" } else { "flat" };
            format!("it is seen {:.1} times too {how}", f64::from(long) / f64::from(short))
        }
        Crop::Pad => format!("{unseen:.0} % of what is seen are borders, and it is seen as much smaller"),
        Crop::Tiles => return None,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Red grows to the right, green to the bottom.
    fn picture(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| Rgb([x as u8, y as u8, 0]))
    }

    fn squares(crop: Crop, width: u32, height: u32) -> Vec<RgbImage> {
        crop.squares(&picture(width, height), 8, Rgb([1, 2, 3])).unwrap()
    }

    fn corner(square: &RgbImage) -> [u8; 2] {
        let Rgb([x, y, _]) = square.get_pixel(0, 0);
        [*x, *y]
    }

    #[test]
    fn tiles_cover_the_picture_evenly() {
        let tiles = squares(Crop::Tiles, 25, 10);
        assert_eq!(tiles.iter().map(corner).collect::<Vec<_>>(), [[0, 0], [8, 0], [15, 0]]);
        assert!(tiles.iter().all(|tile| tile.dimensions() == (10, 10)));
        assert_eq!(squares(Crop::Tiles, 10, 20).iter().map(corner).collect::<Vec<_>>(), [[0, 0], [0, 10]]);
    }

    #[test]
    fn a_focus_is_as_near_as_the_picture_allows() {
        let focus = |x, y| corner(&squares(Crop::Focus { x, y }, 30, 10)[0]);
        assert_eq!(
            [focus(0.0, 0.5), focus(0.5, 0.0), focus(0.6, 1.0), focus(1.0, 1.0)],
            [[0, 0], [10, 0], [13, 0], [20, 0]]
        );
    }

    #[test]
    fn padding_keeps_all_and_squashing_the_size() {
        let padded = &squares(Crop::Pad, 10, 20)[0];
        assert_eq!((padded.dimensions(), padded.get_pixel(0, 7), corner(padded)), ((8, 8), &Rgb([1, 2, 3]), [1, 2]));
        let Rgb([_, top, _]) = *padded.get_pixel(4, 0);
        let Rgb([_, bottom, _]) = *padded.get_pixel(4, 7);
        assert!(top < 3 && bottom > 16, "all of it is there: {top} to {bottom}");
        assert_eq!(squares(Crop::Squash, 30, 10)[0].dimensions(), (8, 8));
    }

    #[test]
    fn long_pictures_take_little_memory_and_no_thousand_tiles() {
        assert_eq!(squares(Crop::Pad, 20_000, 2)[0].dimensions(), (8, 8));
        assert!(Crop::Tiles.squares(&picture(170, 10), 8, Rgb([0; 3])).is_err());
        assert_eq!(squares(Crop::Tiles, 160, 10).len(), 16);
    }

    #[test]
    fn a_square_is_seen_as_it_is() {
        for crop in [Crop::Center, Crop::Pad, Crop::Squash, Crop::Focus { x: 0.1, y: 0.9 }, Crop::Tiles] {
            assert!(squares(crop, 12, 12) == [picture(12, 12)]);
            assert_eq!(what_is_lost(crop, &picture(12, 12)), None);
        }
        assert!(what_is_lost(Crop::Center, &picture(20, 10)).unwrap().contains("50 % of it, left and right"));
    }

    #[test]
    fn a_crop_is_a_word_or_a_point() {
        #[derive(Deserialize)]
        struct Spec {
            crop: Crop,
        }
        let read = |text: &str| toml::from_str::<Spec>(text).map(|spec| spec.crop);
        assert_eq!(read("crop = \"tiles\"").unwrap(), Crop::Tiles);
        assert_eq!(read("crop = { x = 0.2, y = 1 }").unwrap(), Crop::Focus { x: 0.2, y: 1.0 });
        assert!(read("crop = \"left\"").is_err());
    }
}
