//! CLIPScore under its three published definitions; numbers of different definitions are not comparable.

use ndarray::{Array1, ArrayView2};

use crate::{CLIPSCORE_WEIGHT, MetricsError, cosines};

/// What the original puts before every caption before it is embedded.
pub const CLIPSCORE_PREFIX: &str = "A photo depicts ";

/// CLIPScore of every pair, `2.5 · max(cos, 0)` (arXiv:2104.08718 Eq. 1).
///
/// The original embeds captions, and the references of [`ref_clip_scores`], with [`CLIPSCORE_PREFIX`] before them; that
/// is the caller's to do.
///
/// # Shapes
/// - `images`, `captions`: `[n, width]`; the result is `[n]`
///
/// # Errors
/// Those of [`cosines`].
pub fn clip_scores(images: ArrayView2<f32>, captions: ArrayView2<f32>) -> Result<Array1<f64>, MetricsError> {
    Ok(cosines(images, captions)?.mapv(|cosine| CLIPSCORE_WEIGHT * cosine.max(0.0)))
}

/// RefCLIPScore of every pair: the harmonic mean of its CLIPScore and of the caption's largest cosine with one of its
/// references, as long as both are positive (arXiv:2104.08718 Eq. 2).
///
/// # Shapes
/// - `images`, `captions`: `[n, width]`
/// - `references`: the embeddings of each caption's references, `[references, width]` each, `n` of them
///
/// # Errors
/// Those of [`cosines`]; [`MetricsError::Unpaired`] without references for every caption, [`MetricsError::Empty`] if
/// one has none.
pub fn ref_clip_scores(
    images: ArrayView2<f32>,
    captions: ArrayView2<f32>,
    references: &[ArrayView2<f32>],
) -> Result<Array1<f64>, MetricsError> {
    if references.len() != captions.nrows() {
        return Err(MetricsError::Unpaired { left: captions.nrows(), right: references.len() });
    }
    let mut scores = clip_scores(images, captions)?;
    for ((score, caption), references) in scores.iter_mut().zip(captions.rows()).zip(references) {
        let repeated = caption.broadcast((references.nrows(), caption.len())).ok_or(MetricsError::Empty)?;
        let closest = cosines(repeated, references.view())?.into_iter().reduce(f64::max).ok_or(MetricsError::Empty)?;
        let closest = closest.max(0.0);
        *score = if *score + closest > 0.0 { 2.0 * *score * closest / (*score + closest) } else { 0.0 };
    }
    Ok(scores)
}

/// What torchmetrics calls CLIPScore: a hundred times the mean cosine, no less than 0, of captions without prefix.
///
/// # Errors
/// Those of [`cosines`], and [`MetricsError::Empty`] without rows.
pub fn torchmetrics_clip_score(images: ArrayView2<f32>, captions: ArrayView2<f32>) -> Result<f64, MetricsError> {
    let mean = cosines(images, captions)?.mean().ok_or(MetricsError::Empty)?;
    Ok((100.0 * mean).max(0.0))
}
