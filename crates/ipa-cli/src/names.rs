//! Published weights by name, where a path may stand: what `ipa fetch` got is found in the cache, nothing is downloaded.

use std::path::{Path, PathBuf};

use anyhow::Result;
use ipa_hub::{Hub, Set, Sets};
use ipa_sample::GenerateRequest;

use crate::args::{AdapterArgs, ModelArgs};
use crate::model::POCKET;

/// Whether a path is a name: of the model in this program, or of published weights, and of nothing that is there.
pub(crate) fn is_name(path: &Path) -> bool {
    path == Path::new(POCKET) || set(&Sets::bundled(), path).is_some()
}

/// What a path names: itself, or the weights of that name in the cache.
///
/// # Errors
/// [`ipa_hub::HubError`] if weights of that name are known and were not fetched.
pub(crate) fn found(path: &Path) -> Result<PathBuf> {
    match set(&Sets::bundled(), path) {
        Some(set) => Ok(Hub::from_env()?.local(set)?.path),
        None => Ok(path.to_owned()),
    }
}

/// The set that a path names, if nothing is there.
fn set<'a>(sets: &'a Sets, path: &Path) -> Option<&'a Set> {
    let name = path.to_str().filter(|_| !path.exists())?;
    sets.get(name).ok()
}

impl ModelArgs {
    /// Puts paths in place of the names of published weights; the base model keeps its name, which records repeat.
    ///
    /// # Errors
    /// As [`found`].
    pub(crate) fn find(&mut self) -> Result<()> {
        [&mut self.vae, &mut self.image_encoder].into_iter().try_for_each(find)
    }
}

impl AdapterArgs {
    /// Puts paths in place of the names of published weights; an adapter brings the name of its image encoder.
    ///
    /// # Errors
    /// As [`found`].
    pub(crate) fn find(&mut self, model: &mut ModelArgs) -> Result<()> {
        if let (None, Some(adapter)) = (&model.image_encoder, &self.adapter) {
            model.image_encoder = encoder_of(adapter);
        }
        [&mut self.adapter, &mut self.lora].into_iter().try_for_each(find)?;
        model.find() // last: what fetches the adapter fetches its encoder too
    }
}

/// Puts paths in place of names in the entries of a request, whose paths lie in `folder`: a name is one that lies in it.
///
/// # Errors
/// As [`found`].
pub(crate) fn find_in(request: &mut GenerateRequest, folder: &Path) -> Result<()> {
    for source in request.image_prompts.iter_mut().filter_map(|spec| spec.adapter.as_mut()) {
        for path in [Some(&mut source.file), source.lora.as_mut(), source.image_encoder.as_mut()].into_iter().flatten()
        {
            let name = path.strip_prefix(folder).ok().filter(|name| !path.exists() && is_name(name));
            if let Some(name) = name.map(Path::to_owned) {
                *path = name;
            }
        }
        source.image_encoder = source.image_encoder.take().or_else(|| encoder_of(&source.file));
        find(&mut source.image_encoder)?;
        find(&mut source.lora)?;
        source.file = found(&source.file)?;
    }
    Ok(())
}

fn find(path: &mut Option<PathBuf>) -> Result<()> {
    if let Some(path) = path {
        *path = found(path)?;
    }
    Ok(())
}

/// Name of the image encoder that an adapter by name needs.
fn encoder_of(adapter: &Path) -> Option<PathBuf> {
    let sets = Sets::bundled();
    set(&sets, adapter)?.image_encoder().map(PathBuf::from)
}
