//! From the name of a model to its folder.

#[cfg(feature = "pocket")]
mod bundled;

use std::path::PathBuf;

use anyhow::{Result, bail};

/// The name of the model inside this program.
pub(crate) const POCKET: &str = "pocket";

/// A model's folder and what came with it.
#[derive(Debug, Clone)]
pub(crate) struct ModelSource {
    /// A diffusers-style folder.
    pub(crate) folder: PathBuf,
    /// The adapter that comes with the model, if one does.
    pub(crate) adapter: Option<PathBuf>,
}

/// The model that `--model` names: `pocket`, or a folder.
///
/// # Errors
/// If there is no such folder, or the bundled model cannot be unpacked.
pub(crate) fn resolve(name: &str) -> Result<ModelSource> {
    if name == POCKET {
        let folder = pocket()?;
        let adapter = Some(folder.join("ip_adapter.safetensors")).filter(|file| file.is_file());
        return Ok(ModelSource { folder, adapter });
    }
    let folder = PathBuf::from(name);
    if folder.is_file() {
        bail!("{name} is a file: give a diffusers-style model folder, or `{POCKET}`; single files are not read yet");
    }
    if !folder.is_dir() {
        bail!("there is no model {name}: give the path of a diffusers-style model folder, or `{POCKET}`");
    }
    Ok(ModelSource { folder, adapter: None })
}

/// Whether this program carries the pocket model.
pub(crate) fn has_pocket() -> bool {
    #[cfg(feature = "pocket")]
    return bundled::is_there();
    #[cfg(not(feature = "pocket"))]
    return false;
}

/// The folder of the pocket model, unpacked if need be.
fn pocket() -> Result<PathBuf> {
    if !has_pocket() {
        bail!("this program was built without the pocket model: build it with the feature `pocket`, or name a folder");
    }
    #[cfg(feature = "pocket")]
    return bundled::unpacked();
    #[cfg(not(feature = "pocket"))]
    unreachable!("there is none");
}
