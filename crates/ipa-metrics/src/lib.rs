//! Numbers and reports: CLIP-I, CLIP-T, CLIPScore, Fréchet distance, SSIM, variety, grades, confidence intervals, and a
//! page that shows them.
//!
//! Embeddings come in as `ndarray` views, numbers go out. Nothing here knows how an embedding was
//! made: no libtorch, no models, no network. A [`Report`] is one HTML file that needs no other.
//! [`evaluation`] makes the report of a whole evaluation, [`protocol`] says what a protocol run draws.
//!
//! ```
//! use ipa_metrics::{CaseScore, MAPPING, bootstrap_mean, cosines};
//! use ndarray::array;
//!
//! let generated = array![[0.9_f32, 0.1], [0.6, 0.8]];
//! let references = array![[1.0_f32, 0.0], [0.0, 1.0]];
//! let clip_i = cosines(generated.view(), references.view())?;
//! println!("CLIP-I {}", bootstrap_mean(&clip_i.to_vec(), 0)?);
//!
//! let score = CaseScore::new(clip_i[0], 0.27);
//! println!("{score}\n{MAPPING}");
//! # Ok::<(), ipa_metrics::MetricsError>(())
//! ```

mod calibration;
mod clip_score;
mod error;
pub mod evaluation;
mod frechet;
mod grade;
mod interval;
mod pixels;
pub mod protocol;
mod report;
mod similarity;
mod variety;

pub use calibration::Calibration;
pub use clip_score::{CLIPSCORE_PREFIX, clip_scores, ref_clip_scores, torchmetrics_clip_score};
pub use error::MetricsError;
pub use frechet::frechet_distance;
pub use grade::{CLIPSCORE_WEIGHT, CaseScore, Grade, MAPPING, prompt_following, reference_preservation};
pub use interval::{Interval, bootstrap_mean, paired_difference, proportion};
pub use pixels::{psnr, ssim};
pub use report::{Chart, Column, Contact, Flag, Picture, Report, ScoredPicture, Series, Thumbnail, encode_png};
pub use similarity::{clip_i, clip_t, cosines, retrieved};
pub use variety::{Nearest, mean_pairwise_distance, monotonicity, nearest, prompt_sensitivity};
