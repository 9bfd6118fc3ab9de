//! Resize, decoding and CLIP's image processor against Pillow and transformers.
//! Reference values: tests/fixtures/preprocess.py
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use image::{Rgb, RgbImage};
use ipa_clip::preprocess::{Filter, resize};
use ipa_clip::{ImageProcessor, PreprocessError, VisionConfig, load_image};
use ndarray::{Array3, Axis, s};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/preprocess").join(name)
}

/// The picture of the fixture script's `picture`.
fn picture(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        Rgb([0, 1, 2].map(|c: u32| ((37 * y + 11 * x * x + 5 * x * y * (c + 1) + 80 * c) % 256) as u8))
    })
}

/// Reads the `<width>x<height>` of a tensor's name.
fn sides(text: &str) -> (u32, u32) {
    let (width, height) = text.split_once('x').unwrap();
    (width.parse().unwrap(), height.parse().unwrap())
}

fn floats(view: &TensorView) -> Vec<f32> {
    view.data().chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
}

fn doubles(view: &TensorView) -> Vec<f64> {
    view.data().chunks_exact(8).map(|bytes| f64::from_le_bytes(bytes.try_into().unwrap())).collect()
}

fn assert_values(name: &str, values: &Array3<f32>, expected: &TensorView) {
    assert_eq!(values.shape(), expected.shape(), "{name}");
    let worst = values.iter().zip(floats(expected)).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst <= 1e-6, "{name}: {worst}");
}

