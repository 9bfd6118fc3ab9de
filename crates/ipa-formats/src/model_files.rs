//! A model in whichever files it comes: a diffusers-style folder or a single-file checkpoint.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::weights::Source;
use crate::{
    Component, FormatError, ModelFolder, ModelVersion, PredictionType, SingleFile, SingleFileInfo, SingleFileOptions,
    TensorFile, Weights, read_json, read_single_file, weights_file,
};

/// What a model's own files leave open, or what is to come from elsewhere.
#[derive(Clone, Debug, Default)]
pub struct ModelOptions {
    /// An autoencoder in place of the model's own: its folder, or a single file that holds one.
    pub vae: Option<PathBuf>,
    /// Folder of a tokenizer in place of the model's own; single files have none.
    pub tokenizer: Option<PathBuf>,
    /// Takes the UNet's weights of a single file from their running averages.
    pub ema: bool,
    /// What the UNet predicts, where the model's own files say otherwise or nothing.
    pub prediction_type: Option<PredictionType>,
}

/// A model, opened as far as its configurations and the headers of single files.
#[derive(Clone, Debug)]
pub struct ModelFiles {
    place: Place,
    options: ModelOptions,
    vae: Option<ComponentFiles>,
}

#[derive(Clone, Debug)]
enum Place {
    Folder(ModelFolder),
    SingleFile(Arc<OpenSingleFile>),
}

/// A single-file checkpoint with its plans.
#[derive(Debug)]
pub struct OpenSingleFile {
    file: Arc<TensorFile>,
    contents: SingleFile,
}

/// Configuration and weights of one model: a folder of its own, or a part of a single file.
#[derive(Clone, Debug)]
pub enum ComponentFiles {
    /// `config.json` and a weights file.
    Folder(PathBuf),
    /// A part of a single file, whose configuration follows from its tensors.
    Part(Arc<OpenSingleFile>, Component),
}

impl ModelFiles {
    /// Opens a diffusers-style folder or a single-file checkpoint.
    ///
    /// # Errors
    /// [`FormatError`] naming the file, and what is wrong with it.
    pub fn open(path: &Path) -> Result<Self, FormatError> {
        Self::open_with(path, ModelOptions::default())
    }

    /// As [`ModelFiles::open`], with parts from elsewhere.
    ///
    /// # Errors
    /// As [`ModelFiles::open`]; [`FormatError::EmaOfFolder`].
    pub fn open_with(path: &Path, options: ModelOptions) -> Result<Self, FormatError> {
        let place = match path.is_file() {
            true => {
                let known = SingleFileOptions {
                    ema: options.ema,
                    prediction_type: options.prediction_type,
                    ..SingleFileOptions::default()
                };
                Place::SingleFile(Arc::new(OpenSingleFile::open(path, known)?))
            }
            false if options.ema => return Err(FormatError::EmaOfFolder { path: path.to_owned() }),
            false => Place::Folder(ModelFolder::open(path)?),
        };
        let vae = options.vae.as_deref().map(autoencoder).transpose()?;
        Ok(Self { place, options, vae })
    }

    /// The folder or file.
    pub fn path(&self) -> &Path {
        match &self.place {
            Place::Folder(folder) => folder.path(),
            Place::SingleFile(single) => single.path(),
        }
    }

    /// What a single file was recognised as.
    pub fn single_file(&self) -> Option<&SingleFileInfo> {
        match &self.place {
            Place::Folder(_) => None,
            Place::SingleFile(single) => Some(&single.contents.info),
        }
    }

    /// The single file itself, `None` for a folder.
    pub(crate) fn file(&self) -> Option<&TensorFile> {
        match &self.place {
            Place::Folder(_) => None,
            Place::SingleFile(single) => Some(&single.file),
        }
    }

    /// Files of a part that has weights.
    ///
    /// # Errors
    /// [`FormatError::MissingComponent`] if the model comes without.
    pub fn component(&self, component: Component) -> Result<ComponentFiles, FormatError> {
        if let (Component::Vae, Some(vae)) = (component, &self.vae) {
            return Ok(vae.clone());
        }
        match &self.place {
            Place::Folder(folder) => Ok(ComponentFiles::Folder(folder.require(component.folder())?)),
            Place::SingleFile(single) => OpenSingleFile::part(single, component),
        }
    }

