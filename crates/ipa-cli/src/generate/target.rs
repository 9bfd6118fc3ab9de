//! Where pictures go: one into a file, several into a folder.

use std::path::{Path, PathBuf};

use ipa_formats::FormatError;
use ipa_sample::PictureFormat;

use crate::failure::UsageError;
use crate::output;

/// The files of a request's pictures.
#[derive(Debug, PartialEq)]
pub(super) struct Target {
    place: Place,
    format: PictureFormat,
    num: usize,
}

#[derive(Debug, PartialEq)]
enum Place {
    /// The file of the only picture.
    File(PathBuf),
    /// The folder of several.
    Folder(PathBuf),
}

impl Target {
    /// What `--output` and `--format` mean for this many pictures.
    ///
    /// # Errors
    /// [`UsageError`] if it is a folder for one picture, a file for several, or a file of another format.
    pub(super) fn new(output: Option<PathBuf>, num: u32, format: Option<&str>) -> Result<Self, UsageError> {
        let wanted = format.and_then(|ending| PictureFormat::of(&Path::new("picture").with_extension(ending)));
        let refuse = |path: &Path, why: &str| Err(UsageError(format!("`--output` is {}, {why}", path.display())));
        let default = wanted.unwrap_or(PictureFormat::Png);
        let (place, format) = match (output, num) {
            (None, 1) => (Place::File(format!("out.{}", default.ending()).into()), default),
            (None, _) => (Place::Folder("out".into()), default),
            (Some(path), 1) if path.is_dir() || path.as_os_str().to_string_lossy().ends_with('/') => {
                return refuse(&path, "a folder; name the file of the one picture, such as out.png in it");
            }
            (Some(path), 1) => match (PictureFormat::of(&path), path.extension()) {
                (None, Some(_)) => {
                    return refuse(
                        &path,
                        "but pictures are PNG, JPEG or WebP; give a name that ends in .png, .jpg or .webp",
                    );
                }
                (named, _) if wanted.is_some() && named.is_some() && wanted != named => {
                    return refuse(&path, "which `--format` contradicts; name one of the two");
                }
                (named, _) => (Place::File(path), named.unwrap_or(default)),
            },
            (Some(path), _) if path.is_file() || (PictureFormat::of(&path).is_some() && !path.is_dir()) => {
                return refuse(&path, "a file; several pictures need a folder");
            }
            (Some(path), _) => (Place::Folder(path), default),
        };
        Ok(Self { place, format, num: num as usize })
    }

    /// What the pictures are written as.
    pub(super) fn format(&self) -> PictureFormat {
        self.format
    }

    /// How many files there will be.
    pub(super) fn num(&self) -> usize {
        self.num
    }

    /// Checks that it can be written, leaving nothing behind.
    ///
    /// # Errors
    /// [`FormatError`] naming the file or folder.
    pub(super) fn check(&self) -> Result<(), FormatError> {
        match &self.place {
            Place::File(file) => output::check_file(file),
            Place::Folder(folder) => output::check_folder(folder),
        }
    }

    /// Makes the folder that the pictures are to lie in.
    ///
    /// # Errors
    /// [`FormatError`] naming the folder.
    pub(super) fn create_folder(&self) -> Result<(), FormatError> {
        match &self.place {
            Place::File(file) => output::create_folder_of(file),
            Place::Folder(folder) => output::create_folder(folder),
        }
    }

    /// The file of a picture, counted from 0 in sampling order.
    pub(super) fn file(&self, index: usize) -> PathBuf {
        match &self.place {
            Place::File(file) => file.clone(),
            Place::Folder(folder) => folder.join(format!("{index:03}.{}", self.format.ending())),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn file(output: Option<&str>, num: u32, format: Option<&str>, index: usize) -> PathBuf {
        Target::new(output.map(Into::into), num, format).unwrap().file(index)
    }

    #[test]
    fn one_picture_is_a_file_and_several_are_numbered_in_a_folder() {
        assert_eq!(file(None, 1, None, 0), Path::new("out.png"));
        assert_eq!(file(None, 1, Some("webp"), 0), Path::new("out.webp"));
        assert_eq!(file(Some("a/b.PNG"), 1, None, 0), Path::new("a/b.PNG"));
        assert_eq!(file(None, 2, None, 1), Path::new("out/001.png"));
        assert_eq!(file(Some("a"), 3, Some("jpg"), 2), Path::new("a/002.jpg"));
    }

    #[test]
    fn a_files_name_tells_its_format() {
        let format = |path: &str| Target::new(Some(path.into()), 1, None).unwrap().format();
        assert_eq!(["a.png", "a.JPEG", "a.webp", "a"].map(format), {
            use PictureFormat::{Jpeg, Png, WebP};
            [Png, Jpeg, WebP, Png]
        });
    }

    #[test]
    fn what_does_not_fit_the_number_of_pictures_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let refused = |path: &Path, num| Target::new(Some(path.to_owned()), num, None).unwrap_err().to_string();
        assert!(refused(folder.path(), 1).contains("a folder"));
        assert!(refused(Path::new("new/"), 1).contains("a folder"));
        assert!(refused(Path::new("out.gif"), 1).contains("PNG, JPEG or WebP"));
        assert!(refused(Path::new("out.png"), 2).contains("need a folder"));
        let error = Target::new(Some("out.png".into()), 1, Some("jpg")).unwrap_err().to_string();
        assert!(error.contains("`--format`"), "{error}");
    }
}
