//! How an adapter does on rows that it does not learn from: held-out loss, sample pictures and their scores.
//!
//! All draws are [`Draws`](ipa_core::noise::Draws) of purposes of their own, so that a run is the same bit for bit with
//! validations and without, and every validation sees the same noise.

mod best;
mod draw;
mod grid;
mod loss;
mod result;
mod rows;
mod scores;
mod settings;

use std::cell::OnceCell;
use std::fmt;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use image::RgbImage;
use ipa_adapter::{AdapterError, IpAdapter};
use ipa_clip::TokenizerError;
use ipa_core::tch::{Device, Kind, Tensor};
use ipa_formats::{FormatError, write_atomically};
use ipa_metrics::{MetricsError, encode_png};
use ipa_sample::PipelineError;
use ipa_unet::Unet;

pub use best::Best;
pub use result::{ValidationResult, read_results, write_results};
pub use scores::scoring_clip;
pub use settings::{Metric, ValidationSettings};

use crate::{EncodedRow, FrozenModels};
use draw::{Drawing, Text};
use grid::{GridRow, grid};
use loss::HeldOutLoss;
use scores::Scorer;

/// Why an adapter cannot be validated.
#[derive(Debug, thiserror::Error)]
pub enum ValidationError {
    /// The adapter reads something else than the rows have.
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    /// The model's schedule is none that can be drawn with, or not in so many steps.
    #[error(transparent)]
    Sampler(#[from] PipelineError),
    /// A caption is not text for the scoring CLIP.
    #[error(transparent)]
    Caption(#[from] TokenizerError),
    /// What the scoring CLIP says is no direction.
    #[error("the pictures cannot be scored")]
    Scores(#[from] MetricsError),
    /// A file cannot be written.
    #[error(transparent)]
    File(#[from] FormatError),
    /// Nothing is held out.
    #[error("no row is held out: raise `held_out`, or add pictures")]
    NoRows,
    /// The metric needs what is not there.
    #[error(
        "`metric` is clip-t, and no CLIP is there that reads captions: name a folder of one, or choose `loss` or `clip-i`"
    )]
    NoClip,
    /// The model says something that is no number.
    #[error("{what} is not a number: lower the learning rate, or compute in f32 or bf16; the last checkpoint is kept")]
    NotANumber {
        /// Of which it is said.
        what: &'static str,
    },
    /// Somebody asked to stop.
    #[error("interrupted in a validation: go on with `--resume`")]
    Interrupted,
}

/// One held-out row.
#[derive(Debug)]
pub struct HeldOut {
    /// Its name in the dataset.
    pub key: String,
    /// Its caption.
    pub text: String,
    /// The picture that the adapter reads.
    pub reference: RgbImage,
    /// What the frozen encoders say of it.
    pub encoded: EncodedRow,
}

impl HeldOut {
    fn parts(self) -> (Shown, EncodedRow) {
        let Self { key, text: caption, reference: picture, encoded } = self;
        let label = if caption.trim().is_empty() { key } else { format!("{key}: {caption}") };
        (Shown { label, caption, picture }, encoded)
    }
}

/// How far a validation is, in calls of the UNet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ValidationProgress {
    /// Made.
    pub done: u64,
    /// In all.
    pub total: u64,
}

/// Counts calls of the UNet and hears whether to go on.
pub(crate) struct Work<'a> {
    progress: ValidationProgress,
    heard: &'a mut dyn FnMut(ValidationProgress) -> ControlFlow<()>,
}

impl fmt::Debug for Work<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_struct("Work").field("progress", &self.progress).finish_non_exhaustive()
    }
}

impl Work<'_> {
    fn done(&mut self) -> Result<(), ValidationError> {
        self.progress.done += 1;
        match (self.heard)(self.progress) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(ValidationError::Interrupted),
        }
    }
}

/// A row whose pictures are drawn, as it is shown.
#[derive(Debug)]
struct Shown {
    label: String,
    caption: String,
    picture: RgbImage,
}

