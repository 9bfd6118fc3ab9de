//! COCO's caption annotations, `captions_val2017.json` (cocodataset.org, format "Image Captioning").

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ipa_formats::read_json;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::ProtocolError;
use super::captions::Listed;
use super::images::folder_of;

#[derive(Deserialize)]
struct Annotations {
    images: Vec<Image>,
    annotations: Vec<Annotation>,
}

#[derive(Deserialize)]
struct Image {
    id: u64,
    file_name: String,
}

#[derive(Deserialize)]
struct Annotation {
    id: u64,
    image_id: u64,
    caption: String,
}

/// Whether a file is of this kind.
#[derive(Deserialize)]
struct Probe {
    images: Option<Vec<IgnoredAny>>,
    annotations: Option<Vec<IgnoredAny>>,
}

/// Reads annotations, images by id and captions by annotation id; nothing if the file is of another kind.
pub(super) fn read(path: &Path) -> Result<Option<Vec<Listed>>, ProtocolError> {
    let is_json = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("json"));
    let is_named = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("captions_"));
    let looks_like = || matches!(read_json(path), Ok(Probe { images: Some(_), annotations: Some(_) }));
    if !is_json || !(is_named || looks_like()) {
        return Ok(None);
    }
    let Annotations { images, mut annotations } = read_json(path)?;
    let wrong = |field: String, problem: String| ProtocolError::Field { path: path.to_owned(), field, problem };
    let mut by_id: BTreeMap<u64, Listed> = BTreeMap::new();
    for (index, Image { id, file_name }) in images.into_iter().enumerate() {
        let listed = Listed::new(id.to_string(), file_name, Vec::new());
        if by_id.insert(id, listed).is_some() {
            return Err(wrong(format!("images[{index}].id"), format!("is {id} again: fetch the file anew")));
        }
    }
    let unknown = annotations.iter().position(|annotation| !by_id.contains_key(&annotation.image_id));
    if let Some(index) = unknown {
        let problem =
            format!("is {}, and `images` has no such image: fetch the file anew", annotations[index].image_id);
        return Err(wrong(format!("annotations[{index}].image_id"), problem));
    }
    annotations.sort_by_key(|annotation| annotation.id);
    for Annotation { image_id, caption, .. } in annotations {
        by_id.entry(image_id).and_modify(|image| image.captions.push(caption));
    }
    Ok(Some(by_id.into_values().collect()))
}

/// Where the images of a list lie: in the folder of the split, else beside the list.
pub(super) fn image_folder(list: &Path) -> PathBuf {
    split_folder(list).unwrap_or_else(|| folder_of(list).to_owned())
}

/// The list of a folder of images that is a split, `../annotations/captions_val2017.json` of `val2017`, if it is there.
pub(super) fn list_of_split(images: &Path) -> Option<PathBuf> {
    let real = images.canonicalize().ok()?;
    let name = format!("captions_{}.json", real.file_name()?.to_string_lossy());
    Some(images.join("..").join("annotations").join(name)).filter(|list| list.is_file())
}

/// The folder of a list's split, beside the list or a level up, if there is one.
pub(super) fn split_folder(list: &Path) -> Option<PathBuf> {
    let beside = folder_of(list);
    let stem = list.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let split = stem.strip_prefix("captions_").unwrap_or(&stem);
    [beside.join(split), beside.join("..").join(split)].into_iter().find(|folder| folder.is_dir())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn error_of(json: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("captions_test.json");
        std::fs::write(&path, json).unwrap();
        read(&path).unwrap_err().to_string()
    }

    #[test]
    fn what_is_wrong_is_named_by_file_and_field() {
        for (json, field) in [
            (r#"{"images": [{"id": "x", "file_name": "a.jpg"}], "annotations": []}"#, "images[0].id"),
            (r#"{"images": [{"id": 1}], "annotations": []}"#, "images[0]"),
            (r#"{"images": [], "annotations": [{"id": 1, "image_id": 7, "caption": "a"}]}"#, "annotations[0].image_id"),
            (
                r#"{"images": [{"id": 1, "file_name": "a"}, {"id": 1, "file_name": "b"}], "annotations": []}"#,
                "images[1].id",
            ),
            (r#"{"images": []}"#, "."),
            ("not json", "."),
        ] {
            let error = error_of(json);
            assert!(error.contains("captions_test.json") && error.contains(&format!("`{field}`")), "{error}");
        }
    }
}
