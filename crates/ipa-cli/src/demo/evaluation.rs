//! Before and after the training, on pictures of the subject that it did not see.

use anyhow::Result;
use image::RgbImage;
use ipa_clip::ClipModel;
use ipa_metrics::{Interval, bootstrap_mean, paired_difference};
use ipa_pocket::mascot;
use ipa_sample::{GenerateRequest, Pipeline};
use serde::Serialize;

use super::DemoArgs;
use super::pictures::SIDE;
use crate::{interrupt, progress, scores};

const NUM_REFERENCES: usize = 20;
const NUM_SEEDS: u32 = 3;
const NUM_STEPS: usize = 25;
const RESAMPLING_SEED: u64 = 0;

/// Held-out pictures of the subject.
#[derive(Debug)]
pub(crate) struct Subject {
    pub(crate) references: Vec<RgbImage>,
    pub(crate) captions: Vec<String>,
}

impl Subject {
    /// Twenty pictures of the pip that are not trained on.
    pub(crate) fn held_out() -> Self {
        let scenes = mascot::held_out(NUM_REFERENCES);
        Self {
            references: scenes.iter().map(|scene| mascot::render(scene, SIDE)).collect(),
            captions: scenes.iter().map(mascot::caption).collect(),
        }
    }
}

/// One measure before and after, over the references; several seeds of one reference count as their mean.
#[derive(Debug, Serialize)]
pub(crate) struct Measure {
    pub(crate) before: Interval,
    pub(crate) after: Interval,
    pub(crate) difference: Interval,
}

impl Measure {
    fn new(before: &[f64], after: &[f64]) -> Result<Self> {
        Ok(Self {
            before: bootstrap_mean(before, RESAMPLING_SEED)?,
            after: bootstrap_mean(after, RESAMPLING_SEED)?,
            difference: paired_difference(before, after, RESAMPLING_SEED)?,
        })
    }

    fn sentence(&self, what: &str) -> String {
        let Self { before, after, difference } = self;
        let verdict = if difference.excludes_zero() { "" } else { " (could be chance)" };
        format!("{what}: {:.3} before, {:.3} after, difference {difference:.3}{verdict}", before.mean, after.mean)
    }
}

/// What the training changed; pictures drawn at strength 1 without text.
#[derive(Debug, Serialize)]
pub(crate) struct Comparison {
    pub(crate) num_references: usize,
    pub(crate) num_seeds: u32,
    /// Cosine of picture and reference.
    pub(crate) clip_i: Measure,
    /// Share of pictures in which the pixel judge finds the subject's colours.
    pub(crate) subject_colors: Measure,
}

impl Comparison {
    /// One sentence a measure.
    pub(crate) fn sentences(&self) -> [String; 2] {
        [self.clip_i.sentence("CLIP-I"), self.subject_colors.sentence("subject's colours found")]
    }
}

/// Draws every reference from several seeds with both pipelines and compares.
///
/// # Errors
/// If drawing or scoring fails.
pub(crate) fn compare(
    before: &Pipeline,
    after: &Pipeline,
    clip: &ClipModel,
    subject: &Subject,
    args: &DemoArgs,
) -> Result<Comparison> {
    let bar = progress::bar((2 * subject.references.len()) as u64, "evaluating", args.json);
    let measure = |pipeline: &Pipeline| -> Result<(Vec<f64>, Vec<f64>)> {
        let mut scores = (Vec::new(), Vec::new());
        for (index, reference) in subject.references.iter().enumerate() {
            let seed = args.seed + 1 + index as u64;
            let (clip_i, colors) = score(pipeline, clip, reference, seed)?;
            scores.0.push(clip_i);
            scores.1.push(colors);
            bar.inc(1);
        }
        Ok(scores)
    };
    let (clip_before, colors_before) = measure(before)?;
    let (clip_after, colors_after) = measure(after)?;
    bar.finish_and_clear();
    Ok(Comparison {
        num_references: subject.references.len(),
        num_seeds: NUM_SEEDS,
        clip_i: Measure::new(&clip_before, &clip_after)?,
        subject_colors: Measure::new(&colors_before, &colors_after)?,
    })
}

/// Means over the seeds of one reference.
fn score(pipeline: &Pipeline, clip: &ClipModel, reference: &RgbImage, seed: u64) -> Result<(f64, f64)> {
    let request = GenerateRequest { seed, num_images: NUM_SEEDS, num_steps: NUM_STEPS, ..GenerateRequest::default() };
    let drawn = pipeline.generate(&request, std::slice::from_ref(reference), |_| interrupt::flow());
    let generated = drawn.map_err(|error| interrupt::told(error, "the trained adapter is kept"))?;
    let references = vec![reference.clone(); generated.pictures.len()];
    let cosines = scores::image_cosines(clip, &generated.pictures, &references)?;
    let found = generated.pictures.iter().filter(|picture| mascot::has_subject_colors(picture)).count();
    let num = cosines.len() as f64;
    Ok((cosines.iter().sum::<f64>() / num, found as f64 / num))
}