/// What a run's adapters are judged by.
#[derive(Debug)]
pub struct Validation<'a> {
    models: &'a FrozenModels,
    settings: ValidationSettings,
    seed: u64,
    rows: Vec<EncodedRow>,
    references: Vec<Shown>, // the first of the rows
    loss: HeldOutLoss,
    scorer: Option<Scorer>, // none if nothing is drawn
    empty_text: Tensor,
    /// What the plain model draws of the captions: the same at every validation.
    plain: OnceCell<Vec<RgbImage>>,
}

impl<'a> Validation<'a> {
    /// Of held-out rows, of which the first [`ValidationSettings::num_rows`] are looked at. Without a CLIP the model's
    /// image encoder scores likeness to references: adapters see by it, so that such scores flatter them.
    ///
    /// # Errors
    /// [`ValidationError`] if there is no row, `metric` needs a CLIP, the model cannot draw in so many steps, or
    /// references cannot be scored.
    pub fn new(
        models: &'a FrozenModels,
        mut rows: Vec<HeldOut>,
        settings: ValidationSettings,
        seed: u64,
    ) -> Result<Self, ValidationError> {
        if rows.is_empty() {
            return Err(ValidationError::NoRows);
        }
        if settings.metric == Metric::ClipT && models.scorer().is_none() {
            return Err(ValidationError::NoClip);
        }
        models.sampler(settings.num_steps)?;
        rows.truncate(settings.num_rows());
        let (shown, encoded): (Vec<Shown>, Vec<EncodedRow>) = rows.into_iter().map(HeldOut::parts).unzip();
        let references: Vec<Shown> = shown.into_iter().take(settings.num_references).collect();
        let scorer = match references.is_empty() {
            true => None,
            false => Some(Scorer::new(models, &references)?),
        };
        let empty_text = models.text_embeds("")?.to_device(Device::Cpu).to_kind(Kind::Float);
        let loss = HeldOutLoss::new(models, encoded.len().min(settings.max_rows), seed);
        Ok(Self { models, settings, seed, rows: encoded, references, loss, scorer, empty_text, plain: OnceCell::new() })
    }

    /// The held-out loss of an adapter: the mean squared error of the model's own target, unweighted, over the whole
    /// schedule, whatever a run minimises; timesteps and noise of every row are always the same. `unet` is the model's,
    /// or the one with the low-rank changes that are inside the adapter.
    ///
    /// # Errors
    /// [`ValidationError::Adapter`] if the rows have not what the adapter reads.
    pub fn loss(&self, unet: &Unet, adapter: &IpAdapter) -> Result<f64, ValidationError> {
        self.loss_of(unet, adapter, &mut Work { progress: self.work(), heard: &mut |_| ControlFlow::Continue(()) })
    }

    /// Loss, pictures and scores of an adapter after `step` steps; writes the sample grid below `folder`. `progress`
    /// hears of every call of the UNet and may stop.
    ///
    /// # Errors
    /// [`ValidationError`] if the adapter does not fit, its loss is no number, or the grid cannot be written. Pictures that are no numbers give a
    /// result without scores.
    pub fn run(
        &self,
        unet: &Unet,
        adapter: &IpAdapter,
        step: u64,
        folder: &Path,
        mut progress: impl FnMut(ValidationProgress) -> ControlFlow<()>,
    ) -> Result<ValidationResult, ValidationError> {
        let mut work = Work { progress: self.work(), heard: &mut progress };
        let loss = self.loss_of(unet, adapter, &mut work)?;
        if !loss.is_finite() {
            return Err(ValidationError::NotANumber { what: "the held-out loss" });
        }
        let result = ValidationResult { step, loss: Some(loss), ..ValidationResult::default() };
        let Some(scorer) = &self.scorer else { return Ok(result) };
        let drawn = match self.drawn(unet, adapter, &mut work) {
            // An autoencoder that overflows in f16, say: no fault of the adapter, whose loss is a number.
            Err(ValidationError::NotANumber { .. }) => return Ok(result),
            drawn => drawn?,
        };
        let scored = self.settings.scored();
        let scores = scorer.scores(self.models, &self.references, &drawn.alone[scored], &drawn.captioned[scored])?;
        let grid = PathBuf::from(format!("samples/step-{step:06}.png"));
        self.write_grid(&folder.join(&grid), &drawn)?;
        let num_references = self.references.len();
        Ok(ValidationResult { scores: scores.means, errors: scores.errors, num_references, grid: Some(grid), ..result })
    }

