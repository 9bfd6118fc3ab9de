//! Means that follow a noisy curve.

/// Share of the mean that stays at every value.
const DECAY: f64 = 0.98;

/// Exponential mean, debiased: the first values weigh as they should instead of pulling towards zero.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct SmoothedMean {
    sum: f64,
    weight: f64,
}

impl SmoothedMean {
    /// Takes a value in; what is not finite is left out, or it would stay for good.
    pub(crate) fn add(&mut self, value: f64) {
        if value.is_finite() {
            self.sum = DECAY * self.sum + (1.0 - DECAY) * value;
            self.weight = DECAY * self.weight + (1.0 - DECAY);
        }
    }

    /// The mean; none before the first value.
    pub(crate) fn value(&self) -> Option<f64> {
        (self.weight > 0.0).then(|| self.sum / self.weight)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn of(values: &[f64]) -> Option<f64> {
        let mut mean = SmoothedMean::default();
        values.iter().for_each(|&value| mean.add(value));
        mean.value()
    }

    #[test]
    fn the_first_value_is_the_mean_and_equal_ones_leave_it() {
        assert_eq!(of(&[]), None);
        assert!((of(&[0.3]).unwrap() - 0.3).abs() < 1e-15);
        assert!((of(&[0.3; 500]).unwrap() - 0.3).abs() < 1e-12);
    }

    #[test]
    fn later_values_weigh_more() {
        let weights = [DECAY, 1.0];
        let expected = (weights[0] * 1.0 + weights[1] * 2.0) / (weights[0] + weights[1]);
        assert!((of(&[1.0, 2.0]).unwrap() - expected).abs() < 1e-15);
    }

    #[test]
    fn what_is_not_finite_is_left_out() {
        assert_eq!(of(&[0.5, f64::NAN, f64::INFINITY]), of(&[0.5]));
    }
}
