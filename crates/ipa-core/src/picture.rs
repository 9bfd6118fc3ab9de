//! Between 8-bit pictures and the pixels a VAE sees.

use image::RgbImage;
use tch::{Device, Kind, Tensor};

/// Pictures of one size as `[n, 3, height, width]` in `[-1, 1]`, f32 on the CPU.
///
/// # Panics
/// If the pictures differ in size.
pub fn to_pixels(pictures: &[RgbImage]) -> Tensor {
    let stacked: Vec<Tensor> = pictures.iter().map(bytes_chw).collect();
    Tensor::stack(&stacked, 0).to_kind(Kind::Float) / 127.5 - 1.0
}

/// Pixels `[n, 3, height, width]` in `[-1, 1]` as pictures; values outside are clamped.
///
/// Rounds half to even, as diffusers' image processor does.
pub fn to_pictures(pixels: &Tensor) -> Vec<RgbImage> {
    let (num, _, height, width) = pixels.size4().expect("pixels are [n, 3, height, width]");
    let unit = (pixels.to_device(Device::Cpu).to_kind(Kind::Float) * 0.5 + 0.5).clamp(0.0, 1.0);
    let bytes = (unit * 255.0).round().to_kind(Kind::Uint8).permute([0, 2, 3, 1]).contiguous();
    (0..num)
        .map(|index| {
            let data = Vec::<u8>::try_from(bytes.get(index).view([-1])).expect("bytes of one picture");
            RgbImage::from_raw(width as u32, height as u32, data).expect("three bytes a pixel")
        })
        .collect()
}

fn bytes_chw(picture: &RgbImage) -> Tensor {
    let (width, height) = picture.dimensions();
    let bytes = Tensor::from_slice(picture.as_raw());
    bytes.view([i64::from(height), i64::from(width), 3]).permute([2, 0, 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_survive_the_way_to_pixels_and_back() {
        let picture = RgbImage::from_fn(5, 3, |x, y| image::Rgb([(x * 50) as u8, (y * 100) as u8, 255]));
        let pixels = to_pixels(std::slice::from_ref(&picture));
        assert_eq!(pixels.size(), [1, 3, 3, 5]);
        assert_eq!(to_pictures(&pixels), [picture]);
    }
}