    fn loss_of(&self, unet: &Unet, adapter: &IpAdapter, work: &mut Work) -> Result<f64, ValidationError> {
        self.loss.of(self.models, &self.rows, (unet, adapter), work)
    }

    /// What is before a validation.
    fn work(&self) -> ValidationProgress {
        let num_drawings = 2 * self.settings.scales.len() as u64 + u64::from(self.plain.get().is_none());
        let drawing = self.drawing().num_calls(&self.drawn_rows());
        ValidationProgress { done: 0, total: self.loss.num_calls(&self.rows) + num_drawings * drawing }
    }

    fn drawing(&self) -> Drawing<'_> {
        let Self { models, settings, empty_text, seed, .. } = self;
        Drawing { models, settings, empty_text, seed: *seed }
    }

    fn drawn_rows(&self) -> Vec<&EncodedRow> {
        self.rows.iter().take(self.references.len()).collect()
    }

    fn drawn(&self, unet: &Unet, adapter: &IpAdapter, work: &mut Work) -> Result<Drawn<'_>, ValidationError> {
        let (drawing, rows) = (self.drawing(), self.drawn_rows());
        let plain = match self.plain.get() {
            Some(plain) => plain,
            None => {
                let plain = drawing.pictures(&self.models.unet.model, None, Text::Caption, &rows, work)?;
                self.plain.get_or_init(|| plain)
            }
        };
        let mut at_every_scale = |text: Text| {
            let mut draw = |scale: &f64| drawing.pictures(unet, Some((adapter, *scale)), text, &rows, work);
            self.settings.scales.iter().map(&mut draw).collect::<Result<Vec<_>, _>>()
        };
        Ok(Drawn { plain, alone: at_every_scale(Text::Empty)?, captioned: at_every_scale(Text::Caption)? })
    }

    fn write_grid<'p>(&'p self, path: &Path, drawn: &'p Drawn) -> Result<(), FormatError> {
        let heading = |first: &str, second: &str| [first.to_owned(), second.to_owned()];
        let scales =
            |text: &'static str| self.settings.scales.iter().map(move |scale| heading(&format!("scale {scale}"), text));
        let headings = [heading("reference", "held out"), heading("scale 0", "caption alone")].into_iter();
        let headings: Vec<[String; 2]> = headings.chain(scales("no caption")).chain(scales("with caption")).collect();
        let row = |(index, shown): (usize, &'p Shown)| {
            let own = [&shown.picture, &drawn.plain[index]].into_iter();
            let pictures = drawn.alone.iter().chain(&drawn.captioned).map(|pictures| &pictures[index]);
            GridRow { label: &shown.label, pictures: own.chain(pictures).collect() }
        };
        let rows: Vec<GridRow> = self.references.iter().enumerate().map(row).collect();
        let bytes = encode_png(&grid(&headings, &rows));
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(|source| FormatError::Write { path: folder.to_owned(), source })?;
        }
        write_atomically(path, |file| file.write_all(&bytes))
    }
}

/// Pictures of one validation, by strength and reference.
struct Drawn<'a> {
    plain: &'a [RgbImage],
    alone: Vec<Vec<RgbImage>>,
    captioned: Vec<Vec<RgbImage>>,
}
