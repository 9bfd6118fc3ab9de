//! transformers' `CLIPImageProcessor`, its Pillow path.

use std::path::Path;

use image::RgbImage;
use ipa_formats::read_json_if_there;
use ndarray::{Array3, Array4};
use rayon::prelude::*;
use serde::Deserialize;

use super::PreprocessError;
use super::crop::{CropRule, resize_to_and_crop, shortest_size};
use super::resize::{Filter, Size};
use crate::VisionConfig;

const CHANNELS: usize = 3;
const LARGEST_SIDE: u32 = 4096;
const MEAN: [f32; CHANNELS] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
#[allow(clippy::excessive_precision)] // as published
const STD: [f32; CHANNELS] = [0.268_629_54, 0.261_302_58, 0.275_777_11];

/// Makes images into a vision tower's `pixel_values`: shorter side resized, centre cropped, normalised.
///
/// Equals transformers' `CLIPImageProcessorPil`. The class without `Pil` resizes differently where torchvision
/// is installed.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(try_from = "Config")]
pub struct ImageProcessor {
    size: ResizeTo,
    crop: (u32, u32), // width, height
    filter: Filter,
    rescale_factor: f64,
    mean: [f32; CHANNELS],
    std: [f32; CHANNELS],
}

impl Default for ImageProcessor {
    /// That of every published CLIP tower: 224 pixels, OpenAI's mean and deviation.
    fn default() -> Self {
        Self {
            size: ResizeTo::Shortest(224),
            crop: (224, 224),
            filter: Filter::Bicubic,
            rescale_factor: 1.0 / 255.0,
            mean: MEAN,
            std: STD,
        }
    }
}

impl ImageProcessor {
    /// Reads `preprocessor_config.json` of a folder; fields that it lacks have CLIP's values. Where there is no such
    /// file, CLIP's values at the tower's size.
    ///
    /// Published adapters' `image_encoder` folders hold no `preprocessor_config.json`; diffusers does the same.
    ///
    /// # Errors
    /// [`PreprocessError::Config`] if the file leaves out one of the steps or asks for a size, filter or deviation that
    /// makes no sense; [`PreprocessError::TowerSize`] if the tower takes pictures of another size.
    ///
    /// # Panics
    /// If the tower's `image_size` is not positive.
    pub fn for_tower(dir: &Path, tower: &VisionConfig) -> Result<Self, PreprocessError> {
        let path = dir.join("preprocessor_config.json");
        let expected = tower.image_size as u32;
        let processor = read_json_if_there::<Self>(&path)?.unwrap_or_else(|| Self::for_size(expected));
        match processor.output_size() {
            size if size == (expected, expected) => Ok(processor),
            // A smaller picture would silently get positions of the tower's larger grid.
            (height, width) => Err(PreprocessError::TowerSize { path, width, height, expected }),
        }
    }

    /// CLIP's processing for a tower whose pictures are `image_size` pixels a side.
    ///
    /// # Panics
    /// If `image_size` is 0.
    pub fn for_size(image_size: u32) -> Self {
        assert!(image_size > 0, "a tower that sees no pixels");
        Self { size: ResizeTo::Shortest(image_size), crop: (image_size, image_size), ..Self::default() }
    }

    /// Height and width of the result.
    pub fn output_size(&self) -> (u32, u32) {
        (self.crop.1, self.crop.0)
    }

    /// The colour that becomes zero, to the nearest level.
    pub fn mean_colour(&self) -> [u8; CHANNELS] {
        self.mean.map(|mean| (f64::from(mean) / self.rescale_factor).round().clamp(0.0, 255.0) as u8)
    }

    /// One image as the tower sees it: `[3, height, width]`, `[3, 224, 224]` for published towers.
    ///
    /// # Panics
    /// If the image has no pixels.
    pub fn pixel_values(&self, image: &RgbImage) -> Array3<f32> {
        let (width, height) = (self.crop.0 as usize, self.crop.1 as usize);
        let mut values = vec![0.0; CHANNELS * height * width];
        self.write(image, &mut values);
        Array3::from_shape_vec((CHANNELS, height, width), values).expect("made to this shape")
    }

    /// Several images at once: `[images, 3, height, width]`.
    ///
    /// # Panics
    /// If an image has no pixels.
    pub fn batch(&self, images: &[RgbImage]) -> Array4<f32> {
        let (width, height) = (self.crop.0 as usize, self.crop.1 as usize);
        let len = CHANNELS * height * width;
        let mut values = vec![0.0; images.len() * len];
        values.par_chunks_exact_mut(len).zip(images).for_each(|(values, image)| self.write(image, values));
        Array4::from_shape_vec((images.len(), CHANNELS, height, width), values).expect("made to this shape")
    }

