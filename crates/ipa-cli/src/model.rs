//! From the name of a model to its files.

#[cfg(feature = "pocket")]
mod unpack;

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use ipa_formats::{ModelFiles, ModelOptions};

use crate::names;

/// The name of the model inside this program.
pub(crate) const POCKET: &str = "pocket";

/// A model's files and what came with them.
#[derive(Debug, Clone)]
pub(crate) struct ModelSource {
    /// A diffusers-style folder or a single file.
    pub(crate) files: ModelFiles,
    /// The adapter that comes with the model, if one does.
    pub(crate) adapter: Option<PathBuf>,
}

/// The model that `--model` names: `pocket`, a folder or a single file, or published weights in the cache.
///
/// # Errors
/// If there is none, or the bundled model cannot be unpacked.
pub(crate) fn resolve(name: &str, options: ModelOptions) -> Result<ModelSource> {
    let path = if name == POCKET { pocket()? } else { names::found(Path::new(name))? };
    if !path.exists() {
        bail!(
            "there is no model {name}: give the path of a diffusers-style folder or a single file, `{POCKET}`, or a name \
             that `ipa fetch --list` shows"
        );
    }
    let adapter = (name == POCKET).then(|| path.join("ip_adapter.safetensors")).filter(|file| file.is_file());
    Ok(ModelSource { files: ModelFiles::open_with(&path, options)?, adapter })
}

/// The model inside this program, as it is.
///
/// # Errors
/// As [`resolve`].
pub(crate) fn bundled() -> Result<ModelSource> {
    resolve(POCKET, ModelOptions::default())
}

/// Whether this program carries the pocket model.
pub(crate) fn has_pocket() -> bool {
    #[cfg(feature = "pocket")]
    return unpack::is_there();
    #[cfg(not(feature = "pocket"))]
    return false;
}

/// The folder of the pocket model, unpacked if need be.
fn pocket() -> Result<PathBuf> {
    if !has_pocket() {
        bail!("this program was built without the pocket model: build it with the feature `pocket`, or name a folder");
    }
    #[cfg(feature = "pocket")]
    return unpack::unpacked();
    #[cfg(not(feature = "pocket"))]
    unreachable!("there is none");
}
