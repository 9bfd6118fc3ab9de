//! Sizes of training pictures by aspect ratio, and batches of one size each.

use std::collections::BTreeMap;

/// The sizes that pictures are brought to, all of about the same area.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Buckets {
    sizes: Vec<(u32, u32)>,
}

impl Buckets {
    /// Sizes (width, height) whose sides are multiples of `step` from half to twice `resolution`, each as long as the
    /// square's area allows beside the other.
    ///
    /// # Panics
    /// If `step` is 0 or does not divide `resolution`.
    pub fn new(resolution: u32, step: u32) -> Self {
        assert!(step > 0 && resolution > 0 && resolution.is_multiple_of(step), "sides are multiples of the step");
        let (area, longest) = (u64::from(resolution) * u64::from(resolution), 2 * resolution);
        let shortest = resolution.div_ceil(2).next_multiple_of(step);
        let mut sizes = Vec::new();
        for width in (shortest..=longest).step_by(step as usize) {
            let height = (area / u64::from(width)).min(longest.into()) as u32 / step * step;
            if height >= shortest {
                sizes.extend([(width, height), (height, width)]);
            }
        }
        sizes.sort_unstable();
        sizes.dedup();
        Self { sizes }
    }

    /// All sizes, (width, height), the narrowest first.
    pub fn sizes(&self) -> &[(u32, u32)] {
        &self.sizes
    }

    /// Which of the sizes is nearest to a picture's in the logarithm of the aspect ratio; of equal ones the largest.
    pub fn nearest(&self, width: u32, height: u32) -> usize {
        let ratio = |(width, height): (u32, u32)| (f64::from(width.max(1)) / f64::from(height.max(1))).ln();
        let wanted = ratio((width, height));
        let rank = |&size: &(u32, u32)| ((ratio(size) - wanted).abs(), u64::from(size.0) * u64::from(size.1));
        let better = |a: &(f64, u64), b: &(f64, u64)| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1));
        let ranked = self.sizes.iter().map(rank).enumerate();
        ranked.min_by(|a, b| better(&a.1, &b.1)).map_or(0, |(index, _)| index)
    }
}

/// Rows in batches of one bucket each: in order, a batch comes as soon as its bucket has enough; at the end come
/// smaller ones, by bucket. Every row is in one batch.
///
/// # Panics
/// If `rows_per_step` is 0.
pub fn batches(order: &[u32], bucket_of: impl Fn(u32) -> usize, rows_per_step: usize) -> Vec<Vec<u32>> {
    assert!(rows_per_step > 0, "a batch has rows");
    let mut open: BTreeMap<usize, Vec<u32>> = BTreeMap::new();
    let mut batches = Vec::with_capacity(order.len().div_ceil(rows_per_step));
    for &row in order {
        let batch = open.entry(bucket_of(row)).or_default();
        batch.push(row);
        if batch.len() == rows_per_step {
            batches.push(std::mem::take(batch));
        }
    }
    batches.extend(open.into_values().filter(|batch| !batch.is_empty()));
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_fit_their_area_and_come_in_both_orientations() {
        for (resolution, step) in [(512, 64), (1024, 64), (64, 8), (768, 64), (40, 8)] {
            let buckets = Buckets::new(resolution, step);
            assert!(buckets.sizes().contains(&(resolution, resolution)));
            for &(width, height) in buckets.sizes() {
                assert!(width * height <= resolution * resolution, "{width} x {height}");
                assert!(width.is_multiple_of(step) && height.is_multiple_of(step), "{width} x {height}");
                assert!(
                    width.min(height) * 2 >= resolution && width.max(height) <= 2 * resolution,
                    "{width} x {height}"
                );
                assert!(buckets.sizes().contains(&(height, width)));
            }
        }
        let sizes = Buckets::new(512, 64).sizes().to_vec();
        for size in [(256, 1024), (384, 640), (512, 512), (576, 448), (768, 320), (1024, 256)] {
            assert!(sizes.contains(&size), "{size:?} of {sizes:?}");
        }
    }

    #[test]
    fn the_nearest_size_has_the_nearest_shape() {
        let buckets = Buckets::new(512, 64);
        let nearest = |width, height| buckets.sizes()[buckets.nearest(width, height)];
        assert_eq!(nearest(3000, 3000), (512, 512));
        assert_eq!(nearest(64, 64), (512, 512));
        assert_eq!(nearest(1920, 1080), (640, 384));
        assert_eq!(nearest(1080, 1920), (384, 640));
        assert_eq!(nearest(100, 10_000), (256, 1024));
        assert_eq!(nearest(10_000, 1), (1024, 256));
        for &(width, height) in buckets.sizes() {
            let (found_width, found_height) = nearest(3 * width, 3 * height);
            assert_eq!(found_width * height, found_height * width);
            assert!(found_width >= width);
        }
    }

    #[test]
    fn batches_are_of_one_bucket_and_hold_every_row_once() {
        let order: Vec<u32> = (0..100).map(|row| row * 37 % 100).collect();
        let bucket = |row: u32| (row % 3) as usize;
        let batches = batches(&order, bucket, 8);
        let mut rows: Vec<u32> = batches.concat();
        rows.sort_unstable();
        assert!(rows.into_iter().eq(0..100));
        assert!(batches.iter().all(|batch| batch.iter().all(|&row| bucket(row) == bucket(batch[0]))));
        let sizes: Vec<usize> = batches.iter().map(Vec::len).collect();
        assert_eq!(sizes, [[8; 12].to_vec(), vec![2, 1, 1]].concat());
        assert_eq!(super::batches(&order, |_| 0, 100), [order]);
    }
}
