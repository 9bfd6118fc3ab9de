//! What the authors of a model allow, as far as its files say so.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::read_text;

/// Name of a model card.
const CARD: &str = "README.md";
/// The line around the fields at the beginning of a model card.
const FENCE: &str = "---";
/// Fields of a safetensors header that name a licence, in kohya's and Stability's conventions.
const HEADER_FIELDS: [&str; 3] = ["modelspec.license", "license", "ss_license"];
/// Folders above a file in which its model's card may lie: a component's and the model's.
const LEVELS: usize = 3;

/// The licence fields of a model card or of a file's header.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Licence {
    /// Its name, such as `creativeml-openrail-m`; a card that says `other` gives its own.
    pub name: String,
    /// Where its text lies, if that is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    /// What said so.
    pub source: PathBuf,
}

impl Licence {
    /// The licence that a file's metadata names, or the model card beside it, or in a folder above within its model.
    pub fn of(path: &Path, metadata: &BTreeMap<String, String>) -> Option<Self> {
        let named = HEADER_FIELDS.iter().find_map(|field| metadata.get(*field).filter(|text| !text.is_empty()));
        if let Some(name) = named {
            return Some(Self { name: name.clone(), link: None, source: path.to_owned() });
        }
        let start = if path.is_dir() { path } else { path.parent()? };
        let folders = start.ancestors().take(LEVELS);
        // Beyond the model's own folder lie other people's.
        let is_whole = |folder: &Path| folder.join("model_index.json").is_file() || is_snapshot(folder);
        let end = folders.clone().position(is_whole);
        folders.take(end.map_or(1, |end| end + 1)).find_map(|folder| Self::of_card(&folder.join(CARD)))
    }

    /// The fields `license`, `license_name` and `license_link` of a model card.
    fn of_card(card: &Path) -> Option<Self> {
        let text = read_text(card).ok()?;
        let mut lines = text.trim_start_matches('\u{feff}').lines();
        lines.next().filter(|line| line.trim_end() == FENCE)?;
        let fields: BTreeMap<&str, &str> =
            lines.take_while(|line| line.trim_end() != FENCE).filter_map(|line| line.split_once(':')).collect();
        let field = |name: &str| {
            let value = fields.get(name)?.trim().trim_matches(['"', '\'']);
            (!value.is_empty()).then(|| value.to_owned())
        };
        let name = match (field("license"), field("license_name")) {
            (Some(general), Some(own)) if general == "other" => own,
            (Some(general), _) => general,
            (None, own) => own?,
        };
        Some(Self { name, link: field("license_link"), source: card.to_owned() })
    }
}

/// Whether a folder is a repository's in the hub's cache.
fn is_snapshot(folder: &Path) -> bool {
    folder.parent().and_then(Path::file_name).is_some_and(|name| name == "snapshots")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

    use super::*;

    fn card(text: &str) -> Option<Licence> {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(CARD), text).unwrap();
        Licence::of(&folder.path().join("adapter.safetensors"), &BTreeMap::new())
    }

    #[test]
    fn a_card_names_its_licence() {
        let found = card("---\ntags:\n- art\nlicense: apache-2.0\n---\n# A model\nlicense: none\n").unwrap();
        assert_eq!((found.name.as_str(), found.link), ("apache-2.0", None));
        let found = card("---\nlicense: other\nlicense_name: \"own-nc\"\nlicense_link: LICENSE.md\n---\n").unwrap();
        assert_eq!((found.name.as_str(), found.link.as_deref()), ("own-nc", Some("LICENSE.md")));
        for other in ["# A model\nlicense: mit\n", "---\ntags: x\n---\nlicense: mit\n", "---\nlicense:\n---\n", ""] {
            assert_eq!(card(other), None, "{other}");
        }
    }

    #[test]
    fn a_header_goes_before_a_card_and_a_model_has_one_for_its_parts() {
        let folder = tempfile::tempdir().unwrap();
        let unet = folder.path().join("model/unet");
        fs::create_dir_all(&unet).unwrap();
        fs::write(folder.path().join("model").join(CARD), "---\nlicense: mit\n---\n").unwrap();
        let file = unet.join("model.safetensors");
        assert_eq!(Licence::of(&file, &BTreeMap::new()), None, "a folder that is no model's may be anybody's");
        fs::write(folder.path().join("model/model_index.json"), "{}").unwrap();
        for path in [&file, &unet] {
            assert_eq!(Licence::of(path, &BTreeMap::new()).unwrap().name, "mit");
        }
        let snapshot = folder.path().join("models--a--b/snapshots/0123");
        fs::create_dir_all(snapshot.join("models")).unwrap();
        fs::write(snapshot.join(CARD), "---\nlicense: own\n---\n").unwrap();
        assert_eq!(Licence::of(&snapshot.join("models/a.safetensors"), &BTreeMap::new()).unwrap().name, "own");
        let header = BTreeMap::from([("modelspec.license".to_owned(), "own".to_owned())]);
        assert_eq!(Licence::of(&file, &header).unwrap().name, "own");
    }
}
