//! Drawing, saving, scoring and writing down, picture by picture.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Result;
use image::RgbImage;
use indicatif::ProgressBar;
use ipa_clip::ClipModel;
use ipa_core::tch::{Device, Kind};
use ipa_metrics::evaluation::{Embedding, MeasurementLog, PictureId, Row};
use ipa_pocket::{Scene, judge};
use ipa_sample::{AdapterSource, GenerateRequest, PictureFormat, Pipeline, Record, write_picture};

use super::methods::REFERENCE_ITSELF;
use super::plan::{Drawing, handed_back};
use super::subject::Subject;
use super::training::TrainingPictures;
use crate::args::ModelArgs;
use crate::model::ModelSource;
use crate::provenance::{self, Provenance, Sources};
use crate::scores::{cosine, picture_embedding, text_embedding};
use crate::{interrupt, output};

pub(super) const GO_ON: &str = "what is measured so far is kept: the same command goes on from there";

/// What draws the pictures of a method.
#[derive(Debug)]
pub(super) struct Drawer {
    pipeline: Pipeline,
    provenance: Provenance,
}

impl Drawer {
    /// Loads a model, with an adapter if one is meant.
    ///
    /// # Errors
    /// If something cannot be loaded.
    pub(super) fn load(
        (args, source): (&ModelArgs, &ModelSource),
        adapter: Option<&AdapterSource>,
        options: (Device, Kind),
    ) -> Result<Self> {
        let digests = Sources::new(args, source, adapter, &GenerateRequest::default())?.digested(args);
        let pipeline = Pipeline::load_files(source.files.clone(), options)?;
        let pipeline = match adapter {
            Some(adapter) => pipeline.with_source(adapter)?,
            None => pipeline,
        };
        Ok(Self { pipeline, provenance: provenance::joined(digests)? })
    }
}

/// Draws one picture; `progress` hears of every step.
///
/// # Errors
/// If drawing fails, or is interrupted: then `state` says what became of the work so far.
pub(crate) fn draw(
    pipeline: &Pipeline,
    request: &GenerateRequest,
    references: &[RgbImage],
    state: &str,
    mut progress: impl FnMut(),
) -> Result<RgbImage> {
    let drawn = pipeline.generate(request, references, |_| {
        progress();
        interrupt::flow()
    });
    Ok(drawn.map_err(|error| interrupt::told(error, state))?.pictures.swap_remove(0))
}

/// A report's folder that fills up.
#[derive(Debug)]
pub(super) struct Measuring {
    pub(super) folder: PathBuf,
    /// Steps, guidance, sampler.
    pub(super) request: GenerateRequest,
    pub(super) clip: ClipModel,
    pub(super) training: Option<TrainingPictures>,
    pub(super) log: MeasurementLog,
    /// Over steps.
    pub(super) bar: ProgressBar,
    pub(super) texts: BTreeMap<String, Vec<f32>>,
}

impl Measuring {
    /// Goes on in a folder.
    ///
    /// # Errors
    /// If its folders cannot be made.
    pub(super) fn new(folder: &Path, request: GenerateRequest, clip: ClipModel, log: MeasurementLog) -> Result<Self> {
        output::create_folder(&folder.join("references"))?;
        let (folder, texts, bar) = (folder.to_owned(), BTreeMap::new(), ProgressBar::hidden());
        Ok(Self { folder, request, clip, training: None, log, bar, texts })
    }

    /// Whether nothing is left to do for a picture.
    pub(super) fn is_done(&self, method: &str, drawing: &Drawing, subjects: &[Subject]) -> bool {
        let is_there =
            |&(index, prompt): &(usize, usize)| self.is_measured(&drawing.id(method, &subjects[index], prompt));
        drawing.rows.iter().all(is_there)
    }

    /// Whether a picture was measured and its files are there; one that was removed is drawn again.
    pub(super) fn is_measured(&self, id: &PictureId<'_>) -> bool {
        let Some(row) = self.log.measurements().get(id) else { return false };
        let nearest = row.nearest_training.as_ref().map(|nearest| &nearest.file);
        [&row.file, &row.reference].into_iter().chain(nearest).all(|file| self.folder.join(file).is_file())
    }

