//! How good the pocket model is, on scenes it was not trained on.

use std::ops::ControlFlow;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use image::{RgbImage, imageops};
use ipa_clip::{ClipModel, TokenizerError};
use ipa_core::ThreadLimit;
use ipa_core::tch::{Device, Kind, Tensor};
use ipa_metrics::{Interval, MetricsError, bootstrap_mean, paired_difference, proportion, retrieved};
use ipa_pocket::{Scene, Split, full_caption, judge, judged_caption, render};
use ipa_sample::{GenerateRequest, Pipeline, PipelineError};
use ipa_vae::Vae;
use ndarray::Array2;
use serde::Serialize;

use super::{Recipe, vae};

const RESAMPLING_SEED: u64 = 0;
const FIRST_SCENE: u64 = 100_000; // none that any stage draws

/// Why the model cannot be scored.
#[derive(Debug, thiserror::Error)]
pub enum ScoresError {
    /// Drawing failed.
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
    /// A caption is not text for the scoring CLIP.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The embeddings are no directions.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
}

/// Share of pictures whose main object the pixel judges find right.
#[derive(Debug, Serialize)]
pub struct Judged {
    /// Colour.
    pub color: Interval,
    /// Shape.
    pub shape: Interval,
    /// Fill.
    pub fill: Interval,
    /// Style.
    pub style: Interval,
    /// Background.
    pub background: Interval,
}

/// All scores; cosines are between picture and reference in the scoring CLIP.
#[derive(Debug, Serialize)]
pub struct Scores {
    /// Drawn from "a red star on a gray background, flat style" and the like, without image.
    pub text: Judged,
    /// Drawn from the reference image alone, λ = 1.
    pub image: Judged,
    /// Drawn from nothing, λ = 0.
    pub nothing: Judged,
    /// Peak signal-to-noise ratio of the autoencoder's pictures of the scenes, in dB.
    pub autoencoder_psnr: Interval,
    /// Share of the scenes, rendered, whose full caption is found among those of a hundred by the scoring CLIP.
    pub retrieval: Interval,
    /// CLIP-I at λ = 1.
    pub clip_i: Interval,
    /// CLIP-I at λ = 1 less that at λ = 0, paired.
    pub clip_i_above_nothing: Interval,
    /// CLIP-I at λ = 1 less the cosine with the next scene's reference, paired.
    pub clip_i_above_shuffled: Interval,
}

/// Pictures to look at: rows of reference, λ = 1, text.
#[derive(Debug)]
pub struct Scored {
    /// The numbers.
    pub scores: Scores,
    /// The first scenes, side by side.
    pub sheet: RgbImage,
}

/// What one scene became.
struct Drawn {
    text: RgbImage,
    image: RgbImage,
    nothing: RgbImage,
}

/// Draws scenes of held-out combinations three times and judges; every pipeline, all of the same model, draws its share
/// on a thread of its own.
///
/// # Errors
/// [`ScoresError`].
///
/// # Panics
/// If there is no pipeline.
pub fn score(
    pipelines: &mut [Pipeline],
    (clip, vae): (&ClipModel, &Vae),
    recipe: &Recipe,
    progress: impl Fn(u64) + Sync,
) -> Result<Scored, ScoresError> {
    let scenes: Vec<Scene> =
        (0..recipe.num_scored).map(|index| Scene::draw_at(0, FIRST_SCENE + index, Split::HeldOut)).collect();
    let references: Vec<RgbImage> = scenes.iter().map(|scene| render(scene, recipe.size)).collect();
    let drawn = draw_all(pipelines, &scenes, &references, draw, progress)?;
    let pictures = |of: fn(&Drawn) -> &RgbImage| drawn.iter().map(|drawn| of(drawn).clone()).collect::<Vec<_>>();
    let text = pictures(|drawn| &drawn.text);
    let (image, nothing) = (pictures(|drawn| &drawn.image), pictures(|drawn| &drawn.nothing));
    let mut shuffled = references.clone();
    shuffled.rotate_left(1);
    let of = |pictures: &[RgbImage], references: &[RgbImage]| {
        cosines(&clip.image_embeds(pictures), &clip.image_embeds(references))
    };
    let (own, none, other) = (of(&image, &references)?, of(&nothing, &references)?, of(&image, &shuffled)?);
    let scores = Scores {
        text: judged(&text, &scenes)?,
        image: judged(&image, &scenes)?,
        nothing: judged(&nothing, &scenes)?,
        autoencoder_psnr: bootstrap_mean(&vae::psnr(recipe, vae, &references), RESAMPLING_SEED)?,
        retrieval: retrieval(clip, &scenes, &references)?,
        clip_i: bootstrap_mean(&own, RESAMPLING_SEED)?,
        clip_i_above_nothing: paired_difference(&none, &own, RESAMPLING_SEED)?,
        clip_i_above_shuffled: paired_difference(&other, &own, RESAMPLING_SEED)?,
    };
    Ok(Scored { scores, sheet: sheet(&[&references, &image, &text], recipe.size) })
}

