//! Tensors that are computed from frozen weights and scenes once, and kept beside a stage's state.

use std::path::Path;

use image::RgbImage;
use ipa_core::tch::Tensor;
use ipa_core::{Checkpoint, WeightsError, save_tensors};
use ipa_formats::{METADATA_KEY, sha256_file, sha256_text};
use ipa_pocket::{Scene, Split, caption, render_many};
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

fn origin(weights: &Path, recipe: &Recipe) -> Result<Value, WeightsError> {
    Ok(json!({ "weights": sha256_file(weights)?, "num_scenes": recipe.num_scenes, "world": world(recipe) }))
}

/// The world that a recipe draws; the first scenes stand for how all are drawn and told.
pub(super) fn world(recipe: &Recipe) -> Value {
    let scenes: Vec<Scene> = (0..16).map(|index| Scene::draw_at(recipe.seed, index, Split::Train)).collect();
    let pixels: Vec<Vec<u8>> = render_many(&scenes, recipe.size).into_iter().map(RgbImage::into_raw).collect();
    let captions: Vec<String> = scenes.iter().map(|scene| caption(scene, recipe.seed, 0)).collect();
    let scenes = sha256_text(&format!("{pixels:?}{captions:?}"));
    json!({ "seed": recipe.seed, "size": recipe.size, "words": ipa_pocket::vocabulary(), "scenes": scenes })
}
