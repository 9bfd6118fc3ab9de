//! The pictures that an adapter was trained on, to see whether it hands them back.

use std::path::Path;

use anyhow::Result;
use image::RgbImage;
use ipa_clip::ClipModel;
use ipa_formats::{sha256_bytes, sha256_text};
use ipa_metrics::evaluation::{NearestTraining, Set, Skipped};
use ipa_train::Dataset;
use ndarray::Array2;

use super::listed;
use super::names::file_name;
use crate::scores::{picture_embedding, row};
use crate::{interrupt, output, progress};

/// Training pictures with what the CLIP that scores says of them.
#[derive(Debug)]
pub(super) struct TrainingPictures {
    dataset: Dataset,
    /// Of the dataset, those that the embeddings are of.
    rows: Vec<usize>,
    skipped: Vec<Skipped>,
    embeddings: Array2<f32>,
    digest: String,
}

impl TrainingPictures {
    /// Looks at every picture of a data.json or another training set; broken ones are skipped.
    ///
    /// # Errors
    /// As [`listed::read`].
    pub(super) fn new(path: &Path, clip: &ClipModel, json: bool) -> Result<Self> {
        let bar = progress::bar(0, "training pictures", json);
        let (mut rows, mut values, mut digests) = (Vec::new(), Vec::new(), String::new());
        let (dataset, skipped) = listed::read(path, Set::Training, usize::MAX, |(dataset, row), _, picture| {
            bar.set_length(dataset.len() as u64);
            interrupt::stop_if_requested("nothing was drawn yet");
            digests += &digest_of(&picture);
            values.extend(picture_embedding(clip, &picture));
            rows.push(row);
            bar.inc(1);
            Ok(())
        })?;
        bar.finish_and_clear();
        let width = values.len() / rows.len();
        let embeddings = Array2::from_shape_vec((rows.len(), width), values)?;
        Ok(Self { digest: sha256_text(&digests), dataset, rows, skipped, embeddings })
    }

    /// Those that cannot be read.
    pub(super) fn skipped(&self) -> &[Skipped] {
        &self.skipped
    }

    /// How many, where, and which.
    pub(super) fn described(&self) -> String {
        let name = self.dataset.path().file_name().unwrap_or_default().to_string_lossy();
        format!("{} of {name}, SHA-256 {}…", self.rows.len(), &self.digest[..16])
    }

    /// The one that a picture is most like; it is put into the report's folder.
    ///
    /// # Errors
    /// If an embedding is not a direction; if it cannot be read again, or be written.
    pub(super) fn nearest(&self, embedding: &[f32], folder: &Path) -> Result<NearestTraining> {
        let found = ipa_metrics::nearest(row(embedding), self.embeddings.view())?[0];
        let row = self.rows[found.row];
        let file = format!("training/{}-{}.png", row + 1, file_name(&self.dataset.key(row)?));
        let path = folder.join(&file);
        if !path.is_file() {
            output::create_folder_of(&path)?;
            output::write_picture(&path, &self.dataset.picture(row)?)?;
        }
        Ok(NearestTraining { file, cosine: found.cosine })
    }
}

/// A digest of a picture's size and pixels.
pub(super) fn digest_of(picture: &RgbImage) -> String {
    format!("{}x{} {}", picture.width(), picture.height(), sha256_bytes(picture.as_raw()))
}