    /// The files that decide what the model computes: a single file, or a folder's weights and settings, those that parts
    /// from elsewhere replace among them.
    ///
    /// # Errors
    /// As [`ComponentFiles::weights`].
    pub fn own_files(&self) -> Result<Vec<PathBuf>, FormatError> {
        let Place::Folder(folder) = &self.place else { return Ok(vec![self.path().to_owned()]) };
        let mut files = Vec::new();
        for part in [Component::TextEncoder, Component::Unet, Component::Vae] {
            if let Some(folder) = folder.component(part.folder()) {
                files.extend(ComponentFiles::Folder(folder).files()?);
            }
        }
        for part in ["scheduler", "tokenizer"] {
            files.extend(folder.component(part).iter().flat_map(|folder| settings_files(folder)));
        }
        Ok(files)
    }

    /// The files of an autoencoder that is not the model's own.
    ///
    /// # Errors
    /// As [`ComponentFiles::weights`].
    pub fn vae_files(&self) -> Result<Option<Vec<PathBuf>>, FormatError> {
        self.vae.as_ref().map(ComponentFiles::files).transpose()
    }

    /// The folder and the files of a tokenizer that is not in the model's folder.
    ///
    /// # Errors
    /// As [`ModelFiles::tokenizer`].
    pub fn tokenizer_files(&self) -> Result<Option<(PathBuf, Vec<PathBuf>)>, FormatError> {
        if let (Place::Folder(_), None) = (&self.place, &self.options.tokenizer) {
            return Ok(None);
        }
        let folder = self.tokenizer()?;
        let files = settings_files(&folder);
        Ok(Some((folder, files)))
    }

    /// Folder of a part without weights or of an image encoder, `None` if the model comes without, as single files do.
    pub fn folder(&self, name: &str) -> Option<PathBuf> {
        match &self.place {
            Place::Folder(folder) => folder.component(name),
            Place::SingleFile(_) => None,
        }
    }

    /// Folder of the tokenizer: the one that was named, the model's own, or `tokenizer` beside a single file.
    ///
    /// # Errors
    /// [`FormatError::MissingComponent`], [`FormatError::NoTokenizer`].
    pub fn tokenizer(&self) -> Result<PathBuf, FormatError> {
        match (&self.options.tokenizer, &self.place) {
            (Some(folder), _) => Ok(folder.clone()),
            (None, Place::Folder(folder)) => folder.require("tokenizer"),
            (None, Place::SingleFile(single)) => {
                let beside = single.path().with_file_name("tokenizer");
                match beside.is_dir() {
                    true => Ok(beside),
                    false => Err(FormatError::NoTokenizer { path: single.path().to_owned() }),
                }
            }
        }
    }

    /// The token that fills prompts up, where it follows from the model: single files have no tokenizer, and those of
    /// Stable Diffusion 1.x and 2.x differ in nothing else.
    pub fn pad_token(&self) -> Option<&'static str> {
        match self.single_file()?.version? {
            ModelVersion::V1 => Some("<|endoftext|>"),
            ModelVersion::V2 => Some("!"),
        }
    }

    /// The fields of `scheduler_config.json`, as text, and the file that errors are to name.
    ///
    /// # Errors
    /// [`FormatError`] if there are none or they cannot be read.
    pub fn scheduler(&self) -> Result<(PathBuf, SchedulerFields), FormatError> {
        match &self.place {
            Place::Folder(folder) => {
                let path = folder.require("scheduler")?.join("scheduler_config.json");
                let text = crate::read_text(&path)?;
                Ok((path, SchedulerFields::Text(text)))
            }
            Place::SingleFile(single) => {
                let missing = || single.missing("scheduler");
                let fields = single.contents.configs.scheduler.as_ref().and_then(Value::as_object);
                Ok((single.path().to_owned(), SchedulerFields::Parsed(fields.ok_or_else(missing)?.clone())))
            }
        }
    }

    /// What the caller knows of the prediction.
    pub fn prediction_type(&self) -> Option<PredictionType> {
        self.options.prediction_type
    }
}

/// A scheduler's configuration: text, as its dialect of JSON is not quite that of the standard, or read already.
#[derive(Clone, Debug)]
pub enum SchedulerFields {
    /// As it stands in the file.
    Text(String),
    /// As inferred from a single file.
    Parsed(Map<String, Value>),
}

impl OpenSingleFile {
    fn open(path: &Path, options: SingleFileOptions) -> Result<Self, FormatError> {
        let file = TensorFile::open(path)?;
        let options = SingleFileOptions { global_step: file.global_step(), ..options };
        let contents = read_single_file(file.tensors(), &options)
            .map_err(|source| FormatError::SingleFile { path: path.to_owned(), source: Box::new(source) })?;
        Ok(Self { file: Arc::new(file), contents })
    }

    fn path(&self) -> &Path {
        self.file.path()
    }

