//! From pictures to what the autoencoder sees.

use image::{RgbImage, imageops};
use ipa_clip::preprocess::{self, CropPlace, CropRule, Filter, resize_and_crop};
use ipa_core::{picture, tch::Tensor};

/// A picture as the reference trains on it: shortest side to `resolution` (bilinear), centre crop, `[-1, 1]`;
/// `[1, 3, resolution, resolution]`.
pub fn training_pixels(picture: &RgbImage, resolution: u32) -> Tensor {
    picture::to_pixels(&[resize_and_crop(picture, resolution, Filter::Bilinear, CropRule::Torchvision)])
}

/// Which part of a picture is trained on where it is longer than its size.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Crop {
    /// The middle, as torchvision's `CenterCrop`.
    Centre,
    /// As far from the left and from the top as these shares, from 0 to 1, of what is cut off.
    At(f64, f64),
}

/// A picture scaled (bilinear) to cover `size` = (width, height), cropped, and flipped left to right if asked for. A
/// square from the centre, not flipped, is that of [`training_pixels`].
pub fn resize_to_cover(picture: &RgbImage, size: (u32, u32), crop: Crop, flip: bool) -> RgbImage {
    let place = match crop {
        Crop::Centre => CropPlace::Centre(CropRule::Torchvision),
        Crop::At(x, y) => CropPlace::At(x, y),
    };
    let mut covered = preprocess::resize_to_cover(picture, size, Filter::Bilinear, place);
    if flip {
        imageops::flip_horizontal_in_place(&mut covered);
    }
    covered
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| image::Rgb([(5 * x) as u8, (3 * y) as u8, (x * y) as u8]))
    }

    #[test]
    fn a_centred_square_is_what_the_reference_trains_on() {
        for (width, height) in [(50, 40), (33, 71), (64, 64), (99, 32)] {
            let picture = picture(width, height);
            let covered = resize_to_cover(&picture, (32, 32), Crop::Centre, false);
            assert_eq!(picture::to_pixels(&[covered]), training_pixels(&picture, 32));
        }
    }

    #[test]
    fn flips_and_crops_move_pixels_only() {
        let picture = picture(80, 40);
        let crop = |x, flip| resize_to_cover(&picture, (40, 40), Crop::At(x, 0.5), flip);
        assert_eq!(crop(0.0, false), imageops::crop_imm(&picture, 0, 0, 40, 40).to_image());
        assert_eq!(crop(1.0, false), imageops::crop_imm(&picture, 40, 0, 40, 40).to_image());
        assert_eq!(crop(0.5, true), imageops::flip_horizontal(&crop(0.5, false)));
    }
}
