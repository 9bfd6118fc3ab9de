//! A scale on which the scores of different encoders mean the same.

use serde::{Deserialize, Serialize};

use crate::MetricsError;

/// Where an encoder's cosines lie between pictures that have nothing to do with each other and pictures of one thing.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// Mean cosine of shuffled pairs: 0 on the scale.
    pub shuffled: f64,
    /// Mean cosine of real pictures of the same thing: 100 on the scale.
    pub real: f64,
}

impl Calibration {
    /// Of the cosines of shuffled pairs and of pairs that show the same thing.
    ///
    /// # Errors
    /// [`MetricsError::Empty`] without values, [`MetricsError::NotFinite`], [`MetricsError::Uncalibrated`] if pairs of
    /// the same thing are no more alike than others: such an encoder measures nothing.
    pub fn new(shuffled: &[f64], real: &[f64]) -> Result<Self, MetricsError> {
        let mean = |values: &[f64]| match values.iter().position(|value| !value.is_finite()) {
            Some(index) => Err(MetricsError::NotFinite { index }),
            None if values.is_empty() => Err(MetricsError::Empty),
            None => Ok(values.iter().sum::<f64>() / values.len() as f64),
        };
        let (shuffled, real) = (mean(shuffled)?, mean(real)?);
        match real > shuffled {
            true => Ok(Self { shuffled, real }),
            false => Err(MetricsError::Uncalibrated),
        }
    }

    /// A cosine on the scale; below 0 and above 100 are possible.
    pub fn score(&self, cosine: f64) -> f64 {
        100.0 * (cosine - self.shuffled) / (self.real - self.shuffled)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn shuffled_pairs_are_0_and_real_ones_100() {
        let calibration = Calibration::new(&[0.4, 0.6], &[0.8, 1.0]).unwrap();
        assert_eq!(calibration.score(0.5), 0.0);
        assert!((calibration.score(0.9) - 100.0).abs() < 1e-9);
        assert!((calibration.score(0.6) - 25.0).abs() < 1e-9);
    }

    #[test]
    fn an_encoder_that_tells_nothing_apart_is_refused() {
        assert_eq!(Calibration::new(&[0.9], &[0.9]), Err(MetricsError::Uncalibrated));
        assert_eq!(Calibration::new(&[], &[0.9]), Err(MetricsError::Empty));
        assert_eq!(Calibration::new(&[f64::NAN], &[0.9]), Err(MetricsError::NotFinite { index: 0 }));
    }
}
