//! From pictures and captions to cosines, by the CLIP that scores.

use std::path::Path;

use anyhow::{Context as _, Result};
use image::RgbImage;
use ipa_clip::ClipModel;
use ipa_core::tch::{Device, Kind};
use ipa_train::pretrain::scores::cosines;
use ipa_train::scoring_clip;

use crate::model::ModelSource;

/// The CLIP model that scores: the folder named, else the model's own `clip`.
///
/// # Errors
/// If there is none, or it cannot be loaded.
pub(crate) fn clip_model(named: Option<&Path>, source: &ModelSource, options: (Device, Kind)) -> Result<ClipModel> {
    scoring_clip(&source.files, named, options)?.context(
        "nothing to score with: name a whole CLIP with `--clip`, such as a folder of openai/clip-vit-large-patch14",
    )
}

/// Cosines of pictures with their references, pair by pair.
///
/// # Errors
/// If an embedding is not a direction, as broken weights make it.
pub(crate) fn image_cosines(clip: &ClipModel, pictures: &[RgbImage], references: &[RgbImage]) -> Result<Vec<f64>> {
    Ok(cosines(&clip.image_embeds(pictures), &clip.image_embeds(references))?)
}

/// Cosines of pictures with their captions, pair by pair.
///
/// # Errors
/// As [`image_cosines`].
pub(crate) fn text_cosines(clip: &ClipModel, pictures: &[RgbImage], captions: &[&str]) -> Result<Vec<f64>> {
    Ok(cosines(&clip.image_embeds(pictures), &clip.text_embeds(captions)?)?)
}
