//! Confidence intervals: how far a mean may be trusted.

use std::fmt;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::MetricsError;

const NUM_RESAMPLES: usize = 10_000;
const NORMAL_QUANTILE: f64 = 1.959_963_984_540_054; // of 0.975: either side of a 95 % interval loses 2.5 %

/// A mean and its 95 % confidence interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Mean of what was observed.
    pub mean: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Interval {
    /// Whether the interval lies on one side of zero, so that a difference is more than chance.
    pub fn excludes_zero(&self) -> bool {
        self.low > 0.0 || self.high < 0.0
    }
}

/// `mean [low, high]`, with three decimals unless a precision is given.
impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or(3);
        write!(f, "{:.digits$} [{:.digits$}, {:.digits$}]", self.mean, self.low, self.high)
    }
}

/// Mean of `values` with an expanded percentile bootstrap interval (Hesterberg 2015, arXiv:1411.5279) of 10,000
/// resamples.
///
/// A plain percentile interval is too narrow for few values: it takes the deviation of the sample, which is too small
/// by `sqrt((n - 1) / n)`, for the true one. The expanded one cuts off less on either side, so that it is as wide as
/// the t interval. Simulated with normal values, it covers the true mean in 95 % of samples of 20 and of 50, where a
/// plain one does in 93 % and 94 %. It never leaves the range of the values, so it stays too narrow for very few (92 %
/// of samples of five), and one value alone gives an interval of width zero.
///
/// The same values and `seed` give the same interval, whatever the number of threads. Values count as
/// independent: where several belong to one reference, average those first.
///
/// # Errors
/// [`MetricsError::Empty`] without values, [`MetricsError::NotFinite`] for the first NaN or infinity.
pub fn bootstrap_mean(values: &[f64], seed: u64) -> Result<Interval, MetricsError> {
    resampled_mean(values, seed, NUM_RESAMPLES)
}

/// Mean of `after[i] - before[i]` with the interval of [`bootstrap_mean`].
///
/// # Errors
/// [`MetricsError::Unpaired`] if the lengths differ, else those of [`bootstrap_mean`].
pub fn paired_difference(before: &[f64], after: &[f64], seed: u64) -> Result<Interval, MetricsError> {
    if before.len() != after.len() {
        return Err(MetricsError::Unpaired { left: before.len(), right: after.len() });
    }
    let differences: Vec<f64> = before.iter().zip(after).map(|(before, after)| after - before).collect();
    bootstrap_mean(&differences, seed)
}

/// Share of successes with the score interval of Wilson (1927), which holds for few trials and shares near 0 or 1.
///
/// # Errors
/// [`MetricsError::Empty`] without trials, [`MetricsError::Proportion`] for more successes than trials.
pub fn proportion(successes: usize, trials: usize) -> Result<Interval, MetricsError> {
    if trials == 0 {
        return Err(MetricsError::Empty);
    }
    if successes > trials {
        return Err(MetricsError::Proportion { successes, trials });
    }
    let (n, z) = (trials as f64, NORMAL_QUANTILE);
    let mean = successes as f64 / n;
    let centre = (mean + z * z / (2.0 * n)) / (1.0 + z * z / n);
    let half_width = z / (1.0 + z * z / n) * (mean * (1.0 - mean) / n + z * z / (4.0 * n * n)).sqrt();
    // Rounding must not push an end past the share itself at 0 or 1.
    Ok(Interval { mean, low: (centre - half_width).clamp(0.0, mean), high: (centre + half_width).clamp(mean, 1.0) })
}

fn resampled_mean(values: &[f64], seed: u64, num_resamples: usize) -> Result<Interval, MetricsError> {
    if values.is_empty() {
        return Err(MetricsError::Empty);
    }
    if let Some(index) = values.iter().position(|value| !value.is_finite()) {
        return Err(MetricsError::NotFinite { index });
    }
    let mut means: Vec<f64> = (0..num_resamples as u64)
        .into_par_iter()
        .map(|stream| {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream(stream); // one stream a resample: threads cannot change who draws what
            mean((0..values.len()).map(|_| values[rng.random_range(0..values.len())]), values.len())
        })
        .collect();
    means.sort_unstable_by(f64::total_cmp);
    let tail = expanded_tail(values.len());
    Ok(Interval {
        mean: mean(values.iter().copied(), values.len()),
        low: quantile(&means, tail),
        high: quantile(&means, 1.0 - tail),
    })
}

/// Share of the resamples beyond either end of the interval: `Φ(-sqrt(n / (n - 1)) · t)` with the 0.975 quantile `t` of
/// Student's distribution, 2.5 % for many values and less for few.
fn expanded_tail(count: usize) -> f64 {
    if count < 2 {
        return 0.0; // all resamples are equal
    }
    let degrees = (count - 1) as f64;
    normal_tail((count as f64 / degrees).sqrt() * student_quantile(degrees))
}

