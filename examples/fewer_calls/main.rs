//! What fewer calls of the model save, and what they cost, on a model of one's own or the pocket model:
//!
//! ```sh
//! cargo run --release -p ipa --example fewer_calls -- --model assets/pocket --output out/fewer-calls
//! cargo run --release -p ipa --example fewer_calls -- --model SD15 --adapter FILE --image-encoder DIR --clip DIR \
//!     --data data.json --output out/fewer-calls
//! ```
//!
//! Every way (`ways.rs`) draws every case, a reference and a caption together, from one seed; what comes out is compared
//! with the reference, the caption, and the picture of the plain way. Writes `table.md`, `scores.json` and `grid.png`.

mod cases;
mod scores;
mod ways;

use std::fs;
use std::ops::ControlFlow;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Parser;
use image::{RgbImage, imageops};
use ipa::core::device::{parse_device, parse_kind};
use ipa::formats::ModelFiles;
use ipa::sample::UnetCall;
use ipa::train::scoring_clip;
use ipa::{GenerateRequest, Pipeline};

use cases::Case;
use scores::Drawn;
use ways::Way;

/// Measures what fewer calls save and cost.
#[derive(Debug, Parser)]
struct Arguments {
    /// Diffusers-style folder or single file
    #[arg(long)]
    model: PathBuf,
    /// Adapter [default: ip_adapter.safetensors in the model's folder]
    #[arg(long)]
    adapter: Option<PathBuf>,
    /// Image encoder [default: the model's own]
    #[arg(long)]
    image_encoder: Option<PathBuf>,
    /// CLIP that scores [default: `clip` in the model's folder]
    #[arg(long)]
    clip: Option<PathBuf>,
    /// List of { image_file, text } instead of scenes of the drawn world
    #[arg(long)]
    data: Option<PathBuf>,
    /// How many cases to draw
    #[arg(long, default_value_t = 100)]
    num: usize,
    /// Steps of the plain way
    #[arg(long, default_value_t = 30)]
    steps: usize,
    /// Beside the plain way, only those whose name has this in it
    #[arg(long, default_value = "")]
    only: String,
    /// Strength of the references
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// Folder for what was found
    #[arg(long, default_value = "out/fewer-calls")]
    output: PathBuf,
    /// auto, cpu, cuda, mps
    #[arg(long, default_value = "auto")]
    device: String,
    /// auto, f32, f16, bf16
    #[arg(long, default_value = "auto")]
    dtype: String,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let device = parse_device(&arguments.device)?;
    let options = (device, parse_kind(&arguments.dtype, device)?);
    let files = ModelFiles::open(&arguments.model)?;
    let clip = scoring_clip(&files, arguments.clip.as_deref(), options)?
        .context("nothing to score with: name a CLIP with --clip")?;
    let adapter = arguments.adapter.clone().unwrap_or_else(|| arguments.model.join("ip_adapter.safetensors"));
    let pipeline = Pipeline::load_files(files, options)?.with_adapter(&adapter, arguments.image_encoder.as_deref())?;
    let cases = match &arguments.data {
        Some(data) => cases::read(data, arguments.num)?,
        None => cases::drawn_world(arguments.num, pipeline.native_side()),
    };
    fs::create_dir_all(&arguments.output)?;
    let base = GenerateRequest { num_steps: arguments.steps, scale: arguments.scale, ..GenerateRequest::default() };
    let mut drawn = Vec::new();
    let ways = ways::all(&base).into_iter().enumerate();
    for (_, way) in ways.filter(|(index, way)| *index == 0 || way.name.contains(&arguments.only)) {
        eprintln!("{}", way.name);
        drawn.push(draw(&pipeline, &cases, way)?);
    }
    let table = scores::table(&clip, pipeline.unet().config(), &cases, &drawn)?;
    fs::write(arguments.output.join("scores.json"), format!("{:#}\n", serde_json::to_value(&table.rows)?))?;
    fs::write(arguments.output.join("table.md"), table.markdown())?;
    grid(&cases, &drawn).save(arguments.output.join("grid.png"))?;
    print!("{}", table.markdown());
    Ok(())
}

fn draw(pipeline: &Pipeline, cases: &[Case], way: Way) -> Result<Drawn> {
    let mut pictures = Vec::new();
    let mut calls: Vec<UnetCall> = Vec::new();
    for (seed, case) in (1..).zip(cases) {
        let request = GenerateRequest { prompt: case.prompt.clone(), seed, ..way.request.clone() };
        let references = std::slice::from_ref(&case.reference);
        let mut generated = pipeline.generate(&request, references, |_step| ControlFlow::Continue(()))?;
        pictures.push(generated.pictures.swap_remove(0));
        calls = generated.calls;
    }
    Ok(Drawn { way, pictures, calls })
}

/// The first cases, a row each: the reference, then every way.
fn grid(cases: &[Case], drawn: &[Drawn]) -> RgbImage {
    const ROWS: usize = 12;
    let (width, height) = drawn[0].pictures[0].dimensions();
    let rows = cases.len().min(ROWS);
    let mut grid =
        RgbImage::from_pixel((drawn.len() as u32 + 1) * (width + 2), rows as u32 * (height + 2), image::Rgb([255; 3]));
    for (row, case) in cases.iter().take(rows).enumerate() {
        let reference = imageops::resize(&case.reference, width, height, imageops::FilterType::CatmullRom);
        let pictures = [&reference].into_iter().chain(drawn.iter().map(|drawn| &drawn.pictures[row]));
        for (column, picture) in pictures.enumerate() {
            imageops::replace(
                &mut grid,
                picture,
                column as i64 * i64::from(width + 2),
                row as i64 * i64::from(height + 2),
            );
        }
    }
    grid
}
