//! Ranges of timesteps: a loss means little without its noise level.

use std::ops::RangeInclusive;

use serde::Serialize;

use super::RowLoss;

/// Ranges that the timesteps are told apart by.
pub const NUM_RANGES: usize = 4;

/// Equal ranges of the timesteps that a run draws, from the least noise to the most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ranges {
    first: i64,
    count: i64,
}

/// The loss of a range.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct RangeLoss {
    /// Its first timestep.
    pub first: i64,
    /// Its last one.
    pub last: i64,
    /// None before the first row of the range.
    pub loss: Option<f64>,
}

impl Ranges {
    /// Ranges of these timesteps; of an empty range, of its first one.
    pub fn new(timesteps: RangeInclusive<i64>) -> Self {
        let (first, last) = timesteps.into_inner();
        Self { first, count: last.saturating_sub(first).saturating_add(1).max(1) }
    }

    /// First and last timestep of each range.
    pub fn bounds(&self) -> [(i64, i64); NUM_RANGES] {
        let start = |index: usize| {
            let start = (index as i128 * i128::from(self.count) + NUM_RANGES as i128 - 1) / NUM_RANGES as i128;
            self.first.saturating_add(start as i64) // at most count, which is an i64
        };
        std::array::from_fn(|index| (start(index), start(index + 1) - 1))
    }

    /// Mean loss of the rows of each range; none where there is no row.
    pub fn means(&self, rows: &[RowLoss]) -> [Option<f64>; NUM_RANGES] {
        let (mut sums, mut counts) = ([0.0; NUM_RANGES], [0u32; NUM_RANGES]);
        for row in rows {
            let range = self.of(row.timestep);
            sums[range] += row.loss;
            counts[range] += 1;
        }
        std::array::from_fn(|range| (counts[range] > 0).then(|| sums[range] / f64::from(counts[range])))
    }

    fn of(&self, timestep: i64) -> usize {
        let offset = timestep.saturating_sub(self.first).clamp(0, self.count - 1);
        (i128::from(offset) * NUM_RANGES as i128 / i128::from(self.count)) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_equal_and_cover_all_timesteps() {
        assert_eq!(Ranges::new(0..=999).bounds(), [(0, 249), (250, 499), (500, 749), (750, 999)]);
        for timesteps in [0..=999, 100..=102, 7..=7, 3..=20] {
            let ranges = Ranges::new(timesteps.clone());
            for timestep in timesteps {
                let (first, last) = ranges.bounds()[ranges.of(timestep)];
                assert!((first..=last).contains(&timestep), "{ranges:?} {timestep}");
            }
        }
    }

    #[test]
    fn timesteps_outside_count_for_the_nearest_range() {
        let ranges = Ranges::new(200..=299);
        assert_eq!([i64::MIN, 0, 250, 999, i64::MAX].map(|timestep| ranges.of(timestep)), [0, 0, 2, 3, 3]);
    }

    #[test]
    fn means_are_of_the_rows_of_a_range() {
        let rows = [(0, 1.0), (100, 3.0), (999, 0.5)].map(|(timestep, loss)| RowLoss { timestep, loss });
        assert_eq!(Ranges::new(0..=999).means(&rows), [Some(2.0), None, None, Some(0.5)]);
    }
}
