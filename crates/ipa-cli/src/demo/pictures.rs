//! The pictures of the demo: the dataset it writes, and the grid over strengths.

use std::path::{Path, PathBuf};

use anyhow::Result;
use image::RgbImage;
use ipa_formats::write_atomically;
use ipa_pocket::mascot;
use ipa_sample::{GenerateRequest, Pipeline, write_png};
use ipa_train::Row;
use serde_json::Value;

use super::DemoArgs;
use super::evaluation::Subject;
use crate::{interrupt, output, progress};

/// Side of the drawn pictures in pixels, the pocket model's own.
pub(crate) const SIDE: u32 = 64;
/// Strengths shown side by side.
pub(crate) const SCALES: [f64; 3] = [0.0, 0.5, 1.0];
const NUM_ROWS: usize = 4;

/// Writes the five pictures and their data.json; gives its path.
///
/// # Errors
/// If a file cannot be written.
pub(crate) fn write_dataset(folder: &Path) -> Result<PathBuf> {
    output::create_folder(folder)?;
    let mut rows = Vec::new();
    for (index, scene) in mascot::training().iter().enumerate() {
        let image_file = format!("pip-{}.png", index + 1);
        write_png(&folder.join(&image_file), &mascot::render(scene, SIDE), &Value::Null)?;
        rows.push(Row { image_file, text: mascot::caption(scene) });
    }
    let (path, text) = (folder.join("data.json"), format!("{:#}\n", serde_json::to_value(rows)?));
    write_atomically(&path, |file| file.write_all(text.as_bytes()))?;
    Ok(path)
}

/// One picture each for references × (before, after) × strengths.
#[derive(Debug)]
pub(crate) struct Grid {
    pub(crate) references: Vec<RgbImage>,
    /// By reference; strengths before the training, then after it.
    pub(crate) rows: Vec<Vec<RgbImage>>,
}

/// Draws the grid without text.
///
/// # Errors
/// If drawing fails.
pub(crate) fn grid(before: &Pipeline, after: &Pipeline, subject: &Subject, args: &DemoArgs) -> Result<Grid> {
    let references: Vec<RgbImage> = subject.references.iter().take(NUM_ROWS).cloned().collect();
    let bar = progress::bar((NUM_ROWS * 2 * SCALES.len()) as u64, "drawing", args.json);
    let mut rows = Vec::new();
    for reference in &references {
        let mut row = Vec::new();
        for (pipeline, scale) in [before, after].into_iter().flat_map(|p| SCALES.map(|scale| (p, scale))) {
            let request = GenerateRequest { scale, seed: args.seed, num_steps: 25, ..GenerateRequest::default() };
            let references = std::slice::from_ref(reference);
            let drawn = pipeline.generate(&request, references, |_| interrupt::flow());
            let mut generated = drawn.map_err(|error| interrupt::told(error, "the trained adapter is kept"))?;
            row.push(generated.pictures.swap_remove(0));
            bar.inc(1);
        }
        rows.push(row);
    }
    bar.finish_and_clear();
    Ok(Grid { references, rows })
}

/// Writes the grid's pictures as PNG files into `folder/pictures`.
///
/// # Errors
/// If a file cannot be written.
pub(crate) fn write_grid(folder: &Path, grid: &Grid) -> Result<()> {
    let folder = folder.join("pictures");
    let column = |column: usize| {
        let time = if column < SCALES.len() { "before" } else { "after" };
        format!("{time}-scale-{}", SCALES[column % SCALES.len()])
    };
    for (index, (reference, row)) in grid.references.iter().zip(&grid.rows).enumerate() {
        let name = format!("held-out-{}", index + 1);
        write_png(&folder.join(format!("{name}.png")), reference, &Value::Null)?;
        for (number, picture) in row.iter().enumerate() {
            write_png(&folder.join(format!("{name}-{}.png", column(number))), picture, &Value::Null)?;
        }
    }
    Ok(())
}
