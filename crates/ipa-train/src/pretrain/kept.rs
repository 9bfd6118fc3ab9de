//! Tensors that are computed from frozen weights and scenes once, and kept beside a stage's state.

use std::path::Path;

use ipa_core::tch::Tensor;
use ipa_core::{Checkpoint, WeightsError, save_tensors};
use ipa_formats::{METADATA_KEY, sha256_file};
use ipa_pocket::{Scene, Split};
use serde_json::{Value, json};

use super::Recipe;

const TENSOR: &str = "tensor";

/// What `path` holds if it came from these weights and scenes, otherwise what `make` gives, which is kept there.
///
/// # Errors
/// [`WeightsError`] if a file cannot be read or written.
pub(super) fn kept(
    path: &Path,
    weights: &Path,
    recipe: &Recipe,
    make: impl FnOnce() -> Tensor,
) -> Result<Tensor, WeightsError> {
    let origin = origin(weights, recipe)?;
    if path.exists() {
        let checkpoint = Checkpoint::open(path)?;
        if checkpoint.metadata().get(METADATA_KEY) == Some(&origin.to_string()) {
            return checkpoint.tensor(TENSOR);
        }
    }
    let tensor = make();
    save_tensors(path, [(TENSOR.to_owned(), tensor.shallow_clone())], Some(&origin))?;
    Ok(tensor)
}

/// The first scenes stand for how all are drawn.
fn origin(weights: &Path, recipe: &Recipe) -> Result<Value, WeightsError> {
    let scenes: Vec<Scene> = (0..16).map(|index| Scene::draw_at(recipe.seed, index, Split::Train)).collect();
    Ok(json!({
        "weights": sha256_file(weights)?, "seed": recipe.seed, "size": recipe.size, "num_scenes": recipe.num_scenes,
        "scenes": scenes,
    }))
}