    fn part(single: &Arc<Self>, component: Component) -> Result<ComponentFiles, FormatError> {
        match single.contents.info.components.contains(&component) {
            true => Ok(ComponentFiles::Part(single.clone(), component)),
            false => Err(single.missing(component.folder())),
        }
    }

    fn missing(&self, part: &str) -> FormatError {
        FormatError::MissingPart { path: self.path().to_owned(), name: part.to_owned() }
    }
}

impl ComponentFiles {
    /// The configuration as any type.
    ///
    /// # Errors
    /// [`FormatError`] naming the file, and the field, at fault.
    pub fn config<T: DeserializeOwned>(&self) -> Result<T, FormatError> {
        let (single, component) = match self {
            Self::Folder(folder) if folder.is_file() => return Err(FormatError::NotAFolder { path: folder.clone() }),
            Self::Folder(_) => return read_json(&self.config_path()),
            Self::Part(single, component) => (single, component),
        };
        let configs = &single.contents.configs;
        let config = match component {
            Component::Unet => &configs.unet,
            Component::Vae => &configs.vae,
            Component::TextEncoder => &configs.text_encoder,
        };
        let config = config.clone().ok_or_else(|| single.missing(component.folder()))?;
        serde_path_to_error::deserialize(config).map_err(|error| FormatError::Json {
            path: single.path().to_owned(),
            field: error.path().to_string(),
            source: error.into_inner(),
        })
    }

    /// `config.json`, or the single file in its place.
    pub fn config_path(&self) -> PathBuf {
        match self {
            Self::Folder(folder) => folder.join("config.json"),
            Self::Part(single, _) => single.path().to_owned(),
        }
    }

    /// The files that decide what it computes: weights and settings.
    ///
    /// # Errors
    /// As [`ComponentFiles::weights`].
    pub fn files(&self) -> Result<Vec<PathBuf>, FormatError> {
        let settings = match self {
            Self::Folder(folder) => settings_files(folder),
            Self::Part(..) => Vec::new(),
        };
        Ok([settings, self.weights()?.paths()].concat())
    }

    /// The tensors, by the names of a folder.
    ///
    /// # Errors
    /// As [`weights_file`] and [`Weights::open`].
    pub fn weights(&self) -> Result<Weights, FormatError> {
        match self {
            Self::Folder(folder) => Weights::open(&weights_file(folder)?),
            Self::Part(single, component) => {
                let plans = single.contents.plans.iter().filter(|plan| plan.component == *component);
                let source = Source::File(single.file.clone());
                Ok(Weights::planned(single.path(), vec![source], plans.cloned().map(|plan| (0, plan))))
            }
        }
    }
}

impl From<&Path> for ComponentFiles {
    fn from(folder: &Path) -> Self {
        Self::Folder(folder.to_owned())
    }
}

impl From<&str> for ComponentFiles {
    fn from(folder: &str) -> Self {
        Self::Folder(folder.into())
    }
}

impl From<&PathBuf> for ComponentFiles {
    fn from(folder: &PathBuf) -> Self {
        Self::Folder(folder.clone())
    }
}

impl From<&ComponentFiles> for ComponentFiles {
    fn from(files: &ComponentFiles) -> Self {
        files.clone()
    }
}

/// What decides, beside its weights, what a component computes; each has a few of them.
const SETTINGS: [&str; 9] = [
    "config.json",
    "scheduler_config.json",
    "preprocessor_config.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
];

/// The settings files that a folder has: configurations and a tokenizer's tables.
pub fn settings_files(folder: &Path) -> Vec<PathBuf> {
    SETTINGS.iter().map(|name| folder.join(name)).filter(|path| path.is_file()).collect()
}

/// An autoencoder by itself: its folder, that of a whole model, or a file, which may be the weights of a folder.
fn autoencoder(path: &Path) -> Result<ComponentFiles, FormatError> {
    let beside = path.parent().filter(|folder| path.is_file() && folder.join("config.json").is_file());
    let folder = match (path.is_file(), beside) {
        (true, Some(folder)) if weights_file(folder).is_ok_and(|file| file == path) => folder.to_owned(),
        (true, _) => {
            let single = OpenSingleFile::open(path, SingleFileOptions::default())?;
            return OpenSingleFile::part(&Arc::new(single), Component::Vae);
        }
        (false, _) if path.join("vae").is_dir() => path.join("vae"),
        (false, _) => path.to_owned(),
    };
    let config: Value = read_json(&folder.join("config.json"))?;
    match config.get("_class_name").and_then(Value::as_str) {
        Some(class) if class != "AutoencoderKL" => {
            Err(FormatError::Class { path: folder, found: class.to_owned(), expected: "AutoencoderKL" })
        }
        _ => Ok(ComponentFiles::Folder(folder)),
    }
}