fn retrieval(clip: &ClipModel, scenes: &[Scene], references: &[RgbImage]) -> Result<Interval, ScoresError> {
    const AMONG: usize = 100;
    let mut found = Vec::new();
    let among = AMONG.min(scenes.len()); // fewer at the end would be easier to find
    for (scenes, references) in scenes.chunks_exact(among).zip(references.chunks_exact(among)) {
        let captions: Vec<String> = scenes.iter().map(full_caption).collect();
        let texts = clip.text_embeds(&captions.iter().map(String::as_str).collect::<Vec<_>>())?;
        found.extend(retrieved(to_array(&clip.image_embeds(references)).view(), to_array(&texts).view())?);
    }
    Ok(proportion(found.iter().filter(|&&found| found).count(), found.len())?)
}

/// What comes of an adapter's picture of a scene.
#[derive(Debug, Serialize)]
pub struct AdapterScores {
    /// Drawn from the reference image alone, λ = 1.
    pub image: Judged,
    /// Share of all five attributes that are right, over the scenes.
    pub attributes: Interval,
    /// Cosine of picture and reference in the scoring CLIP.
    pub clip_i: Interval,
}

/// Draws so many scenes of held-out combinations after their pictures alone, in `num_steps` steps, and judges; the
/// pipelines, all of the same model and adapter, share the work.
///
/// # Errors
/// [`ScoresError`].
///
/// # Panics
/// If there is no pipeline or no scene.
pub fn score_adapter(
    pipelines: &mut [Pipeline],
    clip: &ClipModel,
    (num_scenes, size, num_steps): (u64, u32, usize),
    progress: impl Fn(u64) + Sync,
) -> Result<AdapterScores, ScoresError> {
    let scenes: Vec<Scene> =
        (0..num_scenes).map(|index| Scene::draw_at(0, FIRST_SCENE + index, Split::HeldOut)).collect();
    let references: Vec<RgbImage> = scenes.iter().map(|scene| render(scene, size)).collect();
    let draw = |pipeline: &Pipeline, (seed, _, reference): Numbered| {
        let request = GenerateRequest { seed, num_steps, ..GenerateRequest::default() };
        draw_one(pipeline, &request, std::slice::from_ref(reference))
    };
    let pictures = draw_all(pipelines, &scenes, &references, draw, progress)?;
    let share = |(picture, scene): (&RgbImage, &Scene)| {
        let found = judge(picture).agreement(scene);
        let found = [found.color, found.shape, found.fill, found.style, found.background];
        found.into_iter().filter(|is_right| *is_right).count() as f64 / found.len() as f64
    };
    let shares: Vec<f64> = pictures.iter().zip(&scenes).map(share).collect();
    let cosines = cosines(&clip.image_embeds(&pictures), &clip.image_embeds(&references))?;
    Ok(AdapterScores {
        image: judged(&pictures, &scenes)?,
        attributes: bootstrap_mean(&shares, RESAMPLING_SEED)?,
        clip_i: bootstrap_mean(&cosines, RESAMPLING_SEED)?,
    })
}

/// Seed, scene, and the scene as a picture.
type Numbered<'a> = (u64, &'a Scene, &'a RgbImage);

