//! Numbers of the drawn pictures.

use std::collections::BTreeMap;
use std::path::Path;

use image::{RgbImage, imageops};
use ipa_clip::preprocess::{Filter, resize};
use ipa_clip::{ClipError, ClipModel};
use ipa_core::tch::{Device, Kind, Tensor};
use ipa_formats::ModelFiles;
use ipa_metrics::ssim;

use super::{Shown, ValidationError};
use crate::FrozenModels;
use crate::pretrain::scores::{cosines, to_array};

/// The CLIP that scores: the folder named, else the model's own `clip`, if it has one.
///
/// # Errors
/// [`ClipError`] naming the file at fault.
pub fn scoring_clip(
    model: &ModelFiles,
    named: Option<&Path>,
    options: (Device, Kind),
) -> Result<Option<ClipModel>, ClipError> {
    let folder = named.map(Path::to_path_buf).or_else(|| model.folder("clip"));
    folder.map(|folder| ClipModel::load(&folder, options)).transpose()
}

/// Means over references with their standard errors, by name.
#[derive(Debug, Default)]
pub(super) struct Scores {
    pub(super) means: BTreeMap<String, f64>,
    pub(super) errors: BTreeMap<String, f64>,
}

impl Scores {
    fn add(&mut self, name: String, values: &[f64]) {
        let num = values.len() as f64;
        let mean = values.iter().sum::<f64>() / num;
        if !mean.is_finite() {
            return; // of nothing
        }
        if values.len() > 1 {
            let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (num - 1.0);
            self.errors.insert(name.clone(), (variance / num).sqrt());
        }
        self.means.insert(name, mean);
    }
}

/// What scores, with what it says of references and captions.
#[derive(Debug)]
pub(super) struct Scorer {
    references: Tensor,
    /// References with a caption, and what CLIP says of the captions.
    captioned: Vec<usize>,
    captions: Option<Tensor>,
}

impl Scorer {
    pub(super) fn new(models: &FrozenModels, references: &[Shown]) -> Result<Self, ValidationError> {
        let captioned = (0..references.len()).filter(|&index| !references[index].caption.trim().is_empty());
        let captioned: Vec<usize> = captioned.collect();
        let texts: Vec<&str> = captioned.iter().map(|&index| references[index].caption.as_str()).collect();
        let captions =
            models.scorer().filter(|_| !texts.is_empty()).map(|clip| clip.text_embeds(&texts)).transpose()?;
        let pictures: Vec<RgbImage> = references.iter().map(|shown| shown.picture.clone()).collect();
        let embeds = embeds(models, &pictures);
        Ok(Self { references: embeds, captioned, captions })
    }

    /// Scores pictures drawn from the references without text (`alone`) and with their captions.
    ///
    /// - `clip_i`: cosine of picture and reference, without text
    /// - `clip_t`: cosine of picture and caption
    /// - `prompt_sensitivity`: how far the caption moves the picture, 1 less the cosine of both
    /// - `copy`: structural similarity of picture and reference, without text; near 1 the reference was copied
    pub(super) fn scores(
        &self,
        models: &FrozenModels,
        references: &[Shown],
        alone: &[RgbImage],
        captioned: &[RgbImage],
    ) -> Result<Scores, ValidationError> {
        let named = |name: &str| name.to_owned() + if models.scorer().is_some() { "" } else { "_own_encoder" };
        let of = |pictures: &[RgbImage]| embeds(models, pictures);
        let (alone_embeds, caption_embeds) = (of(alone), of(captioned));
        let mut scores = Scores::default();
        scores.add(named("clip_i"), &cosines(&alone_embeds, &self.references)?);
        let positions: Vec<i64> = self.captioned.iter().map(|&index| index as i64).collect();
        let chosen =
            |embeds: &Tensor| embeds.index_select(0, &Tensor::from_slice(&positions).to_device(embeds.device()));
        if let Some(captions) = &self.captions {
            scores.add("clip_t".to_owned(), &cosines(&chosen(&caption_embeds), captions)?);
        }
        let (alone_embeds, caption_embeds) = (to_array(&chosen(&alone_embeds)), to_array(&chosen(&caption_embeds)));
        let moved = ipa_metrics::prompt_sensitivity(alone_embeds.view(), caption_embeds.view())?;
        scores.add(named("prompt_sensitivity"), &moved);
        let alike = alone.iter().zip(references).filter_map(|(picture, shown)| {
            ssim(picture, &covering(&shown.picture, picture.dimensions())).ok() // none of tiny pictures
        });
        scores.add("copy".to_owned(), &alike.collect::<Vec<_>>());
        Ok(scores)
    }
}

fn embeds(models: &FrozenModels, pictures: &[RgbImage]) -> Tensor {
    match models.scorer() {
        Some(clip) => clip.image_embeds(pictures),
        None => models.encoder().image_embeds(pictures),
    }
}

/// The middle of a picture at another size, all of which it covers: what is cut off is as little as can be.
fn covering(picture: &RgbImage, (width, height): (u32, u32)) -> RgbImage {
    let (from_width, from_height) = (f64::from(picture.width()), f64::from(picture.height()));
    let factor = (f64::from(width) / from_width).max(f64::from(height) / from_height);
    let side = |from: f64, to: u32| ((from * factor).round() as u32).max(to);
    let (full_width, full_height) = (side(from_width, width), side(from_height, height));
    let resized = resize(picture, full_width, full_height, Filter::Bilinear);
    imageops::crop_imm(&resized, (full_width - width) / 2, (full_height - height) / 2, width, height).to_image()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_score_has_its_mean_and_standard_error() {
        let mut scores = Scores::default();
        scores.add("many".to_owned(), &[1.0, 2.0, 3.0, 4.0]);
        scores.add("one".to_owned(), &[0.5]);
        scores.add("none".to_owned(), &[]);
        assert_eq!(scores.means, [("many".to_owned(), 2.5), ("one".to_owned(), 0.5)].into());
        assert_eq!(scores.errors, [("many".to_owned(), (5.0_f64 / 3.0 / 4.0).sqrt())].into());
    }

    #[test]
    fn a_wide_picture_keeps_its_middle() {
        let wide = RgbImage::from_fn(60, 20, |x, _| image::Rgb([if (20..40).contains(&x) { 200 } else { 0 }; 3]));
        let square = covering(&wide, (20, 20));
        assert_eq!(square, RgbImage::from_pixel(20, 20, image::Rgb([200; 3])));
        assert_eq!(covering(&wide, (40, 40)).dimensions(), (40, 40));
        assert_eq!(covering(&wide, (30, 10)).dimensions(), (30, 10));
    }
}
