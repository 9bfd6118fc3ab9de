//! Shortest side and centre crop, the two transforms in front of every CLIP tower and every training picture.

use std::ops::Range;

use image::{RgbImage, imageops};

use super::resize::{Filter, Size, resize_part};

/// Where the centre is when it falls between two pixels; black fills what the image lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CropRule {
    /// transformers' `CLIPImageProcessor`: the offset is rounded down.
    Clip,
    /// torchvision's `CenterCrop`: half an offset goes to the even neighbour. The reference trains with it.
    Torchvision,
}

/// Scales so that the shorter side is `side`, the longer one rounded down as in transformers and torchvision, then
/// cuts a `side` x `side` square out of the middle; computes only what is kept.
///
/// # Panics
/// If `side` or a side of the image is 0.
pub fn resize_and_crop(image: &RgbImage, side: u32, filter: Filter, rule: CropRule) -> RgbImage {
    resize_to_and_crop(image, shortest_size(image, side), (side, side), filter, rule)
}

/// Which part of what is longer than wanted is kept.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum CropPlace {
    /// The middle.
    Centre(CropRule),
    /// As far from the left and from the top as these shares of what is cut off, each from 0 to 1.
    At(f64, f64),
}

/// Scales so that the image covers `size` = (width, height) and cuts that out at `place`; computes only what is kept.
/// Of a square it is [`resize_and_crop`].
///
/// # Panics
/// If a side is 0.
pub fn resize_to_cover(image: &RgbImage, size: (u32, u32), filter: Filter, place: CropPlace) -> RgbImage {
    let scaled = covering_size(image, size);
    let (columns, rows) = match place {
        CropPlace::Centre(rule) => return resize_to_and_crop(image, scaled, size, filter, rule),
        CropPlace::At(x, y) => (Window::at(scaled.width, size.0, x), Window::at(scaled.height, size.1, y)),
    };
    resize_part(image, scaled, columns.kept, rows.kept, filter)
}

/// Size of `image` after one side became that of `size` and the other, rounded down, no smaller than it.
fn covering_size(image: &RgbImage, (width, height): (u32, u32)) -> Size {
    let (from_width, from_height) = (u64::from(image.width()), u64::from(image.height()));
    let (width, height) = (u64::from(width), u64::from(height));
    if width * from_height >= height * from_width {
        Size { width, height: width * from_height / from_width.max(1) }
    } else {
        Size { width: height * from_width / from_height.max(1), height }
    }
}

/// Resizes to `size`, of which only the middle, `crop` = (width, height), is computed.
pub(super) fn resize_to_and_crop(
    image: &RgbImage,
    size: Size,
    crop: (u32, u32),
    filter: Filter,
    rule: CropRule,
) -> RgbImage {
    let columns = Window::centered(size.width, crop.0, rule);
    let rows = Window::centered(size.height, crop.1, rule);
    let kept = resize_part(image, size, columns.kept.clone(), rows.kept.clone(), filter);
    pad(kept, &columns, &rows)
}

/// Size of `image` after its shorter side became `side`.
pub(super) fn shortest_size(image: &RgbImage, side: u32) -> Size {
    let (width, height) = (u64::from(image.width()), u64::from(image.height()));
    let side = u64::from(side);
    if width <= height {
        Size { width: side, height: side * height / width.max(1) }
    } else {
        Size { width: side * width / height.max(1), height: side }
    }
}

/// A crop along one axis.
struct Window {
    /// Pixels of the image that are in the crop.
    kept: Range<u64>,
    /// Black pixels before them.
    before: u32,
    /// Length of the crop.
    len: u32,
}

impl Window {
    /// Of an image no shorter than the crop.
    fn at(image: u64, len: u32, share: f64) -> Self {
        let excess = image - u64::from(len);
        let start = (share.clamp(0.0, 1.0) * excess as f64).round() as u64;
        Self { kept: start..start + u64::from(len), before: 0, len }
    }

    fn centered(image: u64, len: u32, rule: CropRule) -> Self {
        let crop = u64::from(len);
        if crop >= image {
            let missing = crop - image;
            let before = match rule {
                CropRule::Clip => missing.div_ceil(2),
                CropRule::Torchvision => missing / 2,
            };
            return Self { kept: 0..image, before: before as u32, len };
        }
        let excess = image - crop;
        let start = match rule {
            CropRule::Clip => excess / 2,
            CropRule::Torchvision => excess / 2 + u64::from(excess % 4 == 3),
        };
        Self { kept: start..start + crop, before: 0, len }
    }
}

