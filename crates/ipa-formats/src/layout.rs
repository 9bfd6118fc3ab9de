//! Where things lie in a diffusers-style model folder.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use crate::FormatError;

/// The largest text file of a published model, a tokenizer, has a few megabytes.
const MAX_TEXT_BYTES: u64 = 64 << 20;

/// A folder with one sub-folder for each component of a model.
///
/// Components go by their diffusers names: `unet`, `vae`, `text_encoder`, `tokenizer`, `scheduler`,
/// `image_encoder`, `feature_extractor`.
#[derive(Clone, Debug)]
pub struct ModelFolder {
    path: PathBuf,
}

impl ModelFolder {
    /// Takes a folder that has a `model_index.json` or at least a `unet`.
    ///
    /// # Errors
    /// [`FormatError::NoModel`] if there is nothing, [`FormatError::NotAModel`] if it is something else,
    /// [`FormatError::Read`] if nobody may look.
    pub fn open(path: &Path) -> Result<Self, FormatError> {
        fs::metadata(path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => FormatError::NoModel { path: path.to_owned() },
            _ => FormatError::Read { path: path.to_owned(), source },
        })?;
        if path.join("model_index.json").is_file() || path.join("unet").is_dir() {
            Ok(Self { path: path.to_owned() })
        } else {
            Err(FormatError::NotAModel { path: path.to_owned() })
        }
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Folder of a component, `None` if the model comes without.
    pub fn component(&self, name: &str) -> Option<PathBuf> {
        Some(self.path.join(name)).filter(|folder| folder.is_dir())
    }

    /// Folder of a component that is needed.
    ///
    /// # Errors
    /// [`FormatError::MissingComponent`] if the model comes without.
    pub fn require(&self, name: &str) -> Result<PathBuf, FormatError> {
        self.component(name)
            .ok_or_else(|| FormatError::MissingComponent { path: self.path.clone(), name: name.to_owned() })
    }
}

/// Reads a JSON file into any type, or into [`serde_json::Value`].
///
/// # Errors
/// [`FormatError::Read`] if it is missing, [`FormatError::NotAFile`], [`FormatError::Json`] with the
/// field that is wrong.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, FormatError> {
    let bytes = read_small(path)?;
    let json_error = |field: String, source| FormatError::Json { path: path.to_owned(), field, source };
    let mut json = serde_json::Deserializer::from_slice(&bytes);
    let value = serde_path_to_error::deserialize(&mut json)
        .map_err(|error| json_error(error.path().to_string(), error.into_inner()))?;
    json.end().map_err(|error| json_error(".".to_owned(), error))?;
    Ok(value)
}

/// As [`read_json`], `None` if there is no such file.
///
/// # Errors
/// As [`read_json`], but for a missing file.
pub fn read_json_if_there<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, FormatError> {
    match read_json(path) {
        Err(FormatError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        result => result.map(Some),
    }
}

/// Reads a text file.
///
/// # Errors
/// [`FormatError::Read`] if it is missing, too large or not UTF-8, [`FormatError::NotAFile`].
pub fn read_text(path: &Path) -> Result<String, FormatError> {
    String::from_utf8(read_small(path)?).map_err(|error| FormatError::Read {
        path: path.to_owned(),
        source: io::Error::new(io::ErrorKind::InvalidData, error),
    })
}

/// Reads a file of at most as many bytes as a tokenizer has.
///
/// # Errors
/// As [`read_text`], whatever its bytes are.
pub(crate) fn read_small(path: &Path) -> Result<Vec<u8>, FormatError> {
    let read_error = |source| FormatError::Read { path: path.to_owned(), source };
    let found = fs::metadata(path).map_err(read_error)?;
    if !found.is_file() {
        return Err(FormatError::NotAFile { path: path.to_owned() }); // opening a pipe would wait forever
    }
    if found.len() > MAX_TEXT_BYTES {
        let reason = format!("it has {} bytes, at most {MAX_TEXT_BYTES} are read", found.len());
        return Err(read_error(io::Error::new(io::ErrorKind::FileTooLarge, reason)));
    }
    fs::read(path).map_err(read_error)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    struct Config {
        #[serde(rename = "block_out_channels")]
        channels: Vec<usize>,
    }

    fn folder_with(names: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "{}").unwrap();
        }
        folder
    }

    #[test]
    fn components_are_the_sub_folders() {
        let folder = folder_with(&["model_index.json", "unet/config.json"]);
        let model = ModelFolder::open(folder.path()).unwrap();
        assert_eq!(model.component("unet"), Some(folder.path().join("unet")));
        assert_eq!(model.component("image_encoder"), None);
        let error = model.require("image_encoder").unwrap_err().to_string();
        assert!(error.contains("image_encoder") && error.contains(folder.path().to_str().unwrap()), "{error}");
    }

    #[test]
    fn a_folder_of_something_else_is_not_a_model() {
        let folder = folder_with(&["cat.png"]);
        assert!(matches!(ModelFolder::open(folder.path()), Err(FormatError::NotAModel { .. })));
        assert!(matches!(ModelFolder::open(&folder.path().join("cat.png")), Err(FormatError::NotAModel { .. })));
    }

    #[test]
    fn a_model_by_its_public_name_is_not_downloaded() {
        let error = ModelFolder::open(Path::new("owner/name")).unwrap_err().to_string();
        assert!(error.contains("owner/name") && error.contains("downloaded"), "{error}");
    }

    #[test]
    fn a_wrong_field_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        fs::write(&path, r#"{"block_out_channels": [32, "wide"]}"#).unwrap();
        let error = read_json::<Config>(&path).unwrap_err().to_string();
        assert!(error.contains("config.json") && error.contains("block_out_channels[1]"), "{error}");
        fs::write(&path, r#"{"block_out_channels": [32, 64]}"#).unwrap();
        assert_eq!(read_json::<Config>(&path).unwrap().channels, [32, 64]);
    }

    #[test]
    fn broken_json_is_an_error_with_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        for text in [&b""[..], b"{", b"{} {}", b"\xff\xfe", "[".repeat(100_000).as_bytes()] {
            fs::write(&path, text).unwrap();
            let error = read_json::<serde_json::Value>(&path).unwrap_err();
            assert!(matches!(&error, FormatError::Json { path: named, .. } if *named == path), "{error}");
        }
    }

    #[test]
    fn files_that_are_no_small_text_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("merges.txt");
        fs::File::create(&path).unwrap().set_len(MAX_TEXT_BYTES + 1).unwrap();
        assert!(matches!(read_text(&path), Err(FormatError::Read { path: named, .. }) if named == path));
        fs::write(&path, b"\xff\xfe").unwrap();
        assert!(matches!(read_text(&path), Err(FormatError::Read { path: named, .. }) if named == path));
        assert!(matches!(read_text(folder.path()), Err(FormatError::NotAFile { .. })));
        assert!(matches!(read_json_if_there::<Config>(folder.path()), Err(FormatError::NotAFile { .. })));
    }

    #[test]
    fn a_missing_config_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = read_json::<Config>(&folder.path().join("config.json")).unwrap_err();
        assert!(error.to_string().contains("config.json"), "{error}");
        assert!(read_json_if_there::<Config>(&folder.path().join("config.json")).unwrap().is_none());
    }
}
