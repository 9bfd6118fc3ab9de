//! Where the cosines of the CLIP that scores lie: between strangers, and between pictures of one thing.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use image::RgbImage;
use ipa_clip::{ClipModel, load_image};
use ipa_metrics::Calibration;
use ipa_metrics::protocol::is_image;
use ipa_pocket::{Scene, Split, render};

use crate::failure::UsageError;
use crate::model::POCKET;
use crate::scores::{cosine, picture_embedding, picture_embeddings};

/// Things of the drawn world that are compared, each with another picture of it and with the next thing.
const NUM_THINGS: u64 = 64;
/// A row of scenes that no test is of.
const SEED: u64 = 7;
const SIDE: u32 = 64;

/// A scale with what it rests on.
#[derive(Debug)]
pub(crate) struct Calibrated {
    pub(crate) calibration: Option<Calibration>,
    pub(crate) origin: String,
}

/// Measures on the pictures of a folder, else on the drawn world if that is what the model draws.
///
/// # Errors
/// If a picture cannot be read; if pictures of one thing are no more alike than others.
pub(crate) fn measure(folder: Option<&Path>, model: &str, clip: &ClipModel) -> Result<Calibrated> {
    match folder {
        Some(folder) => {
            let things = things(folder)?;
            let num: usize = things.iter().map(Vec::len).sum();
            let origin = format!("measured on {num} pictures of {} things", things.len());
            let embed = |files: &Vec<PathBuf>| {
                files.iter().map(|file| Ok(picture_embedding(clip, &load_image(file)?))).collect()
            };
            let embedded: Vec<Vec<Vec<f32>>> = things.iter().map(embed).collect::<Result<_>>()?;
            let calibration = scale(&embedded).with_context(|| format!("{} calibrates nothing", folder.display()))?;
            Ok(Calibrated { calibration: Some(calibration), origin })
        }
        None if model == POCKET => {
            let pictures: Vec<RgbImage> =
                (0..NUM_THINGS).flat_map(two_of_a_thing).map(|scene| render(&scene, SIDE)).collect();
            let embedded = picture_embeddings(clip, &pictures);
            let embedded: Vec<Vec<Vec<f32>>> = embedded.chunks(2).map(<[_]>::to_vec).collect();
            // A CLIP that knows nothing of this world has no such scale.
            let calibration = scale(&embedded).ok();
            let origin = match calibration {
                Some(_) => format!("measured on two pictures of each of {NUM_THINGS} things of the drawn world"),
                None => "none: this CLIP finds pictures of one thing of the drawn world no more alike".to_owned(),
            };
            Ok(Calibrated { calibration, origin })
        }
        None => Ok(Calibrated { calibration: None, origin: "not measured; `--calibration` does".to_owned() }),
    }
}

/// Pictures of one thing are pairs within it, and each thing counts as their mean; strangers are the first pictures of two
/// things that follow one another.
fn scale(things: &[Vec<Vec<f32>>]) -> Result<Calibration> {
    let (mut real, mut shuffled) = (Vec::new(), Vec::new());
    for (index, thing) in things.iter().enumerate() {
        let pairs = thing
            .iter()
            .enumerate()
            .flat_map(|(place, first)| thing[place + 1..].iter().map(move |second| (first, second)));
        let cosines = pairs.map(|(first, second)| cosine(first, second)).collect::<Result<Vec<_>, _>>()?;
        real.push(cosines.iter().sum::<f64>() / cosines.len() as f64);
        shuffled.push(cosine(&thing[0], &things[(index + 1) % things.len()][0])?);
    }
    Ok(Calibration::new(&shuffled, &real)?)
}

/// The same shape, colour, fill and style, alone, at the sizes, places and backgrounds of two scenes.
fn two_of_a_thing(index: u64) -> [Scene; 2] {
    let [one, other] = [2 * index, 2 * index + 1].map(|index| Scene::draw_at(SEED, index, Split::HeldOut));
    let mut again = other.main().clone();
    let main = one.main();
    (again.shape, again.color, again.tint, again.fill) = (main.shape, main.color, main.tint, main.fill);
    let again = Scene { style: one.style, objects: vec![again], ..other };
    [Scene { objects: vec![main.clone()], ..one.clone() }, again]
}

/// Pictures by the folders below a folder, each of one thing.
fn things(folder: &Path) -> Result<Vec<Vec<PathBuf>>> {
    let entries = |folder: &Path| -> Result<Vec<PathBuf>> {
        let unreadable = || format!("cannot read the folder {}; check that it exists", folder.display());
        let entries = fs::read_dir(folder).with_context(unreadable)?;
        let mut paths: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
        paths.sort();
        Ok(paths)
    };
    let mut things = Vec::new();
    for thing in entries(folder)?.into_iter().filter(|path| path.is_dir()) {
        let pictures: Vec<PathBuf> = entries(&thing)?.into_iter().filter(|path| is_image(path)).collect();
        if pictures.len() < 2 {
            bail!("{} has fewer than two pictures: put pictures of one thing into each folder", thing.display());
        }
        things.push(pictures);
    }
    match things.len() {
        0 | 1 => Err(UsageError(format!(
            "`--calibration` {} has {} folders: give one with a folder of pictures for each of several things",
            folder.display(),
            things.len()
        ))
        .into()),
        _ => Ok(things),
    }
}