    /// Fills `values`, channel by channel.
    fn write(&self, image: &RgbImage, values: &mut [f32]) {
        let size = match self.size {
            ResizeTo::Shortest(side) => shortest_size(image, side),
            ResizeTo::Exactly(size) => size,
        };
        let pixels = resize_to_and_crop(image, size, self.crop, self.filter, CropRule::Clip);
        let planes = values.chunks_exact_mut(pixels.len() / CHANNELS);
        for (channel, plane) in planes.enumerate() {
            let table = self.normalized(channel);
            for (value, pixel) in plane.iter_mut().zip(pixels.pixels()) {
                *value = table[usize::from(pixel.0[channel])];
            }
        }
    }

    /// What each byte of a channel becomes; scaled in 64 bits and normalised in 32, as the reference does.
    fn normalized(&self, channel: usize) -> [f32; 256] {
        std::array::from_fn(|byte| {
            let scaled = (byte as f64 * self.rescale_factor) as f32;
            (scaled - self.mean[channel]) / self.std[channel]
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum ResizeTo {
    Shortest(u32),
    Exactly(Size),
}

/// `preprocessor_config.json`.
#[derive(Debug, Deserialize)]
struct Config {
    size: Option<SizeField>,
    crop_size: Option<SizeField>,
    resample: Option<u32>,
    rescale_factor: Option<f64>,
    image_mean: Option<[f32; CHANNELS]>,
    image_std: Option<[f32; CHANNELS]>,
    do_resize: Option<bool>,
    do_center_crop: Option<bool>,
    do_rescale: Option<bool>,
    do_normalize: Option<bool>,
}

/// Older files give a number, newer ones name what it is.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(untagged)]
enum SizeField {
    Side(u32),
    Shortest { shortest_edge: u32 },
    Exactly { height: u32, width: u32 },
}

impl TryFrom<Config> for ImageProcessor {
    type Error = String;

    fn try_from(config: Config) -> Result<Self, String> {
        let steps = [
            ("do_resize", config.do_resize),
            ("do_center_crop", config.do_center_crop),
            ("do_rescale", config.do_rescale),
            ("do_normalize", config.do_normalize),
        ];
        if let Some((name, _)) = steps.iter().find(|(_, step)| *step == Some(false)) {
            return Err(format!("`{name}` is false; only the whole CLIP processing is supported"));
        }
        let default = Self::default();
        let size = match config.size {
            None => default.size,
            Some(SizeField::Side(side) | SizeField::Shortest { shortest_edge: side }) => {
                ResizeTo::Shortest(checked_side("size", side)?)
            }
            Some(SizeField::Exactly { height, width }) => ResizeTo::Exactly(Size {
                width: checked_side("size", width)?.into(),
                height: checked_side("size", height)?.into(),
            }),
        };
        let (width, height) = match config.crop_size {
            None => default.crop,
            Some(SizeField::Side(side)) => (side, side),
            Some(SizeField::Exactly { height, width }) => (width, height),
            Some(SizeField::Shortest { .. }) => return Err("`crop_size` needs `height` and `width`".to_owned()),
        };
        let crop = (checked_side("crop_size", width)?, checked_side("crop_size", height)?);
        let filter = match config.resample {
            Some(1) => Filter::Lanczos,
            Some(2) => Filter::Bilinear,
            None | Some(3) => Filter::Bicubic,
            Some(other) => {
                return Err(format!("`resample` is {other}; 1 (Lanczos), 2 (bilinear), 3 (bicubic) are known"));
            }
        };
        let std = config.image_std.unwrap_or(default.std);
        if std.iter().any(|&std| std <= 0.0) {
            return Err("`image_std` must be positive".to_owned());
        }
        Ok(Self {
            size,
            crop,
            filter,
            rescale_factor: config.rescale_factor.unwrap_or(default.rescale_factor),
            mean: config.image_mean.unwrap_or(default.mean),
            std,
        })
    }
}

fn checked_side(name: &str, side: u32) -> Result<u32, String> {
    if (1..=LARGEST_SIDE).contains(&side) {
        Ok(side)
    } else {
        Err(format!("`{name}` is {side}; it must be between 1 and {LARGEST_SIDE}"))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn old_and_new_configurations_mean_the_same() {
        let old: ImageProcessor = serde_json::from_str(r#"{"size": 224, "crop_size": 224, "resample": 3}"#).unwrap();
        let new: ImageProcessor = serde_json::from_str(
            r#"{"size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}, "rescale_factor": 0.00392156862745098}"#,
        )
        .unwrap();
        assert_eq!(old, ImageProcessor::default());
        assert_eq!(new, ImageProcessor::default());
    }

    #[test]
    fn steps_that_are_left_out_are_refused() {
        let error = serde_json::from_str::<ImageProcessor>(r#"{"do_center_crop": false}"#).unwrap_err();
        assert!(error.to_string().contains("do_center_crop"), "{error}");
        for config in
            [r#"{"size": 0}"#, r#"{"crop_size": 1000000}"#, r#"{"image_std": [1, 0, 1]}"#, r#"{"resample": 0}"#]
        {
            assert!(serde_json::from_str::<ImageProcessor>(config).is_err(), "{config}");
        }
    }
}