#[test]
fn resize_equals_pillow_bit_for_bit() {
    let bytes = fs::read(fixture("resize.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    assert!(!tensors.is_empty());
    for (name, expected) in tensors.iter() {
        let parts: Vec<&str> = name.split('.').collect();
        let filter = match parts[0] {
            "bilinear" => Filter::Bilinear,
            "bicubic" => Filter::Bicubic,
            _ => Filter::Lanczos,
        };
        let (from, to) = (sides(parts[1]), sides(parts[2]));
        let resized = resize(&picture(from.0, from.1), to.0, to.1, filter);
        assert_eq!(expected.shape(), [to.1 as usize, to.0 as usize, 3], "{name}");
        assert!(resized.as_raw() == expected.data(), "{name}");
    }
}

#[test]
fn processor_equals_the_reference() {
    let bytes = fs::read(fixture("processed.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let config = |text: &str| serde_json::from_str::<ImageProcessor>(text).unwrap();
    let padded = config(r#"{"size": 13, "crop_size": {"height": 18, "width": 40}}"#);
    let squashed = config(r#"{"size": {"height": 16, "width": 18}, "crop_size": {"height": 15, "width": 15}}"#);
    assert!(!tensors.is_empty());
    for (name, expected) in tensors.iter() {
        let (kind, size) = name.split_once('.').unwrap();
        let (width, height) = sides(size);
        let image = picture(width, height);
        match kind {
            "small" => assert_values(name, &ImageProcessor::for_size(32).pixel_values(&image), &expected),
            "padded" => assert_values(name, &padded.pixel_values(&image), &expected),
            "squashed" => assert_values(name, &squashed.pixel_values(&image), &expected),
            "sample" => {
                let values = ImageProcessor::default().pixel_values(&image);
                assert_values(name, &values.slice(s![.., ..;9, ..;9]).to_owned(), &expected);
            }
            "sum" => {
                let values = ImageProcessor::default().pixel_values(&image).mapv(f64::from);
                for (sum, expected) in values.sum_axis(Axis(1)).sum_axis(Axis(1)).iter().zip(doubles(&expected)) {
                    assert!((sum - expected).abs() < 1e-6, "{name}: {sum} {expected}");
                }
            }
            other => panic!("unknown fixture {other}"),
        }
    }
}

#[test]
fn a_batch_is_its_images() {
    let images = [picture(61, 151), picture(203, 47), picture(3, 2)];
    let processor = ImageProcessor::default();
    let batch = processor.batch(&images);
    assert_eq!(batch.shape(), [3, 3, 224, 224]);
    for (values, image) in batch.outer_iter().zip(&images) {
        assert_eq!(values, processor.pixel_values(image));
    }
    assert_eq!(processor.batch(&[]).shape(), [0, 3, 224, 224]);
}

/// The processor of a folder, with this configuration or none, for a tower of 32 pixels.
fn for_tower(config: Option<&str>) -> Result<ImageProcessor, PreprocessError> {
    let dir = tempfile::tempdir().unwrap();
    if let Some(config) = config {
        fs::write(dir.path().join("preprocessor_config.json"), config).unwrap();
    }
    ImageProcessor::for_tower(dir.path(), &VisionConfig { image_size: 32, ..VisionConfig::vit_h() })
}

#[test]
fn folders_without_a_configuration_get_the_towers_size() {
    assert_eq!(for_tower(None).unwrap(), ImageProcessor::for_size(32));
    let other = for_tower(Some(r#"{"size": {"shortest_edge": 40}, "crop_size": 32}"#)).unwrap();
    assert_ne!(other, ImageProcessor::for_size(32));
    assert_eq!(other.output_size(), (32, 32));
}

#[test]
fn configurations_of_another_tower_are_refused_by_size() {
    for (crop, width, height) in [("224", 224, 224), ("31", 31, 31), (r#"{"height": 32, "width": 48}"#, 48, 32)] {
        let refused = for_tower(Some(&format!(r#"{{"size": 32, "crop_size": {crop}}}"#))).unwrap_err().to_string();
        let sizes = format!("{width} x {height} pixels, the image encoder takes 32 x 32");
        assert!(refused.contains("preprocessor_config.json") && refused.contains(&sizes), "{refused}");
    }
}

#[test]
fn configurations_that_are_none_are_refused_by_name() {
    for config in [r#"{"do_resize": false}"#, r#"{"size": "large"}"#, "{"] {
        let refused = for_tower(Some(config)).unwrap_err();
        assert!(matches!(refused, PreprocessError::Config(_)), "{refused}");
        assert!(refused.to_string().contains("preprocessor_config.json"), "{refused}");
    }
}

#[test]
fn a_configuration_that_is_no_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("preprocessor_config.json")).unwrap();
    let refused = ImageProcessor::for_tower(dir.path(), &VisionConfig::vit_h()).unwrap_err();
    assert!(refused.to_string().contains("not a regular file"), "{refused}");
}

/// PNG, lossless WebP and JPEG bit for bit; all eight orientations, also in a PNG.
#[test]
fn files_decode_as_in_pillow() {
    let bytes = fs::read(fixture("decoded.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    assert!(!tensors.is_empty());
    for (name, expected) in tensors.iter() {
        let image = load_image(&fixture("files").join(name)).unwrap();
        assert_eq!(expected.shape(), [image.height() as usize, image.width() as usize, 3], "{name}");
        assert!(image.as_raw() == expected.data(), "{name}");
    }
}

#[test]
fn hostile_files_are_refused_by_name() {
    let paths: Vec<PathBuf> = fs::read_dir(fixture("refused")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(!paths.is_empty());
    for path in paths {
        let error = load_image(&path).unwrap_err();
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        println!("{error}");
    }
    let huge = load_image(&fixture("refused/huge.png")).unwrap_err();
    assert!(matches!(huge, PreprocessError::TooLarge { width: 100_000, height: 100_000, .. }), "{huge}");
    let huge = load_image(&fixture("refused/huge.jpg")).unwrap_err();
    assert!(matches!(huge, PreprocessError::TooLarge { width: 60_000, height: 50_000, .. }), "{huge}");
    let damaged = load_image(&fixture("refused/damaged.jpg")).unwrap_err();
    assert!(matches!(damaged, PreprocessError::Decode { .. }), "{damaged}");
    for name in ["refused/cut.jpg", "refused/cut_header.jpg", "refused/cut_progressive.jpg"] {
        let cut = load_image(&fixture(name)).unwrap_err();
        assert!(matches!(cut, PreprocessError::Truncated { .. }), "{cut}");
    }
    let absent = load_image(Path::new("absent.png")).unwrap_err();
    assert!(matches!(absent, PreprocessError::Read { .. }), "{absent}");
    let folder = load_image(&fixture("refused")).unwrap_err();
    assert!(matches!(folder, PreprocessError::Read { .. }), "{folder}");
}

/// A PNG of one palette colour whose palette has another byte.
#[test]
fn a_palette_that_ends_within_a_colour_is_refused() {
    let chunk = |name: &[u8; 4], data: &[u8]| {
        let named = [&name[..], data].concat();
        let mut crc = flate2::Crc::new();
        crc.update(&named);
        [&(data.len() as u32).to_be_bytes()[..], &named, &crc.sum().to_be_bytes()].concat()
    };
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, &[0, 0]).unwrap(); // no filter, colour 0
    let data = encoder.finish().unwrap();
    let picture = |palette: &[u8]| {
        let header = chunk(b"IHDR", &[0, 0, 0, 1, 0, 0, 0, 1, 8, 3, 0, 0, 0]);
        let rest = [chunk(b"PLTE", palette), chunk(b"IDAT", &data), chunk(b"IEND", &[])].concat();
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), [b"\x89PNG\r\n\x1a\n", &header[..], &rest].concat()).unwrap();
        load_image(file.path())
    };
    assert_eq!(picture(&[9, 8, 7]).unwrap().as_raw(), &[9, 8, 7]);
    for palette in [&[9, 8, 7, 6][..], &[9], &[]] {
        let error = picture(palette).unwrap_err();
        assert!(matches!(error, PreprocessError::Decode { .. }), "{error}");
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(128))]

    /// Bytes of strangers are a picture of the size they say, or refused.
    #[test]
    fn broken_pictures_are_read_or_refused(
        name in proptest::sample::select(vec!["rgb.png", "harsh_progressive.jpg", "lossless.webp", "subsampled.jpg"]),
        changes in proptest::collection::vec((proptest::prelude::any::<proptest::sample::Index>(), 0u8..), 1..8),
        end in proptest::prelude::any::<proptest::sample::Index>(),
    ) {
        let mut bytes = std::fs::read(fixture("files").join(name)).unwrap();
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        bytes.truncate(end.index(2 * bytes.len())); // half of the time the whole
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        if let Ok(picture) = ipa_clip::load_image(file.path()) {
            let (width, height) = picture.dimensions();
            proptest::prop_assert_eq!(picture.as_raw().len(), 3 * (width * height) as usize);
        }
    }
}
