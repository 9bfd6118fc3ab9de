//! What is drawn.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use image::RgbImage;
use ipa::load_image;
use ipa::pocket::{Scene, Split, caption, render};
use serde_json::Value;

/// Scenes that nothing was trained on and that the model's own scores do not use.
const FIRST_SCENE: u64 = 200_000;

/// A reference and what is said beside it.
pub(crate) struct Case {
    pub(crate) reference: RgbImage,
    pub(crate) prompt: String,
    /// What it shows, where that is known.
    pub(crate) scene: Option<Scene>,
}

/// Held-out scenes with captions that leave out some of what is seen.
pub(crate) fn drawn_world(num: usize, side: u32) -> Vec<Case> {
    let case = |index: u64| {
        let scene = Scene::draw_at(0, index, Split::HeldOut);
        Case { reference: render(&scene, side), prompt: caption(&scene, 0, index), scene: Some(scene) }
    };
    (FIRST_SCENE..FIRST_SCENE + num as u64).map(case).collect()
}

/// Pictures and captions of a list, as `ipa train` reads it.
pub(crate) fn read(data: &Path, num: usize) -> Result<Vec<Case>> {
    let folder = data.parent().unwrap_or(Path::new(""));
    let text = fs::read_to_string(data).with_context(|| format!("cannot read {}", data.display()))?;
    let rows: Vec<Value> = serde_json::from_str(&text).with_context(|| format!("{} is no list", data.display()))?;
    let word = |row: &Value, field: &str| {
        row[field].as_str().map(str::to_owned).with_context(|| format!("a row of {} has no `{field}`", data.display()))
    };
    let case = |row: &Value| {
        let reference = load_image(&folder.join(word(row, "image_file")?))?;
        Ok(Case { reference, prompt: word(row, "text")?, scene: None })
    };
    rows.iter().take(num).map(case).collect()
}