    /// Draws a picture, saves it, and measures it as saved.
    ///
    /// # Errors
    /// If drawing, saving or scoring fails.
    pub(super) fn draw(
        &mut self,
        method: &str,
        drawer: &Drawer,
        drawing: &Drawing,
        subjects: &[Subject],
    ) -> Result<()> {
        let reference = drawing.reference.map(|index| &subjects[index]);
        let shown: Vec<RgbImage> = reference.map(|subject| subject.case.reference.clone()).into_iter().collect();
        let images = reference.map(|subject| self.folder.join(&subject.reference_file)).into_iter().collect();
        let (prompt, scale, seed) = (drawing.prompt.clone(), drawing.scale, drawing.seed);
        let scale = if drawing.reference.is_some() { scale } else { self.request.scale };
        let request = GenerateRequest { prompt, scale, seed, images, ..self.request.clone() };
        let bar = self.bar.clone();
        let picture = draw(&drawer.pipeline, &request, &shown, GO_ON, || bar.inc(1))?;

        let record = drawer.provenance.of(drawer.pipeline.record(&request, 0, &picture));
        let record = Record { pictures: provenance::pictures(&request)?, ..record };
        let file = self.folder.join(&drawing.file);
        output::create_folder_of(&file)?;
        write_picture(&file, &picture, &record, PictureFormat::Png)?;
        let embedding = picture_embedding(&self.clip, &picture);
        for &(index, prompt_index) in &drawing.rows {
            let id = drawing.id(method, &subjects[index], prompt_index);
            let row = self.row(&id, &subjects[index], (&drawing.file, &drawing.prompt), (&picture, &embedding))?;
            self.log.add(row)?;
        }
        Ok(())
    }

    /// Measures a reference as if it had been drawn.
    ///
    /// # Errors
    /// If scoring fails.
    pub(super) fn hand_back(&mut self, subject: &Subject) -> Result<()> {
        let id = handed_back(subject);
        if self.is_measured(&id) {
            return Ok(());
        }
        let shown = (&subject.case.reference, &subject.embedding[..]);
        let row = self.row(&id, subject, (&subject.reference_file, &subject.case.prompt), shown)?;
        Ok(self.log.add(row)?)
    }

    fn row(
        &mut self,
        id: &PictureId<'_>,
        subject: &Subject,
        (file, prompt): (&str, &str),
        (picture, embedding): (&RgbImage, &[f32]),
    ) -> Result<Row> {
        let scene = subject.case.scene.as_ref().filter(|_| id.prompt_index == 0);
        let caption_cosines = subject.caption_embeddings.iter().map(|caption| cosine(embedding, caption));
        Ok(Row {
            set: id.set,
            case: id.case.to_owned(),
            method: id.method.to_owned(),
            prompt_index: id.prompt_index,
            prompt: prompt.to_owned(),
            reference: subject.reference_file.clone(),
            seed: id.seed,
            scale: id.scale,
            file: file.to_owned(),
            image_cosine: cosine(embedding, &subject.embedding)?,
            text_cosine: self.text_cosine(prompt, embedding)?,
            caption_cosines: caption_cosines.collect::<Result<_, _>>()?,
            captions: if id.method == REFERENCE_ITSELF { subject.captions.clone() } else { Vec::new() },
            nearest_training: self.training.as_ref().map(|found| found.nearest(embedding, &self.folder)).transpose()?,
            judged: scene.map(|scene| judged(picture, scene)).unwrap_or_default(),
            embedding: Some(Embedding::new(embedding.to_vec())),
        })
    }

    fn text_cosine(&mut self, prompt: &str, embedding: &[f32]) -> Result<Option<f64>> {
        if prompt.trim().is_empty() {
            return Ok(None);
        }
        if !self.texts.contains_key(prompt) {
            self.texts.insert(prompt.to_owned(), text_embedding(&self.clip, prompt)?);
        }
        Ok(Some(cosine(embedding, &self.texts[prompt])?))
    }
}

/// What the pixels show of a scene.
pub(crate) fn judged(picture: &RgbImage, scene: &Scene) -> BTreeMap<String, bool> {
    let found = judge(picture).agreement(scene);
    let found = [
        ("color", found.color),
        ("shape", found.shape),
        ("fill", found.fill),
        ("style", found.style),
        ("background", found.background),
    ];
    found.map(|(what, is_right)| (what.to_owned(), is_right)).into()
}
