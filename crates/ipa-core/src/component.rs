//! Loading one model from its published folder, or from its part of a single-file checkpoint.

use std::path::Path;

use ipa_formats::ComponentFiles;
use serde::de::DeserializeOwned;
use tch::{Device, Kind, nn};

use crate::{Checkpoint, WeightsError};

/// The sizes of a model, or the settings of a sampler, as a published JSON file gives them.
pub trait Config: DeserializeOwned {
    /// Refuses what this project's code does not compute.
    ///
    /// # Errors
    /// One sentence that names the field and its value.
    fn check(&self) -> Result<(), String>;
}

/// A loaded model with its sizes and its variables.
#[derive(Debug)]
pub struct Component<C, M> {
    /// Sizes.
    pub config: C,
    /// The model; frozen.
    pub model: M,
    /// Its variables by name.
    pub vs: nn::VarStore,
}

/// Loads a published folder, or a part of a single file, strictly, converted to `kind` on `device`; nothing in it requires a gradient.
///
/// `model_name` maps a tensor's name in the file to its name in the model, `None` for tensors to be left out.
///
/// # Errors
/// [`WeightsError`] naming the file, and the field or tensor, at fault.
pub fn load_component<C: Config, M>(
    files: &ComponentFiles,
    (device, kind): (Device, Kind),
    model_name: impl Fn(&str) -> Option<String>,
    build: impl FnOnce(nn::Path, &C) -> M,
) -> Result<Component<C, M>, WeightsError> {
    let config: C = read_config(files)?;
    let mut vs = nn::VarStore::new(device);
    vs.set_kind(kind);
    let model = build(vs.root(), &config);
    Checkpoint::of(files.weights()?).renamed(model_name).load_into(&vs)?;
    Ok(Component { config, model, vs })
}

/// Reads and checks a model's configuration.
///
/// # Errors
/// [`WeightsError`] naming the file and the field at fault.
pub fn read_config<C: Config>(files: impl Into<ComponentFiles>) -> Result<C, WeightsError> {
    let files = files.into();
    checked(files.config()?, &files.config_path())
}

/// As [`read_config`] for a file of another name.
///
/// # Errors
/// As [`read_config`].
pub fn read_config_file<C: Config>(path: &Path) -> Result<C, WeightsError> {
    checked(ipa_formats::read_json(path)?, path)
}

fn checked<C: Config>(config: C, path: &Path) -> Result<C, WeightsError> {
    match config.check() {
        Ok(()) => Ok(config),
        Err(reason) => Err(WeightsError::Config { path: path.into(), reason }),
    }
}

/// Every tensor under its own name.
pub fn same_name(name: &str) -> Option<String> {
    Some(name.to_owned())
}
