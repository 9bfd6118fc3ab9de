//! From pictures and captions to cosines, by the CLIP that scores.
//!
//! It computes in f32 and sees one picture at a time, so that no number depends on which others were scored beside it.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use image::RgbImage;
use ipa_clip::ClipModel;
use ipa_core::tch::{Device, Kind, Tensor};
use ipa_metrics::MetricsError;
use ndarray::ArrayView2;

use crate::model::ModelSource;
use crate::names;

const NONE: &str = "nothing to score with: name a whole CLIP with `--clip`, such as a folder of openai/clip-vit-large-patch14, or `clip-l`";

/// The CLIP model that scores.
///
/// # Errors
/// As [`clip_folder`]; if it cannot be loaded.
pub(crate) fn clip_model(named: Option<&Path>, source: &ModelSource, device: Device) -> Result<ClipModel> {
    Ok(ClipModel::load(&clip_folder(named, source)?, (device, Kind::Float))?)
}

/// Its folder: the one named, by path or as published weights, else the model's own `clip`.
///
/// # Errors
/// If there is none.
pub(crate) fn clip_folder(named: Option<&Path>, source: &ModelSource) -> Result<PathBuf> {
    match named {
        Some(named) => names::found(named),
        None => source.files.folder("clip").context(NONE),
    }
}

/// The embedding of a picture, not normalized.
pub(crate) fn picture_embedding(clip: &ClipModel, picture: &RgbImage) -> Vec<f32> {
    values(&clip.image_embeds(std::slice::from_ref(picture)))
}

/// The embeddings of pictures that are always seen together.
pub(crate) fn picture_embeddings(clip: &ClipModel, pictures: &[RgbImage]) -> Vec<Vec<f32>> {
    let embeds = clip.image_embeds(pictures);
    (0..pictures.len() as i64).map(|index| values(&embeds.get(index))).collect()
}

/// The embedding of a text, not normalized.
///
/// # Errors
/// If the tokenizer cannot read it.
pub(crate) fn text_embedding(clip: &ClipModel, text: &str) -> Result<Vec<f32>> {
    Ok(values(&clip.text_embeds(&[text])?))
}

/// Cosine of two embeddings.
///
/// # Errors
/// [`MetricsError`] if one is not a direction, as broken weights make it.
pub(crate) fn cosine(a: &[f32], b: &[f32]) -> Result<f64, MetricsError> {
    Ok(ipa_metrics::cosines(row(a), row(b))?[0])
}

/// Cosines of pictures with their references, pair by pair.
///
/// # Errors
/// As [`cosine`].
pub(crate) fn image_cosines(clip: &ClipModel, pictures: &[RgbImage], references: &[RgbImage]) -> Result<Vec<f64>> {
    let cosine =
        |(picture, reference)| Ok(cosine(&picture_embedding(clip, picture), &picture_embedding(clip, reference))?);
    pictures.iter().zip(references).map(cosine).collect()
}

/// An embedding as the only row of many.
pub(crate) fn row(embedding: &[f32]) -> ArrayView2<'_, f32> {
    ArrayView2::from_shape((1, embedding.len()), embedding).expect("a row of its own length")
}

fn values(embeds: &Tensor) -> Vec<f32> {
    let flat = embeds.to_device(Device::Cpu).to_kind(Kind::Float).reshape([-1]);
    Vec::try_from(flat).expect("a vector of f32")
}
