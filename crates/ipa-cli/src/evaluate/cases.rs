//! References and what to make of them: named in a tests file, listed as for training, or scenes of the drawn world.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use image::RgbImage;
use ipa_metrics::evaluation::{Set, Skipped};
use ipa_pocket::{Scene, Split};
use serde::Deserialize;

use super::listed;
use crate::images;

/// Side of the drawn world's pictures in pixels.
const SIDE: u32 = 64;

/// A reference and what to make of it.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) reference: RgbImage,
    /// May be empty.
    pub(crate) prompt: String,
    /// What the reference shows, where that is known to the pixel.
    pub(crate) scene: Option<Scene>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TestsFile {
    case: Vec<TestsCase>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TestsCase {
    image: PathBuf,
    prompt: String,
}

/// What the test of that number, counted from 0, is called.
pub(crate) fn test_name(index: usize) -> String {
    format!("test {}", index + 1)
}

/// The `[[case]]` tables of a TOML file.
///
/// # Errors
/// If the file or a picture in it cannot be read.
pub(crate) fn from_tests(path: &Path) -> Result<Vec<Case>> {
    let text = ipa_formats::read_text(path)?;
    let tests: TestsFile = toml::from_str(&text).with_context(|| format!("{} is not a tests file", path.display()))?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let case = |(index, test): (usize, TestsCase)| {
        let reference = images::load(&[folder.join(test.image)])?.swap_remove(0);
        Ok(Case { name: test_name(index), reference, prompt: test.prompt, scene: None })
    };
    tests.case.into_iter().enumerate().map(case).collect()
}

/// The first rows of a list of pictures that can be used, and those that cannot.
///
/// # Errors
/// As [`listed::read`].
pub(crate) fn from_data(path: &Path, set: Set, limit: usize) -> Result<(Vec<Case>, Vec<Skipped>)> {
    let mut cases = Vec::new();
    let (_, skipped) = listed::read(path, set, limit, |(_, row), sample, reference| {
        let is_known = cases.iter().any(|case: &Case| case.name == sample.key);
        let name = match (set, is_known) {
            (Set::Tests, _) => test_name(row),
            (_, true) => format!("{} {}", sample.key, row + 1), // the same picture with another caption
            (_, false) => sample.key,
        };
        cases.push(Case { name, reference, prompt: sample.text, scene: None });
        Ok(())
    })?;
    Ok((cases, skipped))
}

/// Held-out scenes of the drawn world; the prompts leave out what the reference shows.
pub(crate) fn from_world(num: usize) -> Vec<Case> {
    let case = |index| {
        let scene = Scene::draw_at(0, index as u64, Split::HeldOut);
        let prompt = ipa_pocket::caption(&scene, 0, index as u64);
        let reference = ipa_pocket::render(&scene, SIDE);
        Case { name: test_name(index), reference, prompt, scene: Some(scene) }
    };
    (0..num).map(case).collect()
}
