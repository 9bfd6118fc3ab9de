//! Rows as lists in memory, for callers that know no samples.

use std::path::PathBuf;

use serde::Serialize;

use super::{Dataset, Source};

/// One row of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    /// The picture, relative to the list's folder.
    pub image_file: String,
    /// Its caption.
    pub text: String,
}

impl Dataset {
    /// All rows; prefer [`Dataset::sample`], which keeps none in memory.
    ///
    /// # Panics
    /// If a list or shard changed after it was opened.
    pub fn rows(&self) -> &[Row] {
        self.bridged.get_or_init(|| (0..self.len()).map(|row| self.bridged_row(row)).collect())
    }

    fn bridged_row(&self, row: usize) -> Row {
        let sample = self.sample(row).expect("the row was checked when the dataset was opened");
        Row { image_file: sample.key, text: sample.text }
    }

    /// The caption of a row; prefer [`Dataset::sample`].
    ///
    /// # Panics
    /// As [`Dataset::rows`].
    pub fn text(&self, row: usize) -> &str {
        &self.rows()[row].text
    }

    /// The file that a row's picture lies in; prefer [`Dataset::sample`].
    ///
    /// # Panics
    /// As [`Dataset::rows`].
    pub fn image_path(&self, row: usize) -> PathBuf {
        match self.sample(row).expect("the row was checked when the dataset was opened").picture {
            Source::File(file) | Source::Part { file, .. } => file,
        }
    }
}
