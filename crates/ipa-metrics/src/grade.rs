//! Percentages and grades that a person can read at a glance, always beside the raw cosines.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The `w` of CLIPScore, `w · max(cos, 0)` (arXiv:2104.08718 §3).
pub const CLIPSCORE_WEIGHT: f64 = 2.5;

/// How cosines become percentages and grades; printed wherever a [`CaseScore`] is.
pub const MAPPING: &str = "Reference preservation is 100 · max(cos, 0) of the two image embeddings; prompt following is \
    100 · min(1, 2.5 · max(cos, 0)) of the image and text embeddings; combined is their mean, graded before rounding: \
    A+ from 90, A from 80, B from 70, C from 60, F below.";

/// Percentage of the reference that came through: `100 · max(cos, 0)` of two image embeddings.
pub fn reference_preservation(image_cosine: f64) -> f64 {
    100.0 * image_cosine.max(0.0)
}

/// Percentage of the prompt that came through: `100 · min(1, 2.5 · max(cos, 0))` of image and text embedding.
pub fn prompt_following(text_cosine: f64) -> f64 {
    100.0 * (CLIPSCORE_WEIGHT * text_cosine.max(0.0)).min(1.0)
}

/// A school grade for a percentage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Grade {
    /// 90 and above.
    #[serde(rename = "A+")]
    APlus,
    /// 80 and above.
    A,
    /// 70 and above.
    B,
    /// 60 and above.
    C,
    /// Below 60.
    F,
}

impl Grade {
    /// Grade of a percentage.
    pub fn of(percent: f64) -> Self {
        match percent {
            p if p >= 90.0 => Self::APlus,
            p if p >= 80.0 => Self::A,
            p if p >= 70.0 => Self::B,
            p if p >= 60.0 => Self::C,
            _ => Self::F,
        }
    }
}

impl fmt::Display for Grade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::APlus => "A+",
            Self::A => "A",
            Self::B => "B",
            Self::C => "C",
            Self::F => "F",
        })
    }
}

/// One generated picture against its reference and its prompt.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CaseScore {
    /// Raw cosine of the image embeddings of picture and reference.
    pub image_cosine: f64,
    /// Raw cosine of the picture's image embedding and the prompt's text embedding.
    pub text_cosine: f64,
    /// See [`reference_preservation`].
    pub reference_preservation: f64,
    /// See [`prompt_following`].
    pub prompt_following: f64,
    /// Mean of the two percentages.
    pub combined: f64,
    /// Grade of `combined`.
    pub grade: Grade,
}

impl CaseScore {
    /// Scores a picture by its two raw cosines.
    pub fn new(image_cosine: f64, text_cosine: f64) -> Self {
        let reference_preservation = reference_preservation(image_cosine);
        let prompt_following = prompt_following(text_cosine);
        let combined = (reference_preservation + prompt_following) / 2.0;
        let grade = Grade::of(combined);
        Self { image_cosine, text_cosine, reference_preservation, prompt_following, combined, grade }
    }

    /// The mean of every number, graded by its own `combined`; `None` of no scores.
    ///
    /// Percentages are averaged and not made of the mean cosines, so that what one picture follows beyond 100 % does not
    /// make up for what another lacks.
    pub fn mean(scores: &[Self]) -> Option<Self> {
        let mean = |of: fn(&Self) -> f64| scores.iter().map(of).sum::<f64>() / scores.len() as f64;
        let combined = mean(|score| score.combined);
        (!scores.is_empty()).then(|| Self {
            image_cosine: mean(|score| score.image_cosine),
            text_cosine: mean(|score| score.text_cosine),
            reference_preservation: mean(|score| score.reference_preservation),
            prompt_following: mean(|score| score.prompt_following),
            combined,
            grade: Grade::of(combined),
        })
    }
}

impl fmt::Display for CaseScore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { image_cosine, text_cosine, reference_preservation, prompt_following, combined, grade } = self;
        write!(
            f,
            "reference preservation {reference_preservation:.1} % (cos {image_cosine:.3}), \
             prompt following {prompt_following:.1} % (cos {text_cosine:.3}), combined {combined:.1} %, grade {grade}"
        )
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn grades_begin_at_their_boundary() {
        let at = [(100.0, "A+"), (90.0, "A+"), (80.0, "A"), (70.0, "B"), (60.0, "C"), (0.0, "F")];
        for (percent, grade) in at {
            assert_eq!(Grade::of(percent).to_string(), grade, "{percent}");
        }
        let below = [(90.0_f64, "A"), (80.0, "B"), (70.0, "C"), (60.0, "F")];
        for (boundary, grade) in below {
            assert_eq!(Grade::of(boundary.next_down()).to_string(), grade, "just below {boundary}");
        }
    }

    #[test]
    fn percentages_follow_the_mapping() {
        assert_eq!([-0.3, 0.0, 0.5, 1.0].map(reference_preservation), [0.0, 0.0, 50.0, 100.0]);
        assert_eq!([-0.3, 0.0, 0.2, 0.4, 0.8].map(prompt_following), [0.0, 0.0, 50.0, 100.0, 100.0]);
    }

    #[test]
    fn a_case_is_the_mean_of_its_two_percentages() {
        let score = CaseScore::new(0.75, 0.25);
        assert_eq!((score.reference_preservation, score.prompt_following), (75.0, 62.5));
        assert_eq!((score.combined, score.grade), (68.75, Grade::C));
    }

    /// The second follows 60 % more than 100 %, which the first cannot have.
    #[test]
    fn percentages_are_averaged_and_not_made_of_the_mean_cosines() {
        let mean = CaseScore::mean(&[CaseScore::new(0.9, 0.1), CaseScore::new(0.5, 0.64)]).unwrap();
        assert!((mean.text_cosine - 0.37).abs() < 1e-12 && (mean.prompt_following - 62.5).abs() < 1e-9, "{mean:?}");
        assert!((mean.reference_preservation - 70.0).abs() < 1e-9 && (mean.combined - 66.25).abs() < 1e-9, "{mean:?}");
        assert_eq!((mean.grade, CaseScore::mean(&[])), (Grade::C, None));
    }

    #[test]
    fn a_case_prints_raw_cosines_beside_percentages() {
        let expected = "reference preservation 75.0 % (cos 0.750), prompt following 62.5 % (cos 0.250), \
            combined 68.8 %, grade C";
        assert_eq!(CaseScore::new(0.75, 0.25).to_string(), expected);
    }

    #[test]
    fn a_case_is_written_as_json_with_every_number() {
        let json = serde_json::to_value(CaseScore::new(1.0, 0.5)).unwrap();
        let expected = serde_json::json!({
            "image_cosine": 1.0, "text_cosine": 0.5, "reference_preservation": 100.0,
            "prompt_following": 100.0, "combined": 100.0, "grade": "A+"
        });
        assert_eq!(json, expected);
    }
}
