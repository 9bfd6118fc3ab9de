//! The folder that all files of a list lie below.

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use ipa_formats::FormatError;

use super::error::folder_of;
use super::{DataError, Place, Source};

/// A list and its folder.
#[derive(Debug)]
pub(super) struct Root {
    list: PathBuf,
    folder: PathBuf,
    real: PathBuf,
    /// Whether the folders of files lie below it: looked up once each, since links are slow to follow.
    known: RwLock<HashMap<PathBuf, Option<bool>>>,
}

impl Root {
    /// Of a list, or of a folder of pictures.
    pub(super) fn of(list: &Path) -> Result<Self, FormatError> {
        let folder = if list.is_dir() { list } else { folder_of(list) };
        let real = folder.canonicalize().map_err(|source| FormatError::Read { path: folder.into(), source })?;
        Ok(Self { list: list.into(), folder: folder.into(), real, known: RwLock::default() })
    }

    /// The list.
    pub(super) fn list(&self) -> &Path {
        &self.list
    }

    /// The file that a row names; its name does not climb out of the folder.
    pub(super) fn source(&self, place: &Place, field: &'static str, file: &str) -> Result<Source, DataError> {
        let climbs = |part: Component| !matches!(part, Component::Normal(_) | Component::CurDir);
        match Path::new(file).components().any(climbs) {
            true => Err(self.outside(place, field, file)),
            false => Ok(Source::File(self.folder.join(file))),
        }
    }

    /// Whether that file is there and no link leads out.
    pub(super) fn check(&self, place: &Place, field: &'static str, file: &str) -> Result<(), DataError> {
        let Source::File(path) = self.source(place, field, file)? else { return Ok(()) };
        match self.is_below(&path) {
            Some(true) => Ok(()),
            Some(false) => Err(self.outside(place, field, file)),
            None => {
                let (path, place) = (self.list.clone(), place.clone());
                Err(DataError::NoFile { path, place, field, file: file.to_owned() })
            }
        }
    }

    /// `None` if it is not there.
    fn is_below(&self, path: &Path) -> Option<bool> {
        let about = path.symlink_metadata().ok()?;
        if about.is_symlink() {
            return Some(path.canonicalize().ok()?.starts_with(&self.real));
        }
        let folder = folder_of(path);
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner).get(folder).copied();
        known.unwrap_or_else(|| {
            let found = folder.canonicalize().ok().map(|folder| folder.starts_with(&self.real));
            self.known.write().unwrap_or_else(PoisonError::into_inner).insert(folder.into(), found);
            found
        })
    }

    fn outside(&self, place: &Place, field: &'static str, file: &str) -> DataError {
        DataError::Outside { path: self.list.clone(), place: place.clone(), field, file: file.to_owned() }
    }
}
