//! Where pictures go: one into a file, several into a folder.

use std::path::{Path, PathBuf};

use ipa_formats::FormatError;

use crate::failure::UsageError;
use crate::output;

/// The files of a request's pictures.
#[derive(Debug, PartialEq)]
pub(super) enum Target {
    /// The file of the only picture.
    File(PathBuf),
    /// The folder of several.
    Folder(PathBuf),
}

impl Target {
    /// What `--output` means for this many pictures.
    ///
    /// # Errors
    /// [`UsageError`] if it is a folder for one picture, a file for several, or a file of another format.
    pub(super) fn new(output: Option<PathBuf>, num_images: u32) -> Result<Self, UsageError> {
        let is_png = |path: &Path| path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("png"));
        let refuse = |path: &Path, why: &str| Err(UsageError(format!("`--output` is {}, {why}", path.display())));
        match (output, num_images) {
            (None, 1) => Ok(Self::File("out.png".into())),
            (None, _) => Ok(Self::Folder("out".into())),
            (Some(path), 1) if path.is_dir() || path.as_os_str().to_string_lossy().ends_with('/') => {
                refuse(&path, "a folder; name the file of the one picture, such as out.png in it")
            }
            (Some(path), 1) if path.extension().is_some() && !is_png(&path) => {
                refuse(&path, "but pictures are written as PNG; give a name that ends in .png")
            }
            (Some(path), 1) => Ok(Self::File(path)),
            (Some(path), _) if path.is_file() || (is_png(&path) && !path.is_dir()) => {
                refuse(&path, "a file; several pictures need a folder")
            }
            (Some(path), _) => Ok(Self::Folder(path)),
        }
    }

    /// Checks that it can be written, leaving nothing behind.
    ///
    /// # Errors
    /// [`FormatError`] naming the file or folder.
    pub(super) fn check(&self) -> Result<(), FormatError> {
        match self {
            Self::File(file) => output::check_file(file),
            Self::Folder(folder) => output::check_folder(folder),
        }
    }

    /// Makes the folder that the pictures are to lie in.
    ///
    /// # Errors
    /// [`FormatError`] naming the folder.
    pub(super) fn create_folder(&self) -> Result<(), FormatError> {
        match self {
            Self::File(file) => output::create_folder_of(file),
            Self::Folder(folder) => output::create_folder(folder),
        }
    }

    /// The file of a picture, counted from 0 in sampling order.
    pub(super) fn file(&self, index: usize) -> PathBuf {
        match self {
            Self::File(file) => file.clone(),
            Self::Folder(folder) => folder.join(format!("{index:03}.png")),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn one_picture_is_a_file_and_several_are_numbered_in_a_folder() {
        assert_eq!(Target::new(None, 1).unwrap().file(0), Path::new("out.png"));
        assert_eq!(Target::new(Some("a/b.PNG".into()), 1).unwrap().file(0), Path::new("a/b.PNG"));
        assert_eq!(Target::new(None, 2).unwrap().file(1), Path::new("out/001.png"));
        assert_eq!(Target::new(Some("a".into()), 3).unwrap().file(2), Path::new("a/002.png"));
    }

    #[test]
    fn what_does_not_fit_the_number_of_pictures_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let refused = |path: &Path, num| Target::new(Some(path.to_owned()), num).unwrap_err().to_string();
        assert!(refused(folder.path(), 1).contains("a folder"));
        assert!(refused(Path::new("new/"), 1).contains("a folder"));
        assert!(refused(Path::new("out.jpg"), 1).contains("PNG"));
        assert!(refused(Path::new("out.png"), 2).contains("need a folder"));
    }
}
