//! What is drawn of every arm, and how it is judged.

use std::ops::ControlFlow;

use anyhow::Result;
use image::RgbImage;
use ipa::clip::ClipModel;
use ipa::pocket::{Background, Scene, Split, caption, judge, judged_caption, render};
use ipa::train::pretrain::scores::cosines;
use ipa::{GenerateRequest, Pipeline};
use serde::{Deserialize, Serialize};

use crate::results::Drawing;

/// Side of the pocket model's pictures.
pub(crate) const SIDE: u32 = 64;
/// Scenes that no training, no score of the model and no other example draws.
const FIRST_SCENE: u64 = 300_000;
/// λ of every arm.
pub(crate) const SCALE: f64 = 1.0;
/// λ beside that, of the default.
pub(crate) const SWEPT: [f64; 6] = [0.0, 0.25, 0.5, 0.75, 1.5, 2.0];
/// In what.
pub(crate) const SWEPT_IN: [Condition; 2] = [Condition::Image, Condition::Edit];

/// What a picture is drawn from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Condition {
    /// The reference; without an image a caption that names all that is judged.
    Image,
    /// The reference and a caption of it that leaves something out, as in training.
    Both,
    /// The reference and a text that asks for another background.
    Edit,
}

impl Condition {
    pub(crate) const ALL: [Self; 3] = [Self::Image, Self::Both, Self::Edit];

    /// What CLIP-T compares with, and what the text, if any, says.
    fn text(self, case: &Case) -> String {
        match self {
            Self::Image => judged_caption(&case.scene),
            Self::Both => caption(&case.scene, 0, case.index),
            Self::Edit => format!("a shape on a {} background", case.other_background().word()),
        }
    }

    /// What should be seen.
    fn wanted(self, case: &Case) -> Scene {
        match self {
            Self::Image | Self::Both => case.scene.clone(),
            Self::Edit => Scene { background: case.other_background(), ..case.scene.clone() },
        }
    }
}

/// A reference of a held-out combination.
#[derive(Debug)]
pub(crate) struct Case {
    index: u64,
    scene: Scene,
    pub(crate) reference: RgbImage,
}

impl Case {
    fn other_background(&self) -> Background {
        Background::ALL[(self.scene.background as usize + 1) % Background::ALL.len()]
    }
}

/// The references, the same for every arm and seed.
pub(crate) fn cases(num: usize) -> Vec<Case> {
    let case = |index: u64| {
        let scene = Scene::draw_at(0, index, Split::HeldOut);
        Case { index, reference: render(&scene, SIDE), scene }
    };
    (FIRST_SCENE..).take(num).map(case).collect()
}

/// What judges and what it judges.
pub(crate) struct Studio<'a> {
    pub(crate) pipeline: &'a Pipeline,
    pub(crate) clip: &'a ClipModel,
    pub(crate) cases: &'a [Case],
    pub(crate) num_steps: usize,
    /// Whether the references are shown.
    pub(crate) sees: bool,
}

impl Studio<'_> {
    /// Draws every case in a condition, and judges.
    ///
    /// # Errors
    /// If drawing or scoring fails.
    pub(crate) fn draw(&self, condition: Condition, scale: f64) -> Result<(Drawing, Vec<RgbImage>)> {
        let pictures =
            self.cases.iter().map(|case| self.draw_one(condition, scale, case)).collect::<Result<Vec<_>>>()?;
        let references: Vec<RgbImage> = self.cases.iter().map(|case| case.reference.clone()).collect();
        let texts: Vec<String> = self.cases.iter().map(|case| condition.text(case)).collect();
        let texts = self.clip.text_embeds(&texts.iter().map(String::as_str).collect::<Vec<_>>())?;
        let embeds = self.clip.image_embeds(&pictures);
        let drawing = Drawing {
            condition,
            scale,
            clip_i: rounded(cosines(&embeds, &self.clip.image_embeds(&references))?),
            clip_t: rounded(cosines(&embeds, &texts)?),
            judged: self.cases.iter().zip(&pictures).map(|(case, picture)| judged(condition, case, picture)).collect(),
        };
        Ok((drawing, pictures))
    }

    fn draw_one(&self, condition: Condition, scale: f64, case: &Case) -> Result<RgbImage> {
        let prompt = match (condition, self.sees) {
            (Condition::Image, true) => String::new(),
            _ => condition.text(case),
        };
        let seed = case.index; // of all arms and trainings alike: what differs is what was trained
        let request = GenerateRequest { prompt, seed, scale, num_steps: self.num_steps, ..GenerateRequest::default() };
        let references = if self.sees { std::slice::from_ref(&case.reference) } else { &[] };
        let mut generated = self.pipeline.generate(&request, references, |_| ControlFlow::Continue(()))?;
        Ok(generated.pictures.swap_remove(0))
    }
}

/// Colour, shape, fill, style and background, in this order from the lowest bit.
fn judged(condition: Condition, case: &Case, picture: &RgbImage) -> u8 {
    let found = judge(picture).agreement(&condition.wanted(case));
    let right = [found.color, found.shape, found.fill, found.style, found.background];
    right.iter().enumerate().map(|(bit, right)| u8::from(*right) << bit).sum()
}

/// As many digits as mean something, so that the raw numbers stay small.
fn rounded(values: Vec<f64>) -> Vec<f64> {
    values.into_iter().map(|value| (value * 1e4).round() / 1e4).collect()
}