fn draw_all<T: Send>(
    pipelines: &mut [Pipeline],
    scenes: &[Scene],
    references: &[RgbImage],
    draw: impl Fn(&Pipeline, Numbered) -> Result<T, PipelineError> + Sync,
    progress: impl Fn(u64) + Sync,
) -> Result<Vec<T>, PipelineError> {
    let _threads = ThreadLimit::shared_by(pipelines.len() as i32);
    let (share, done) = (scenes.len().div_ceil(pipelines.len()).max(1), AtomicU64::new(0));
    let pairs = scenes.iter().zip(references);
    let numbered: Vec<Numbered> = (0..).zip(pairs).map(|(seed, (scene, reference))| (seed, scene, reference)).collect();
    let (done, progress, draw) = (&done, &progress, &draw);
    thread::scope(|scope| {
        // A pipeline may move to another thread, but not be seen by two.
        let draw_share = |(pipeline, scenes): (&mut Pipeline, &[Numbered])| {
            let draw_next = |numbered: &Numbered| {
                let drawn = draw(pipeline, *numbered);
                progress(1 + done.fetch_add(1, Ordering::Relaxed));
                drawn
            };
            scenes.iter().map(draw_next).collect::<Result<Vec<T>, _>>()
        };
        let shares = pipelines.iter_mut().zip(numbered.chunks(share));
        let threads: Vec<_> = shares.map(|share| scope.spawn(move || draw_share(share))).collect();
        let parts = threads.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
        Ok(parts.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
    })
}

fn draw(pipeline: &Pipeline, (seed, scene, reference): Numbered) -> Result<Drawn, PipelineError> {
    let request = GenerateRequest { seed, ..GenerateRequest::default() };
    let captioned = GenerateRequest { prompt: judged_caption(scene), ..request.clone() };
    let bare = GenerateRequest { scale: 0.0, ..request.clone() };
    let reference = std::slice::from_ref(reference);
    Ok(Drawn {
        text: draw_one(pipeline, &captioned, &[])?,
        image: draw_one(pipeline, &request, reference)?,
        nothing: draw_one(pipeline, &bare, reference)?,
    })
}

fn draw_one(
    pipeline: &Pipeline,
    request: &GenerateRequest,
    references: &[RgbImage],
) -> Result<RgbImage, PipelineError> {
    let generated = pipeline.generate(request, references, |_| ControlFlow::Continue(()));
    Ok(generated?.pictures.swap_remove(0))
}

fn judged(pictures: &[RgbImage], scenes: &[Scene]) -> Result<Judged, MetricsError> {
    let agreements: Vec<_> =
        pictures.iter().zip(scenes).map(|(picture, scene)| judge(picture).agreement(scene)).collect();
    let share = |part: fn(&ipa_pocket::Agreement) -> bool| {
        proportion(agreements.iter().filter(|agreement| part(agreement)).count(), agreements.len())
    };
    Ok(Judged {
        color: share(|agreement| agreement.color)?,
        shape: share(|agreement| agreement.shape)?,
        fill: share(|agreement| agreement.fill)?,
        style: share(|agreement| agreement.style)?,
        background: share(|agreement| agreement.background)?,
    })
}

/// Cosines of embeddings, row by row: CLIP-I of the embeddings of pictures and references, CLIP-T of those of pictures
/// and captions.
///
/// # Shapes
/// - `a`, `b`: `[n, width]`, on any device
///
/// # Errors
/// [`MetricsError`] if the shapes differ or an embedding is no direction, as broken weights make it.
///
/// # Panics
/// If `a` or `b` has another number of dimensions.
pub fn cosines(a: &Tensor, b: &Tensor) -> Result<Vec<f64>, MetricsError> {
    Ok(ipa_metrics::cosines(to_array(a).view(), to_array(b).view())?.to_vec())
}

pub(crate) fn to_array(embeds: &Tensor) -> Array2<f32> {
    let (rows, columns) = embeds.size2().expect("embeddings are [n, width]");
    let flat = embeds.to_device(Device::Cpu).to_kind(Kind::Float).reshape([-1]);
    let flat = Vec::<f32>::try_from(flat).expect("a vector of f32");
    Array2::from_shape_vec((rows as usize, columns as usize), flat).expect("as many numbers as the shape says")
}

/// Twelve columns, three rows a band, four bands, a pixel between them.
fn sheet(rows: &[&Vec<RgbImage>], size: u32) -> RgbImage {
    const COLUMNS: usize = 12;
    const BANDS: usize = 4;
    let (step, band) = (size + 2, rows.len() as u32 * (size + 2) + 6);
    let mut sheet = RgbImage::from_pixel(COLUMNS as u32 * step, BANDS as u32 * band, image::Rgb([255; 3]));
    for (index, row) in (0..COLUMNS * BANDS).flat_map(|index| (0..rows.len()).map(move |row| (index, row))) {
        let Some(picture) = rows[row].get(index) else { continue };
        let (x, y) = ((index % COLUMNS) as u32 * step, (index / COLUMNS) as u32 * band + row as u32 * step);
        imageops::overlay(&mut sheet, picture, i64::from(x), i64::from(y));
    }
    sheet
}
