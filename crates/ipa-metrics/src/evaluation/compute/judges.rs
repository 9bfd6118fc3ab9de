//! Shares of pictures that judges of pixels found right.

use std::collections::{BTreeMap, BTreeSet};

use super::super::{EvaluationError, Row};
use super::{case_means, cases, failed, interval};
use crate::{Interval, MetricsError, proportion};

/// The share of every judge with an interval that depends on how many pictures a case has, never on what was found.
///
/// One picture a case is a trial, for which Wilson's interval holds. Several of one case are alike, so cases are
/// resampled; but where all are right that sees no spread at all, so each end is the outer one of that interval and of
/// Wilson's over pictures.
pub(super) fn judged(rows: &[&Row], name: &str) -> Result<BTreeMap<String, Interval>, EvaluationError> {
    let whats: BTreeSet<&String> = rows.iter().flat_map(|row| row.judged.keys()).collect();
    let share = |what: &String| Ok(share(rows, what, name)?.map(|found| (what.clone(), found)));
    whats.into_iter().filter_map(|what| share(what).transpose()).collect()
}

fn share(rows: &[&Row], what: &str, name: &str) -> Result<Option<Interval>, EvaluationError> {
    let found = |row: &Row| row.judged.get(what).copied();
    let judged: Vec<&Row> = rows.iter().copied().filter(|row| found(row).is_some()).collect();
    let right = judged.iter().filter(|row| found(row) == Some(true)).count();
    let over_pictures = || proportion(right, judged.len()).map_err(|source: MetricsError| failed(name, source));
    if judged.is_empty() {
        return Ok(None);
    }
    if cases(&judged).count() == judged.len() {
        return over_pictures().map(Some);
    }
    let over_cases = interval(&case_means(&judged, |row| found(row).map(|right| f64::from(u8::from(right)))), name)?;
    let pictures = over_pictures()?;
    let outer =
        |Interval { mean, low, high }| Interval { mean, low: pictures.low.min(low), high: pictures.high.max(high) };
    Ok(over_cases.map(outer))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::super::sample::row;
    use super::*;

    /// Of twelve cases with so many pictures each, all right but `wrong` of the first case.
    fn colour(num_pictures: u64, wrong: u64) -> Interval {
        let rows: Vec<Row> = (0..12)
            .flat_map(|case| (0..num_pictures).map(move |seed| (case, seed)))
            .map(|(case, seed)| {
                let judged = [("color".to_owned(), case > 0 || seed >= wrong)].into();
                Row { judged, ..row(&format!("test {}", case + 1), "mascot", seed) }
            })
            .collect();
        judged(&rows.iter().collect::<Vec<_>>(), "mascot").unwrap()["color"]
    }

    #[test]
    fn an_interval_does_not_widen_where_nothing_is_wrong() {
        for num in [1, 4] {
            let (perfect, nearly) = (colour(num, 0), colour(num, 1));
            assert!(perfect.mean == 1.0 && perfect.low > nearly.low && perfect.low < 1.0, "{perfect} {nearly}");
            assert!(nearly.low < nearly.mean && nearly.mean < nearly.high, "{nearly}");
        }
        assert_eq!(colour(1, 0), proportion(12, 12).unwrap());
        assert_eq!(colour(4, 0), proportion(48, 48).unwrap());
    }
}
