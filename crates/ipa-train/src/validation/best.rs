//! Which validation was the best.

use super::{Metric, ValidationResult};

/// The best validation so far, and how long ago it was; restored by adding all results again.
#[derive(Debug, Clone)]
pub struct Best {
    metric: Metric,
    best: Option<(u64, f64)>,
    num_since: u64,
}

impl Best {
    /// Before any validation.
    pub fn new(metric: Metric) -> Self {
        Self { metric, best: None, num_since: 0 }
    }

    /// After these.
    pub fn of(metric: Metric, results: &[ValidationResult]) -> Self {
        let mut best = Self::new(metric);
        for result in results {
            best.add(result);
        }
        best
    }

    /// Takes one more; gives whether it is the best so far. One without a finite value never is, and neither is one as
    /// good as the best.
    pub fn add(&mut self, result: &ValidationResult) -> bool {
        let value = result.value(self.metric).filter(|value| value.is_finite());
        let is_better = |value: f64| {
            self.best.is_none_or(|(_, best)| match self.metric {
                Metric::Loss => value < best,
                Metric::ClipI | Metric::ClipT => value > best,
            })
        };
        match value.filter(|value| is_better(*value)) {
            Some(value) => (self.best, self.num_since) = (Some((result.step, value)), 0),
            None => self.num_since += 1,
        }
        self.num_since == 0
    }

    /// Step and value of the best.
    pub fn best(&self) -> Option<(u64, f64)> {
        self.best
    }

    /// Whether as many validations as `patience` came since without a better one.
    pub fn should_stop(&self, patience: Option<u64>) -> bool {
        patience.is_some_and(|patience| self.num_since >= patience)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results(metric: Metric, values: &[f64]) -> Vec<ValidationResult> {
        let result = |(step, &value): (u64, &f64)| match metric {
            Metric::Loss => ValidationResult { step, loss: Some(value), ..Default::default() },
            Metric::ClipI => ValidationResult { step, scores: [("clip_i".into(), value)].into(), ..Default::default() },
            Metric::ClipT => ValidationResult { step, scores: [("clip_t".into(), value)].into(), ..Default::default() },
        };
        (1..).zip(values).map(result).collect()
    }

    fn added(metric: Metric, values: &[f64]) -> Vec<bool> {
        let mut best = Best::new(metric);
        results(metric, values).iter().map(|result| best.add(result)).collect()
    }

    #[test]
    fn the_lowest_loss_and_the_highest_score_are_best_and_no_number_never_is() {
        let values = [f64::NAN, 0.5, 0.4, 0.4, f64::NAN, 0.6];
        assert_eq!(added(Metric::Loss, &values), [false, true, true, false, false, false]);
        assert_eq!(added(Metric::ClipI, &values), [false, true, false, false, false, true]);
        assert_eq!(added(Metric::ClipT, &[f64::INFINITY, -0.1, -0.2]), [false, true, false]);
        assert_eq!(Best::of(Metric::Loss, &results(Metric::Loss, &values)).best(), Some((3, 0.4)));
    }

    #[test]
    fn patience_counts_validations_since_the_best() {
        let best = Best::of(Metric::Loss, &results(Metric::Loss, &[0.5, 0.6, f64::NAN]));
        assert_eq!(
            [None, Some(3), Some(2), Some(1)].map(|patience| best.should_stop(patience)),
            [false, false, true, true]
        );
        let mut best = best;
        assert!(best.add(&ValidationResult { step: 4, loss: Some(0.4), ..Default::default() }));
        assert!(!best.should_stop(Some(1)));
    }

    #[test]
    fn likeness_to_the_reference_may_be_the_adapters_own_encoders() {
        let scores = [("clip_i_own_encoder".to_owned(), 0.7)].into();
        let result = ValidationResult { step: 5, scores, ..Default::default() };
        assert_eq!(Best::of(Metric::ClipI, std::slice::from_ref(&result)).best(), Some((5, 0.7)));
        assert_eq!(Best::of(Metric::ClipT, std::slice::from_ref(&result)).best(), None);
    }
}
