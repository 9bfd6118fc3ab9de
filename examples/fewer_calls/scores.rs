//! From pictures to a table.

use std::fmt::Write as _;

use anyhow::Result;
use image::RgbImage;
use ipa::clip::ClipModel;
use ipa::metrics::{Interval, bootstrap_mean, paired_difference, psnr};
use ipa::pocket::judge;
use ipa::sample::UnetCall;
use ipa::train::pretrain::scores::cosines;
use ipa::unet::{CallSize, UnetConfig};
use serde_json::{Value, json};

use crate::cases::Case;
use crate::ways::Way;

const RESAMPLING_SEED: u64 = 0;
/// Of equal pictures, so that means stay numbers; a level apart everywhere is 48 dB.
const MAX_PSNR: f64 = 60.0;

/// What a way drew.
pub(crate) struct Drawn {
    pub(crate) way: Way,
    pub(crate) pictures: Vec<RgbImage>,
    /// Of each picture.
    pub(crate) calls: Vec<UnetCall>,
}

/// What was found, the plain way first.
pub(crate) struct Table {
    pub(crate) rows: Vec<Value>,
    lines: String,
}

/// A case each.
struct Scores {
    clip_i: Vec<f64>,
    clip_t: Vec<f64>,
    judged: Vec<f64>,
}

/// Scores every way, and its differences from the first.
///
/// # Errors
/// If an embedding is no direction.
pub(crate) fn table(clip: &ClipModel, unet: &UnetConfig, cases: &[Case], drawn: &[Drawn]) -> Result<Table> {
    let references: Vec<RgbImage> = cases.iter().map(|case| case.reference.clone()).collect();
    let captions: Vec<&str> = cases.iter().map(|case| case.prompt.as_str()).collect();
    let (references, captions) = (clip.image_embeds(&references), clip.text_embeds(&captions)?);
    let plain = &drawn[0];
    let mut found: Vec<Scores> = Vec::new();
    let mut table = Table { rows: Vec::new(), lines: String::new() };
    for Drawn { way, pictures, calls } in drawn {
        let embeds = clip.image_embeds(pictures);
        let (clip_i, clip_t) = (cosines(&embeds, &references)?, cosines(&embeds, &captions)?);
        found.push(Scores { clip_i, clip_t, judged: cases.iter().zip(pictures).map(judged).collect() });
        let (first, own) = (&found[0], &found[found.len() - 1]);
        let distances = |distance: fn(&RgbImage, &RgbImage) -> f64| -> Result<Interval> {
            let each: Vec<f64> = pictures.iter().zip(&plain.pictures).map(|(a, b)| distance(a, b)).collect();
            Ok(bootstrap_mean(&each, RESAMPLING_SEED)?)
        };
        let (levels, decibels) =
            (distances(mean_difference)?, distances(|a, b| psnr(a, b).map_or(0.0, |db| db.min(MAX_PSNR)))?);
        let share = |config: &UnetConfig, side| work(calls, config, side) / work(&plain.calls, config, side);
        let own_share = share(unet, unet.sample_size.unwrap_or(64));
        let sd15 = share(&UnetConfig::sd15(), 64);
        let measure = |of: fn(&Scores) -> &Vec<f64>| -> Result<(Interval, Interval)> {
            let difference = paired_difference(of(first), of(own), RESAMPLING_SEED)?;
            Ok((bootstrap_mean(of(own), RESAMPLING_SEED)?, difference))
        };
        let [clip_i, clip_t, judged] =
            [measure(|scores| &scores.clip_i)?, measure(|scores| &scores.clip_t)?, measure(|scores| &scores.judged)?];
        table.rows.push(json!({
            "way": way.name, "request": way.request, "share": own_share, "share_sd15_512": sd15, "calls": calls.len(),
            "clip_i": clip_i, "clip_t": clip_t, "judged": judged, "mean_difference": levels, "psnr": decibels,
        }));
        let points = |(mean, difference): &(Interval, Interval), factor: f64, digits: usize| {
            let Interval { low, high, .. } = difference;
            format!("{:.digits$} ({:+.digits$} to {:+.digits$})", mean.mean * factor, low * factor, high * factor)
        };
        let (i, t, judged) = (points(&clip_i, 1.0, 3), points(&clip_t, 1.0, 3), points(&judged, 100.0, 1));
        let name = &way.name;
        writeln!(
            table.lines,
            "| {name} | {sd15:.2} | {own_share:.2} | {i} | {t} | {judged} | {:.1} | {:.1} |",
            levels.mean, decibels.mean
        )?;
    }
    Ok(table)
}

impl Table {
    /// For a document.
    pub(crate) fn markdown(&self) -> String {
        let head = "| way | arithmetic, SD 1.5 at 512 px | this model | CLIP-I | CLIP-T | judged right, % | levels of 255 | PSNR, dB |";
        format!("{head}\n|{}\n{}", "---|".repeat(8), self.lines)
    }
}

/// Operations of the UNet for one picture; four image tokens.
fn work(calls: &[UnetCall], config: &UnetConfig, side: i64) -> f64 {
    let size = CallSize { batch: 1, latents: (side, side), text_tokens: 77, image_tokens: 4 };
    calls.iter().flat_map(|call| call.operations(config, size)).map(|operation| operation.flop).sum()
}

/// Share of what the pixel judges ask, of main object and background, that is as in the scene; 0 without one.
fn judged((case, picture): (&Case, &RgbImage)) -> f64 {
    let Some(scene) = &case.scene else { return 0.0 };
    let found = judge(picture).agreement(scene);
    let asked = [found.background, found.color, found.shape, found.fill, found.style];
    asked.iter().filter(|&&right| right).count() as f64 / asked.len() as f64
}

/// Mean absolute difference, in levels of 255.
fn mean_difference(a: &RgbImage, b: &RgbImage) -> f64 {
    let each = a.as_raw().iter().zip(b.as_raw());
    each.map(|(a, b)| f64::from(a.abs_diff(*b))).sum::<f64>() / a.as_raw().len() as f64
}