fn pad(kept: RgbImage, columns: &Window, rows: &Window) -> RgbImage {
    if kept.dimensions() == (columns.len, rows.len) {
        return kept;
    }
    let mut padded = RgbImage::new(columns.len, rows.len);
    imageops::replace(&mut padded, &kept, columns.before.into(), rows.before.into());
    padded
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preprocess::resize;

    /// The first step as a whole.
    fn resize_shortest(image: &RgbImage, side: u32, filter: Filter) -> RgbImage {
        let Size { width, height } = shortest_size(image, side);
        resize(image, width as u32, height as u32, filter)
    }

    /// The second step.
    fn center_crop(image: &RgbImage, side: u32, rule: CropRule) -> RgbImage {
        let columns = Window::centered(image.width().into(), side, rule);
        let rows = Window::centered(image.height().into(), side, rule);
        let (x, y) = (columns.kept.start as u32, rows.kept.start as u32);
        let len = |window: &Window| (window.kept.end - window.kept.start) as u32;
        let kept = imageops::crop_imm(image, x, y, len(&columns), len(&rows));
        pad(kept.to_image(), &columns, &rows)
    }

    #[test]
    fn rules_differ_where_the_excess_is_3_mod_4() {
        let start = |excess: u64, rule| Window::centered(224 + excess, 224, rule).kept.start;
        assert!((0..8).map(|excess| start(excess, CropRule::Clip)).eq([0, 0, 1, 1, 2, 2, 3, 3]));
        assert!((0..8).map(|excess| start(excess, CropRule::Torchvision)).eq([0, 0, 1, 2, 2, 2, 3, 4]));
    }

    #[test]
    fn resize_and_crop_is_the_two_steps() {
        let image = RgbImage::from_fn(33, 71, |x, y| image::Rgb([(5 * x) as u8, (3 * y) as u8, (x * y) as u8]));
        for rule in [CropRule::Clip, CropRule::Torchvision] {
            let steps = center_crop(&resize_shortest(&image, 20, Filter::Bilinear), 20, rule);
            assert_eq!(resize_and_crop(&image, 20, Filter::Bilinear, rule), steps);
        }
    }

    #[test]
    fn covering_a_square_is_resize_and_crop_and_shares_move_the_crop() {
        let image = RgbImage::from_fn(33, 71, |x, y| image::Rgb([(5 * x) as u8, (3 * y) as u8, (x * y) as u8]));
        let cover = |size, place| resize_to_cover(&image, size, Filter::Bilinear, place);
        for image in [image.clone(), imageops::rotate90(&image)] {
            for rule in [CropRule::Clip, CropRule::Torchvision] {
                let square = resize_to_cover(&image, (20, 20), Filter::Bilinear, CropPlace::Centre(rule));
                assert_eq!(square, resize_and_crop(&image, 20, Filter::Bilinear, rule));
            }
        }
        let whole = resize(&image, 20, 43, Filter::Bilinear); // 20 · 71 / 33 = 43.03
        for (share, top) in [(0.0, 0), (0.5, 14), (1.0, 27)] {
            let kept = imageops::crop_imm(&whole, 0, top, 20, 16).to_image();
            assert_eq!(cover((20, 16), CropPlace::At(0.3, share)), kept);
        }
        let wide = resize(&image, 66, 142, Filter::Bilinear);
        let kept = imageops::crop_imm(&wide, 0, 0, 66, 100).to_image();
        assert_eq!(cover((66, 100), CropPlace::At(1.0, 0.0)), kept);
    }

    #[test]
    fn what_the_image_lacks_is_black() {
        let image = RgbImage::from_pixel(2, 1, image::Rgb([255; 3]));
        let padded = center_crop(&image, 5, CropRule::Clip);
        let white: Vec<_> = padded.enumerate_pixels().filter(|(_, _, pixel)| pixel.0[0] == 255).collect();
        assert!(white.iter().map(|(x, y, _)| (*x, *y)).eq([(2, 2), (3, 2)]));
    }

    /// A strip of one pixel by millions would be terabytes as a whole.
    #[test]
    fn only_the_middle_of_a_long_strip_is_computed() {
        let strip = RgbImage::from_pixel(1, 10_000_000, image::Rgb([9, 8, 7]));
        let square = resize_and_crop(&strip, 512, Filter::Bicubic, CropRule::Clip);
        assert!(square.pixels().all(|pixel| pixel.0 == [9, 8, 7]));
    }
}
