//! Training pictures and their captions.

use std::path::{Component, Path, PathBuf};

use image::RgbImage;
use ipa_clip::PreprocessError;
use ipa_clip::preprocess::{CropRule, Filter, resize_and_crop};
use ipa_core::{picture, tch::Tensor};
use ipa_formats::FormatError;
use serde::{Deserialize, Serialize};

/// Why a dataset cannot be trained on.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The list cannot be read.
    #[error(transparent)]
    List(#[from] FormatError),
    /// The list has no rows.
    #[error("{path} lists no pictures: give it rows of {{\"image_file\": …, \"text\": …}}")]
    Empty {
        /// The data.json.
        path: PathBuf,
    },
    /// A row points outside the dataset's folder.
    #[error("{path}, row {row}: `{image_file}` leaves the dataset's folder: put the picture below {}", root_of(.path).display())]
    Outside {
        /// The data.json.
        path: PathBuf,
        /// Counted from 0.
        row: usize,
        /// As listed.
        image_file: String,
    },
    /// A row's picture is not there.
    #[error("{path}, row {row}: `{image_file}` does not exist: paths are relative to the list's folder")]
    NoPicture {
        /// The data.json.
        path: PathBuf,
        /// Counted from 0.
        row: usize,
        /// As listed.
        image_file: String,
    },
    /// A row's picture cannot be read.
    #[error("{path}, row {row}")]
    Picture {
        /// The data.json.
        path: PathBuf,
        /// Counted from 0.
        row: usize,
        /// Why.
        source: Box<PreprocessError>,
    },
}

/// The folder of a list.
fn root_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// One row of a data.json.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// The picture, relative to the list's folder.
    pub image_file: String,
    /// Its caption.
    pub text: String,
}

/// A list of captioned pictures below one folder, all of them there.
#[derive(Debug, Clone)]
pub struct Dataset {
    path: PathBuf,
    rows: Vec<Row>,
}

impl Dataset {
    /// Reads the reference's data.json, `[{"image_file": …, "text": …}, …]`, and checks every path.
    ///
    /// # Errors
    /// [`DataError`] naming list, row and picture.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        let rows: Vec<Row> = ipa_formats::read_json(path)?;
        if rows.is_empty() {
            return Err(DataError::Empty { path: path.into() });
        }
        let dataset = Self { path: path.into(), rows };
        (0..dataset.len()).try_for_each(|row| dataset.check(row))?;
        Ok(dataset)
    }

    fn check(&self, row: usize) -> Result<(), DataError> {
        let (path, image_file) = (self.path.clone(), self.rows[row].image_file.clone());
        let climbs = |part: Component| !matches!(part, Component::Normal(_) | Component::CurDir);
        if Path::new(&image_file).components().any(climbs) {
            return Err(DataError::Outside { path, row, image_file });
        }
        let Ok(real) = self.image_path(row).canonicalize() else {
            return Err(DataError::NoPicture { path, row, image_file });
        };
        // A link may still lead out.
        match root_of(&self.path).canonicalize() {
            Ok(root) if real.starts_with(&root) => Ok(()),
            _ => Err(DataError::Outside { path, row, image_file }),
        }
    }

    /// The list.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are no rows: never.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The caption of a row.
    pub fn text(&self, row: usize) -> &str {
        &self.rows[row].text
    }

    /// Where a row's picture lies.
    pub fn image_path(&self, row: usize) -> PathBuf {
        root_of(&self.path).join(&self.rows[row].image_file)
    }

    /// A row's picture, upright.
    ///
    /// # Errors
    /// [`DataError::Picture`].
    pub fn picture(&self, row: usize) -> Result<RgbImage, DataError> {
        ipa_clip::load_image(&self.image_path(row)).map_err(|source| DataError::Picture {
            path: self.path.clone(),
            row,
            source: Box::new(source),
        })
    }
}

/// A picture as the reference trains on it: shortest side to `resolution` (bilinear), centre crop, `[-1, 1]`;
/// `[1, 3, resolution, resolution]`.
pub fn training_pixels(picture: &RgbImage, resolution: u32) -> Tensor {
    picture::to_pixels(&[resize_and_crop(picture, resolution, Filter::Bilinear, CropRule::Torchvision)])
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::error::Error as _;

    use super::*;

    fn refusal(list: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data.json");
        std::fs::write(&path, list).unwrap();
        let error = Dataset::open(&path).unwrap_err();
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            text = format!("{text}; {error}");
            cause = error.source();
        }
        text
    }

    #[test]
    fn bad_lists_are_refused_with_row_and_reason() {
        assert!(refusal("[]").contains("lists no pictures"));
        assert!(refusal(r#"[{"image_file": "a.png", "text": ""}]"#).contains("row 0: `a.png` does not exist"));
        assert!(refusal(r#"[{"image_file": "../a.png", "text": ""}]"#).contains("leaves the dataset's folder"));
        assert!(refusal(r#"[{"image_file": "/etc/passwd", "text": ""}]"#).contains("leaves the dataset's folder"));
        assert!(refusal(r#"[{"text": ""}]"#).contains("image_file"));
    }

    #[test]
    fn a_list_without_a_folder_lies_in_this_one() {
        let (path, image_file) = (PathBuf::from("data.json"), "../a.png".to_owned());
        let text = DataError::Outside { path, row: 0, image_file }.to_string();
        assert!(text.ends_with("put the picture below ."), "{text}");
    }

    #[cfg(unix)]
    #[test]
    fn a_link_out_of_the_folder_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (outside, path) = (tempfile::tempdir().unwrap(), folder.path().join("data.json"));
        std::fs::write(outside.path().join("secret.png"), "x").unwrap();
        std::os::unix::fs::symlink(outside.path().join("secret.png"), folder.path().join("a.png")).unwrap();
        std::fs::write(&path, r#"[{"image_file": "a.png", "text": ""}]"#).unwrap();
        assert!(matches!(Dataset::open(&path), Err(DataError::Outside { .. })));
    }
}
