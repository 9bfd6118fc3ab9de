//! Lists of captions: one JSON value, or one a line.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use ipa_formats::{read_json, read_text};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::{ProtocolError, coco};

/// An image as a list names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) id: String,
    pub(super) file: String,
    pub(super) captions: Vec<String>,
    /// Why its captions cannot be used.
    pub(super) fault: Option<&'static str>,
}

impl Listed {
    pub(super) fn new(id: String, file: String, captions: Vec<String>) -> Self {
        Self { id, file, captions, fault: None }
    }
}

/// A row of a list; other fields, such as a training list's, do not matter here.
#[derive(Debug, Deserialize)]
struct Row {
    image_file: String,
    text: Option<String>,
    #[serde(default)]
    captions: Vec<String>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a caption or a list of captions")]
enum Captions {
    One(String),
    Several(Vec<String>),
}

/// What a JSON file of captions is, told by how it begins.
enum Form {
    Rows,
    ByName,
}

/// The file of captions in a folder, or in its folder `annotations`; nothing if there is none.
pub(super) fn list_in(folder: &Path) -> Result<Option<PathBuf>, ProtocolError> {
    let mut found = Vec::new();
    for place in [folder.to_owned(), folder.join("annotations")].into_iter().filter(|place| place.is_dir()) {
        let failed = |source| ProtocolError::Folder { path: place.clone(), source };
        for entry in fs::read_dir(&place).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let is_coco = name.starts_with("captions_") && name.ends_with(".json");
            if is_coco || name == "captions.json" || name == "captions.jsonl" {
                found.push(path);
            }
        }
    }
    found.sort();
    // COCO's archive has the captions of every split, and often the images of one alone are there.
    if found.len() > 1 && found.iter().filter(|list| coco::split_folder(list).is_some()).count() == 1 {
        found.retain(|list| coco::split_folder(list).is_some());
    }
    let name = |path: &PathBuf| path.strip_prefix(folder).unwrap_or(path).display().to_string();
    match found.as_slice() {
        [first, second, ..] => {
            let (first, second) = (name(first), name(second));
            Err(ProtocolError::Ambiguous { folder: folder.to_owned(), first, second })
        }
        _ => Ok(found.pop()),
    }
}

/// Reads a captions.json or captions.jsonl; images in the order of their names.
pub(super) fn read(path: &Path) -> Result<Vec<Listed>, ProtocolError> {
    let is_lines = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("jsonl"));
    let mut by_name: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut add = |name: String, captions: Vec<String>| by_name.entry(name).or_default().extend(captions);
    match is_lines {
        true => lines(path)?.into_iter().for_each(|row| add(row.image_file, own(row.text, row.captions))),
        false => match form(path)? {
            Form::Rows => {
                let rows: Vec<Row> = read_json(path)?;
                rows.into_iter().for_each(|row| add(row.image_file, own(row.text, row.captions)));
            }
            Form::ByName => {
                let rows: BTreeMap<String, Captions> = read_json(path)?;
                rows.into_iter().for_each(|(name, captions)| match captions {
                    Captions::One(caption) => add(name, vec![caption]),
                    Captions::Several(captions) => add(name, captions),
                });
            }
        },
    }
    Ok(by_name.into_iter().map(|(file, captions)| Listed::new(file.clone(), file, captions)).collect())
}

fn own(text: Option<String>, captions: Vec<String>) -> Vec<String> {
    text.into_iter().chain(captions).collect()
}

fn form(path: &Path) -> Result<Form, ProtocolError> {
    let text = read_text(path)?;
    match text.trim_start().chars().next() {
        Some('{') => Ok(Form::ByName),
        Some('[') => Ok(Form::Rows),
        _ => {
            read_json::<IgnoredAny>(path)?; // tells where it is no JSON
            let problem = "is neither a list nor an object: write [{\"image_file\": …, \"text\": …}]".to_owned();
            Err(ProtocolError::Field { path: path.to_owned(), field: ".".to_owned(), problem })
        }
    }
}

fn lines(path: &Path) -> Result<Vec<Row>, ProtocolError> {
    let text = read_text(path)?;
    let row = |(index, line): (usize, &str)| {
        let mut json = serde_json::Deserializer::from_str(line);
        serde_path_to_error::deserialize(&mut json).map_err(|error| {
            let field = error.path().to_string();
            ProtocolError::Line { path: path.to_owned(), line: index + 1, field, source: error.into_inner() }
        })
    };
    text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()).map(row).collect()
}