/// The 0.975 quantile of Student's distribution, Abramowitz and Stegun 26.7.5: to four decimals from ten degrees of
/// freedom; for fewer too small (11.30 for 12.71 with one), where all resamples lie within it in any case.
fn student_quantile(degrees: f64) -> f64 {
    let z = NORMAL_QUANTILE;
    let terms = [
        (z.powi(3) + z) / 4.0,
        (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / 96.0,
        (3.0 * z.powi(7) + 19.0 * z.powi(5) + 17.0 * z.powi(3) - 15.0 * z) / 384.0,
        (79.0 * z.powi(9) + 776.0 * z.powi(7) + 1482.0 * z.powi(5) - 1920.0 * z.powi(3) - 945.0 * z) / 92160.0,
    ];
    z + (1..).zip(terms).map(|(power, term)| term / degrees.powi(power)).sum::<f64>()
}

/// Share of a normal distribution above `x >= 0`, Abramowitz and Stegun 26.2.17: to 1e-7.
fn normal_tail(x: f64) -> f64 {
    const FACTORS: [f64; 5] = [0.31938153, -0.356563782, 1.781477937, -1.821255978, 1.330274429];
    let t = 1.0 / (1.0 + 0.2316419 * x);
    let polynomial = FACTORS.iter().rev().fold(0.0, |sum, factor| (sum + factor) * t);
    (-x * x / 2.0).exp() / std::f64::consts::TAU.sqrt() * polynomial
}

fn mean(values: impl Iterator<Item = f64>, count: usize) -> f64 {
    values.sum::<f64>() / count as f64
}

/// Quantile of sorted values, linear between neighbours (type 7 of Hyndman and Fan 1996, NumPy's default).
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let position = share * (sorted.len() - 1) as f64;
    let below = position.floor() as usize;
    let above = position.ceil() as usize;
    sorted[below] + (sorted[above] - sorted[below]) * position.fract()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn normal(rng: &mut ChaCha8Rng) -> f64 {
        let (u, v): (f64, f64) = (rng.random(), rng.random());
        (-2.0 * (1.0 - u).ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }

    fn normals(count: usize, seed: u64) -> Vec<f64> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        (0..count).map(|_| normal(&mut rng)).collect()
    }

    /// A plain percentile interval covers it in 92.6 % of samples of 20. The standard error of 8,000 samples is 0.25 %,
    /// and 1,000 resamples cost 0.2 % against 10,000.
    #[test]
    fn the_interval_covers_the_true_mean_as_often_as_it_says() {
        let samples = 8000;
        for n in [20, 50] {
            let covered = (0..samples)
                .filter(|&sample| {
                    let resampling_seed = samples + sample; // unlike any seed the values were drawn from
                    let interval = resampled_mean(&normals(n, sample), resampling_seed, 1000).unwrap();
                    interval.low <= 0.0 && 0.0 <= interval.high
                })
                .count();
            let share = covered as f64 / samples as f64;
            assert!((0.94..=0.96).contains(&share), "{share} of samples of {n}");
        }
    }

    /// Exactly, over every number of successes that can be.
    #[test]
    fn the_interval_of_a_share_covers_it_as_often_as_it_says() {
        for trials in [200, 500] {
            let ln_factorials: Vec<f64> = (0..=trials)
                .scan(0.0, |sum, n: usize| {
                    *sum += (n.max(1) as f64).ln();
                    Some(*sum)
                })
                .collect();
            for share in [0.5, 0.75, 0.85, 0.95_f64] {
                let probability = |successes: usize| {
                    let ways = ln_factorials[trials] - ln_factorials[successes] - ln_factorials[trials - successes];
                    let failures = (trials - successes) as f64;
                    (ways + successes as f64 * share.ln() + failures * (1.0 - share).ln()).exp()
                };
                let covers = |successes: &usize| {
                    let Interval { low, high, .. } = proportion(*successes, trials).unwrap();
                    (low..=high).contains(&share)
                };
                let covered: f64 = (0..=trials).filter(covers).map(probability).sum();
                assert!((0.93..=0.97).contains(&covered), "{share} in {trials}: {covered}");
            }
        }
    }

    /// Reference values: tables of Student's t (12.706, 2.776, 2.093 and 1.966 at 0.975) and of the normal
    /// distribution.
    #[test]
    fn fewer_values_lose_less_on_either_side() {
        for (degrees, expected) in [(4.0, 2.776), (19.0, 2.093), (399.0, 1.966)] {
            assert!((student_quantile(degrees) - expected).abs() < 2e-3, "{degrees}");
        }
        for (x, expected) in [(0.0, 0.5), (1.0, 0.158_655_3), (NORMAL_QUANTILE, 0.025), (3.0, 0.001_349_9)] {
            assert!((normal_tail(x) - expected).abs() < 1e-6, "{x}");
        }
        for (count, expected) in [(1, 0.0), (2, 0.0), (20, 0.0159), (1_000_000, 0.025)] {
            assert!((expanded_tail(count) - expected).abs() < 1e-4, "{count}");
        }
    }

    #[test]
    fn the_width_is_that_of_the_normal_approximation() {
        let values = normals(400, 7);
        let Interval { mean, low, high } = bootstrap_mean(&values, 1).unwrap();
        let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / 400.0;
        let expected = 2.0 * NORMAL_QUANTILE * (variance / 400.0).sqrt();
        assert!(((high - low) / expected - 1.0).abs() < 0.05, "{} against {expected}", high - low);
        assert!(low < mean && mean < high);
    }

    #[test]
    fn the_interval_depends_on_the_seed_and_not_on_threads() {
        let values = normals(60, 3);
        let with_threads = |count| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(count).build().unwrap();
            pool.install(|| bootstrap_mean(&values, 5).unwrap())
        };
        assert_eq!(with_threads(1), with_threads(4));
        assert_ne!(with_threads(1), bootstrap_mean(&values, 6).unwrap());
    }

    #[test]
    fn shifting_and_scaling_the_values_shifts_and_scales_the_interval() {
        let values = normals(40, 9);
        let moved: Vec<f64> = values.iter().map(|value| 3.0 * value + 10.0).collect();
        let (plain, moved) = (bootstrap_mean(&values, 2).unwrap(), bootstrap_mean(&moved, 2).unwrap());
        for (plain, moved) in [(plain.mean, moved.mean), (plain.low, moved.low), (plain.high, moved.high)] {
            assert!((3.0 * plain + 10.0 - moved).abs() < 1e-12);
        }
    }

    #[test]
    fn a_paired_difference_is_after_minus_before() {
        let before = normals(30, 4);
        let after: Vec<f64> = before.iter().zip(normals(30, 5)).map(|(b, noise)| b + 0.5 + 0.1 * noise).collect();
        let gain = paired_difference(&before, &after, 0).unwrap();
        assert!((gain.mean - 0.5).abs() < 0.1 && gain.low > 0.0 && gain.excludes_zero());
        assert!(paired_difference(&after, &before, 0).unwrap().high < 0.0);
        assert!(!paired_difference(&before, &before, 0).unwrap().excludes_zero());
        assert_eq!(paired_difference(&before, &after[1..], 0), Err(MetricsError::Unpaired { left: 30, right: 29 }));
    }

    /// Reference values: 8 of 10 is 0.4902 to 0.9433 and 0 of 20 is 0 to 0.1611 by Wilson's formula.
    #[test]
    fn proportions_follow_wilson() {
        let Interval { mean, low, high } = proportion(8, 10).unwrap();
        assert_eq!(mean, 0.8);
        assert!((low - 0.4902).abs() < 1e-4 && (high - 0.9433).abs() < 1e-4, "{low} {high}");
        let Interval { mean, low, high } = proportion(0, 20).unwrap();
        assert_eq!((mean, low), (0.0, 0.0));
        assert!((high - 0.1611).abs() < 1e-4, "{high}");
        assert_eq!(proportion(20, 20).unwrap().high, 1.0);
        assert_eq!(proportion(0, 0), Err(MetricsError::Empty));
        assert_eq!(proportion(3, 2), Err(MetricsError::Proportion { successes: 3, trials: 2 }));
    }

    #[test]
    fn nothing_and_nan_are_refused() {
        assert_eq!(bootstrap_mean(&[], 0), Err(MetricsError::Empty));
        assert_eq!(bootstrap_mean(&[1.0, f64::NAN], 0), Err(MetricsError::NotFinite { index: 1 }));
    }

    #[test]
    fn one_value_gives_an_interval_of_width_zero() {
        assert_eq!(bootstrap_mean(&[0.5], 0), Ok(Interval { mean: 0.5, low: 0.5, high: 0.5 }));
    }

    #[test]
    fn quantiles_interpolate_between_neighbours() {
        assert_eq!([0.0, 0.25, 0.5, 1.0].map(|share| quantile(&[1.0, 2.0, 4.0], share)), [1.0, 1.5, 2.0, 4.0]);
    }

    #[test]
    fn intervals_print_with_the_asked_precision() {
        let interval = Interval { mean: 0.51239, low: 0.5, high: 0.6 };
        assert_eq!(interval.to_string(), "0.512 [0.500, 0.600]");
        assert_eq!(format!("{interval:.1}"), "0.5 [0.5, 0.6]");
    }
}
