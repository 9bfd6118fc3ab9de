//! Before and after the training, on pictures of the subject that it did not see.

use std::thread;

use anyhow::Result;
use image::RgbImage;
use ipa_clip::ClipModel;
use ipa_core::ThreadLimit;
use ipa_metrics::{Interval, bootstrap_mean, paired_difference};
use ipa_pocket::{Subject, SubjectScene};
use ipa_sample::{GenerateRequest, Pipeline};
use serde::Serialize;

use super::pictures::SIDE;
use super::{DemoArgs, Extent};
use crate::{interrupt, progress, scores};

const RESAMPLING_SEED: u64 = 0;

/// Pictures of the subject that are not trained on.
#[derive(Debug)]
pub(crate) struct HeldOut {
    pub(crate) subject: Subject,
    pub(crate) references: Vec<RgbImage>,
    pub(crate) captions: Vec<String>,
}

impl HeldOut {
    /// The first `num`.
    pub(crate) fn new(subject: Subject, num: usize) -> Self {
        let scenes = subject.held_out(num);
        Self {
            subject,
            references: scenes.iter().map(|scene| scene.render(SIDE)).collect(),
            captions: scenes.iter().map(SubjectScene::caption).collect(),
        }
    }
}

/// One measure before and after, over the references; several pictures of one reference count as their mean.
#[derive(Debug, Serialize)]
pub(crate) struct Measure {
    pub(crate) before: Interval,
    pub(crate) after: Interval,
    pub(crate) difference: Interval,
    /// What the intervals are of.
    pub(crate) per_reference: Vec<Pair>,
}

/// One reference before and after.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Pair {
    pub(crate) before: f64,
    pub(crate) after: f64,
}

impl Measure {
    fn new(before: &[f64], after: &[f64]) -> Result<Self> {
        Ok(Self {
            before: bootstrap_mean(before, RESAMPLING_SEED)?,
            after: bootstrap_mean(after, RESAMPLING_SEED)?,
            difference: paired_difference(before, after, RESAMPLING_SEED)?,
            per_reference: before.iter().zip(after).map(|(&before, &after)| Pair { before, after }).collect(),
        })
    }

    /// Of several runs: a reference counts as its mean over them.
    fn mean(runs: &[&Self]) -> Result<Self> {
        let of = |part: fn(&Pair) -> f64| -> Vec<f64> {
            let mean =
                |index: usize| runs.iter().map(|run| part(&run.per_reference[index])).sum::<f64>() / runs.len() as f64;
            (0..runs[0].per_reference.len()).map(mean).collect()
        };
        Self::new(&of(|pair| pair.before), &of(|pair| pair.after))
    }

    fn sentence(&self, what: &str) -> String {
        let Self { before, after, difference, .. } = self;
        let verdict = if difference.excludes_zero() { "" } else { " (could be chance)" };
        format!("{what}: {:.3} before, {:.3} after, difference {difference:.3}{verdict}", before.mean, after.mean)
    }
}

/// What the training changed; pictures drawn at strength 1 without text.
#[derive(Debug, Serialize)]
pub(crate) struct Comparison {
    pub(crate) num_references: usize,
    /// Drawn from each of them.
    pub(crate) num_pictures: u32,
    /// Cosine of picture and reference.
    pub(crate) clip_i: Measure,
    /// Share of pictures in which the pixel judge finds the subject's colour.
    pub(crate) subject_color: Measure,
}

impl Comparison {
    /// Of several runs, at least one.
    ///
    /// # Errors
    /// If a measure is no number.
    pub(crate) fn mean<'a>(runs: impl Iterator<Item = &'a Self>) -> Result<Self> {
        let runs: Vec<&Self> = runs.collect();
        let of =
            |measure: fn(&Self) -> &Measure| Measure::mean(&runs.iter().map(|run| measure(run)).collect::<Vec<_>>());
        Ok(Self {
            num_references: runs[0].num_references,
            num_pictures: runs[0].num_pictures,
            clip_i: of(|run| &run.clip_i)?,
            subject_color: of(|run| &run.subject_color)?,
        })
    }

    /// One sentence a measure.
    pub(crate) fn sentences(&self) -> [String; 2] {
        [self.clip_i.sentence("CLIP-I"), self.subject_color.sentence("subject's colour found")]
    }
}

/// Draws several pictures after every reference with both pipelines, at once, and compares.
///
/// # Errors
/// If drawing or scoring fails.
pub(crate) fn compare(
    before: &mut Pipeline,
    after: &mut Pipeline,
    clip: &ClipModel,
    held_out: &HeldOut,
    (args, seed): (&DemoArgs, u64),
) -> Result<Comparison> {
    let bar = progress::bar((2 * held_out.references.len()) as u64, "evaluating", args.json);
    let (before, after) = {
        let _threads = ThreadLimit::shared_by(2);
        let draw = |pipeline: &mut Pipeline| draw(pipeline, held_out, (args, seed), || bar.inc(1));
        thread::scope(|scope| {
            let before = scope.spawn(|| draw(before)); // a model may move to another thread, but not be seen by two
            let after = draw(after);
            (before.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), after)
        })
    };
    bar.finish_and_clear();
    let (before, after) = (score(clip, held_out, &before?)?, score(clip, held_out, &after?)?);
    Ok(Comparison {
        num_references: held_out.references.len(),
        num_pictures: args.extent().num_pictures,
        clip_i: Measure::new(&before.0, &after.0)?,
        subject_color: Measure::new(&before.1, &after.1)?,
    })
}

/// Pictures of every reference.
fn draw(
    pipeline: &mut Pipeline,
    held_out: &HeldOut,
    (args, seed): (&DemoArgs, u64),
    drawn: impl Fn(),
) -> Result<Vec<Vec<RgbImage>>> {
    let Extent { num_pictures: num_images, num_steps, .. } = args.extent();
    let draw_one = |(reference, seed): (&RgbImage, u64)| {
        let request = GenerateRequest { seed, num_images, num_steps, ..GenerateRequest::default() };
        let generated = pipeline.generate(&request, std::slice::from_ref(reference), |_| interrupt::flow());
        drawn();
        Ok(generated.map_err(|error| interrupt::told(error, "the trained adapter is kept"))?.pictures)
    };
    held_out.references.iter().zip(seed + 1..).map(draw_one).collect()
}

/// CLIP-I and share of pictures with the subject's colours, each the mean over the pictures of a reference.
fn score(clip: &ClipModel, held_out: &HeldOut, drawn: &[Vec<RgbImage>]) -> Result<(Vec<f64>, Vec<f64>)> {
    let score_one = |(reference, pictures): (&RgbImage, &Vec<RgbImage>)| {
        let references = vec![reference.clone(); pictures.len()];
        let cosines = scores::image_cosines(clip, pictures, &references)?;
        let found = pictures.iter().filter(|picture| held_out.subject.has_color(picture)).count();
        let num = pictures.len() as f64;
        Ok((cosines.iter().sum::<f64>() / num, found as f64 / num))
    };
    held_out.references.iter().zip(drawn).map(score_one).collect()
}
