//! The pictures of the demo: the dataset it writes, and the grid over strengths.

use std::path::{Path, PathBuf};

use anyhow::Result;
use image::RgbImage;
use ipa_formats::write_atomically;
use ipa_pocket::Subject;
use ipa_sample::{GenerateRequest, PictureFormat, Pipeline, write_picture};
use serde_json::json;

use super::DemoArgs;
use super::evaluation::HeldOut;
use crate::{interrupt, output, progress};

/// Side of the drawn pictures in pixels, the pocket model's own.
pub(crate) const SIDE: u32 = 64;
const MAX_ROWS: usize = 4;

/// A column of the grid: which adapter drew it, at which strength.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Shown {
    /// Strength 0, where an adapter adds nothing, whichever it is.
    Plain,
    Before(f64),
    After(f64),
}

/// The columns of the grid beside the references.
pub(crate) const COLUMNS: [Shown; 5] =
    [Shown::Plain, Shown::Before(0.5), Shown::Before(1.0), Shown::After(0.5), Shown::After(1.0)];

impl Shown {
    fn scale(self) -> f64 {
        match self {
            Self::Plain => 0.0,
            Self::Before(scale) | Self::After(scale) => scale,
        }
    }

    /// What its files are called after the reference's name.
    fn suffix(self) -> String {
        match self {
            Self::Plain => "scale-0".to_owned(),
            Self::Before(scale) => format!("before-scale-{scale}"),
            Self::After(scale) => format!("after-scale-{scale}"),
        }
    }
}

/// Writes the five pictures and their data.json; gives its path.
///
/// # Errors
/// If a file cannot be written.
pub(crate) fn write_dataset(subject: Subject, folder: &Path) -> Result<PathBuf> {
    output::create_folder(folder)?;
    let mut rows = Vec::new();
    for (index, scene) in subject.training().iter().enumerate() {
        let image_file = format!("{}-{}.png", subject.word(), index + 1);
        output::write_picture(&folder.join(&image_file), &scene.render(SIDE))?;
        rows.push(json!({ "image_file": image_file, "text": scene.caption() }));
    }
    let (path, text) = (folder.join("data.json"), format!("{:#}\n", json!(rows)));
    write_atomically(&path, |file| file.write_all(text.as_bytes()))?;
    Ok(path)
}

/// One picture for each reference and each of [`COLUMNS`].
#[derive(Debug)]
pub(crate) struct Grid {
    pub(crate) references: Vec<RgbImage>,
    /// By reference.
    pub(crate) rows: Vec<Vec<RgbImage>>,
}

/// Draws the grid without text.
///
/// # Errors
/// If drawing fails.
pub(crate) fn grid(before: &Pipeline, after: &Pipeline, held_out: &HeldOut, args: &DemoArgs) -> Result<Grid> {
    let references: Vec<RgbImage> = held_out.references.iter().take(MAX_ROWS).cloned().collect();
    let bar = progress::bar((references.len() * COLUMNS.len()) as u64, "drawing", args.json);
    let draw = |reference: &RgbImage, column: Shown| -> Result<RgbImage> {
        let pipeline = if matches!(column, Shown::After(_)) { after } else { before };
        let references = std::slice::from_ref(reference);
        let drawn = pipeline.generate(&request(column, args), references, |_| interrupt::flow());
        let mut generated = drawn.map_err(|error| interrupt::told(error, "the trained adapter is kept"))?;
        bar.inc(1);
        Ok(generated.pictures.swap_remove(0))
    };
    let draw_row = |reference: &RgbImage| COLUMNS.into_iter().map(|column| draw(reference, column)).collect();
    let rows: Vec<Vec<RgbImage>> = references.iter().map(draw_row).collect::<Result<_>>()?;
    bar.finish_and_clear();
    Ok(Grid { references, rows })
}

/// What a column asks for, but for the reference.
fn request(column: Shown, args: &DemoArgs) -> GenerateRequest {
    let num_steps = args.extent().num_steps;
    GenerateRequest { scale: column.scale(), seed: args.seed, num_steps, ..GenerateRequest::default() }
}

/// Writes the grid's pictures as PNG files into the folder `pictures` of the output; those drawn carry their request.
///
/// # Errors
/// If a file cannot be written.
pub(crate) fn write_grid(args: &DemoArgs, grid: &Grid, pipeline: &Pipeline) -> Result<()> {
    let folder = args.output.join("pictures");
    for (index, (reference, row)) in grid.references.iter().zip(&grid.rows).enumerate() {
        let name = format!("held-out-{}", index + 1);
        let file = folder.join(format!("{name}.png"));
        output::write_picture(&file, reference)?;
        for (column, picture) in COLUMNS.into_iter().zip(row) {
            let request = GenerateRequest { images: vec![file.clone()], ..request(column, args) };
            let file = folder.join(format!("{name}-{}.png", column.suffix()));
            write_picture(&file, picture, &pipeline.record(&request, 0, picture), PictureFormat::Png)?;
        }
    }
    Ok(())
}
