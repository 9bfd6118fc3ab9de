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
    #[error(
        "{path} lists no pictures: give a list rows of {{\"image_file\": …, \"text\": …}}, and a folder pictures (PNG, JPEG, \
         WebP) with a caption beside each"
    )]
    Empty {
        /// The list or folder.
        path: PathBuf,
    },
    /// A line of a list is no row.
    #[error("{path}, line {line}: expected {{\"image_file\": …, \"text\": …}}")]
    Line {
        /// The list.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// Why.
        source: serde_json::Error,
    },
    /// A picture of a folder has no caption.
    #[error("{picture} has no caption: write one into {caption}, which may be empty")]
    NoCaption {
        /// The picture.
        picture: PathBuf,
        /// Where its caption is looked for.
        caption: PathBuf,
        /// Why it cannot be read.
        source: std::io::Error,
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

/// Endings of the pictures of a folder.
const PICTURE_ENDINGS: [&str; 4] = ["png", "jpg", "jpeg", "webp"];

/// The folder of a list; a folder's own.
fn root_of(path: &Path) -> &Path {
    match path.parent() {
        _ if path.is_dir() => path,
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
    /// Reads the reference's data.json, `[{"image_file": …, "text": …}, …]`, the same as lines (`.jsonl`), or a folder of
    /// pictures, in the order of their names, with captions of the same names ending in `.txt`; checks every path.
    ///
    /// # Errors
    /// [`DataError`] naming list, row and picture.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        let is_lines = path.extension().is_some_and(|ending| ending == "jsonl");
        let rows: Vec<Row> = match path.is_dir() {
            true => rows_of_folder(path)?,
            false if is_lines => rows_of_lines(path)?,
            false => ipa_formats::read_json(path)?,
        };
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

    /// Its rows.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// The list or folder.
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

fn rows_of_lines(path: &Path) -> Result<Vec<Row>, DataError> {
    let text = ipa_formats::read_text(path)?;
    let row = |(index, line): (usize, &str)| {
        let fault = |source| DataError::Line { path: path.to_owned(), line: index + 1, source };
        serde_json::from_str(line).map_err(fault)
    };
    text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()).map(row).collect()
}

fn rows_of_folder(folder: &Path) -> Result<Vec<Row>, DataError> {
    let failed = |source| FormatError::Read { path: folder.to_owned(), source };
    let entries = std::fs::read_dir(folder).map_err(failed)?;
    let paths = entries.map(|entry| Ok(entry.map_err(failed)?.path())).collect::<Result<Vec<_>, DataError>>()?;
    let is_picture = |path: &PathBuf| {
        let ending = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
        path.is_file() && PICTURE_ENDINGS.contains(&ending.as_str())
    };
    let mut pictures: Vec<PathBuf> = paths.into_iter().filter(is_picture).collect();
    pictures.sort();
    let row = |picture: PathBuf| {
        let caption = picture.with_extension("txt");
        let text = std::fs::read_to_string(&caption);
        let text = text.map_err(|source| DataError::NoCaption { picture: picture.clone(), caption, source })?;
        let image_file = picture.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Row { image_file, text: text.trim().to_owned() })
    };
    pictures.into_iter().map(row).collect()
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

    /// A folder with two pictures and their captions.
    fn pictures() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, caption) in [("b.png", "a star\n"), ("a.PNG", "")] {
            let path = folder.path().join(name);
            let mut bytes = std::io::Cursor::new(Vec::new());
            RgbImage::new(8, 8).write_to(&mut bytes, image::ImageFormat::Png).unwrap();
            std::fs::write(&path, bytes.into_inner()).unwrap();
            std::fs::write(path.with_extension("txt"), caption).unwrap();
        }
        folder
    }

    #[test]
    fn lines_and_folders_are_lists_too() {
        let folder = pictures();
        let dataset = Dataset::open(folder.path()).unwrap();
        let row = |image_file: &str, text: &str| Row { image_file: image_file.into(), text: text.into() };
        assert_eq!(dataset.rows(), [row("a.PNG", ""), row("b.png", "a star")]);
        assert_eq!(dataset.picture(1).unwrap().dimensions(), (8, 8));

        let list = folder.path().join("data.jsonl");
        let line = r#"{"image_file": "b.png", "text": "a star"}"#;
        std::fs::write(&list, format!("{line}\n\n{line}\n")).unwrap();
        assert_eq!(Dataset::open(&list).unwrap().rows(), [row("b.png", "a star"), row("b.png", "a star")]);
        std::fs::write(&list, format!("{line}\n{{}}\n")).unwrap();
        assert!(Dataset::open(&list).unwrap_err().to_string().contains("data.jsonl, line 2"));
    }

    #[test]
    fn a_picture_without_a_caption_is_refused_with_where_it_goes() {
        let folder = pictures();
        std::fs::remove_file(folder.path().join("b.txt")).unwrap();
        let error = Dataset::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("b.png has no caption") && error.contains("b.txt"), "{error}");
        let empty = tempfile::tempdir().unwrap();
        assert!(Dataset::open(empty.path()).unwrap_err().to_string().contains("lists no pictures"));
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
