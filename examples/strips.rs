//! Draws the picture strips of docs/composition.md from the request files beside it:
//! `cargo run --release -p ipa --example strips -- assets/pocket docs/composition`
//!
//! A strip shows, from the left, what the request names (references, each after its mask, and the negative picture), what
//! its seed gives without references, and what it gives with them.

use std::collections::BTreeMap;
use std::error::Error;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use image::{Rgb, RgbImage, imageops};
use ipa::core::device::{parse_device, parse_kind};
use ipa::sample::Pictures;
use ipa::{GenerateRequest, Pipeline, load_image};

/// Side of a picture in a strip.
const SIDE: u32 = 96;
const GAP: u32 = 4;
/// Between the three groups.
const WIDE_GAP: u32 = 20;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, folder] = arguments.as_slice() else {
        return Err("give MODEL FOLDER".into());
    };
    let options = (parse_device("cpu")?, parse_kind("f32", parse_device("cpu")?)?);
    let adapter = Path::new(model).join("ip_adapter.safetensors");
    let pipeline = Pipeline::load(model.as_ref(), options)?.with_adapter(&adapter, None)?;
    let mut requests: Vec<PathBuf> =
        std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<_, std::io::Error>>()?;
    requests.retain(|path| path.extension().is_some_and(|ending| ending == "toml"));
    requests.sort();
    for path in requests {
        strip(&pipeline, &GenerateRequest::from_file(&path)?)?.save(path.with_extension("png"))?;
        println!("{}", path.display());
    }
    Ok(())
}

fn strip(pipeline: &Pipeline, request: &GenerateRequest) -> Result<RgbImage, Box<dyn Error>> {
    let mut named = BTreeMap::new();
    for path in request.named_pictures() {
        named.insert(path.to_owned(), load_image(path)?);
    }
    let without = GenerateRequest { image_prompts: Vec::new(), ..request.clone() };
    let draw = |request: &GenerateRequest| {
        let pictures = Pictures { named: Some(&named), ..Pictures::default() };
        pipeline.generate(request, pictures, |_step| ControlFlow::Continue(())).map(|generated| generated.pictures)
    };
    let references = request.image_prompts.iter().flat_map(|spec| spec.images.iter().chain(&spec.negative));
    let shown = references.flat_map(|image| image.mask.iter().chain([&image.file]));
    let shown = shown.map(|path| named[path].clone()).collect();
    Ok(beside(&[shown, draw(&without)?, draw(request)?]))
}

/// Groups of pictures in a row on white, each picture in a thin frame.
fn beside(groups: &[Vec<RgbImage>]) -> RgbImage {
    let num: u32 = groups.iter().map(|group| group.len() as u32).sum();
    let gaps = groups.len() as u32 - 1;
    let width = num * (SIDE + GAP) + gaps * WIDE_GAP - GAP;
    let mut strip = RgbImage::from_pixel(width, SIDE, Rgb([255; 3]));
    let mut left = 0;
    for group in groups {
        for picture in group {
            let frame = RgbImage::from_pixel(SIDE, SIDE, Rgb([160; 3]));
            let tile = imageops::resize(picture, SIDE - 2, SIDE - 2, imageops::FilterType::CatmullRom);
            imageops::replace(&mut strip, &frame, i64::from(left), 0);
            imageops::replace(&mut strip, &tile, i64::from(left) + 1, 1);
            left += SIDE + GAP;
        }
        left += WIDE_GAP;
    }
    strip
}
