//! Lists that stay in memory: data.json and folders of pictures.

use std::path::{Path, PathBuf};

use ipa_formats::FormatError;
use rayon::prelude::*;

use super::root::Root;
use super::row::Fields;
use super::{DataError, Faults, Found, Place, key_hash};

/// Endings of pictures.
pub(super) const PICTURE_ENDINGS: [&str; 4] = ["png", "jpg", "jpeg", "webp"];

/// The rows of a data.json or a folder.
#[derive(Debug)]
pub(super) struct List {
    root: Root,
    rows: Vec<Fields>,
}

impl List {
    /// Reads a data.json, `[{"image_file": …, "text": …}, …]`.
    pub(super) fn of_json(path: &Path, faults: Faults) -> Result<(Self, Vec<u32>), DataError> {
        Self::checked(path, ipa_formats::read_json(path)?, faults)
    }

    /// The pictures of a folder in the order of their names, with captions of the same names ending in `.txt`.
    pub(super) fn of_folder(
        folder: &Path,
        pictures: Vec<PathBuf>,
        faults: Faults,
    ) -> Result<(Self, Vec<u32>), DataError> {
        let mut rows = Vec::with_capacity(pictures.len());
        for picture in pictures {
            let caption = picture.with_extension("txt");
            match std::fs::read_to_string(&caption) {
                Ok(text) => rows.push(Fields {
                    image_file: Some(picture.file_name().unwrap_or_default().to_string_lossy().into_owned()),
                    text: Some(text.trim().to_owned()),
                    ..Fields::default()
                }),
                Err(source) => faults(DataError::NoCaption { picture, caption, source })?,
            }
        }
        Self::checked(folder, rows, faults)
    }

    /// Leaves out the rows whose faults are taken.
    fn checked(path: &Path, rows: Vec<Fields>, faults: Faults) -> Result<(Self, Vec<u32>), DataError> {
        let root = Root::of(path)?;
        let check = |(index, fields): (usize, Fields)| {
            let hash = check_row(&root, &Place::Row(index), &fields)?;
            Ok((fields, hash))
        };
        let checked: Vec<_> = rows.into_par_iter().enumerate().map(check).collect();
        let (mut rows, mut hashes) = (Vec::with_capacity(checked.len()), Vec::with_capacity(checked.len()));
        for row in checked {
            match row {
                Ok((fields, hash)) => {
                    rows.push(fields);
                    hashes.push(hash);
                }
                Err(fault) => faults(fault)?,
            }
        }
        Ok((Self { root, rows }, hashes))
    }

    pub(super) fn row(&self, row: usize) -> Result<Found, DataError> {
        found(&self.root, Place::Row(row), self.rows[row].clone())
    }
}

/// Checks a row with its files; the hash of its key.
pub(super) fn check_row(root: &Root, place: &Place, fields: &Fields) -> Result<u32, DataError> {
    fields.check(root.list(), place)?;
    let image_file = image_file(root, place, fields)?;
    root.check(place, "image_file", image_file)?;
    for (field, file) in fields.other_files() {
        file.map_or(Ok(()), |file| root.check(place, field, file))?;
    }
    Ok(key_hash(image_file))
}

/// A row with its files, which were there when the list was opened.
pub(super) fn found(root: &Root, place: Place, fields: Fields) -> Result<Found, DataError> {
    fields.check(root.list(), &place)?;
    let key = image_file(root, &place, &fields)?.to_owned();
    let picture = root.source(&place, "image_file", &key)?;
    let [reference, mask, id_embed] =
        fields.other_files().map(|(field, file)| file.map(|file| root.source(&place, field, file)).transpose());
    let (reference, mask, id_embed) = (reference?, mask?, id_embed?);
    Ok(Found { key, fields, picture, reference, mask, id_embed })
}

fn image_file<'a>(root: &Root, place: &Place, fields: &'a Fields) -> Result<&'a str, DataError> {
    fields.image_file.as_deref().ok_or_else(|| DataError::Field {
        path: root.list().into(),
        place: place.clone(),
        field: "image_file",
        problem: "is missing: name the picture there".to_owned(),
    })
}

/// The files of a folder with one of these endings, sorted by name.
pub(super) fn files_with(folder: &Path, endings: &[&str]) -> Result<Vec<PathBuf>, DataError> {
    let failed = |source| FormatError::Read { path: folder.to_owned(), source };
    let entries = std::fs::read_dir(folder).map_err(failed)?;
    let paths = entries.map(|entry| Ok(entry.map_err(failed)?.path())).collect::<Result<Vec<_>, DataError>>()?;
    let is_meant = |path: &PathBuf| {
        let ending = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
        endings.contains(&ending.as_str()) && path.is_file()
    };
    let mut files: Vec<PathBuf> = paths.into_iter().filter(is_meant).collect();
    files.sort();
    Ok(files)
}
