//! Pictures that are the same, or look it.

use std::collections::HashMap;
use std::hash::Hash;

/// Hashes that differ in as many of 64 bits belong to pictures that look alike.
const NEAR_BITS: u32 = 4;
/// Of one band more than bits may differ, one is equal: only those are compared.
const BANDS: u32 = NEAR_BITS + 1;

/// For each thing the first one before it that is equal.
pub(super) fn same<T: Eq + Hash>(things: impl Iterator<Item = Option<T>>) -> Vec<Option<usize>> {
    let mut first: HashMap<T, usize> = HashMap::new();
    let earlier = |(index, thing): (usize, Option<T>)| {
        let found = *first.entry(thing?).or_insert(index);
        (found != index).then_some(found)
    };
    things.enumerate().map(earlier).collect()
}

/// For each hash an earlier one that is near, the nearest of them, and in how many bits they differ.
pub(super) fn near_duplicates(hashes: &[Option<u64>]) -> Vec<Option<(usize, u32)>> {
    let equal = same(hashes.iter().copied());
    let mut seen: HashMap<(u32, u64), Vec<usize>> = HashMap::new();
    let near = |(index, hash): (usize, &Option<u64>)| {
        let hash = (*hash)?;
        if let Some(earlier) = equal[index] {
            return Some((earlier, 0)); // and stays out of the bands, which hold each hash once
        }
        let mut nearest: Option<(usize, u32)> = None;
        for band in 0..BANDS {
            let others = seen.entry((band, bits_of(hash, band))).or_default();
            for &other in others.iter() {
                let distance = hashes[other].map_or(u32::MAX, |other| (other ^ hash).count_ones());
                if distance <= NEAR_BITS && nearest.is_none_or(|(_, least)| distance < least) {
                    nearest = Some((other, distance));
                }
            }
            others.push(index);
        }
        nearest
    };
    hashes.iter().enumerate().map(near).collect()
}

/// Thirteen bits of a hash, at last twelve.
fn bits_of(hash: u64, band: u32) -> u64 {
    let width = u64::BITS.div_ceil(BANDS);
    hash >> (band * width) & ((1 << width) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_things_point_to_the_first() {
        let things = ["a", "b", "a", "c", "a", "b"].map(Some);
        assert_eq!(same(things.into_iter()), [None, None, Some(0), None, Some(0), Some(1)]);
        assert_eq!(same([None::<u8>, None].into_iter()), [None, None]);
    }

    #[test]
    fn hashes_up_to_four_bits_apart_are_found_wherever_the_bits_are() {
        let hash = 0x0123_4567_89ab_cdef_u64;
        let changed = |bits: &[u32]| Some(bits.iter().fold(hash, |hash, bit| hash ^ (1 << bit)));
        assert_eq!(near_duplicates(&[Some(hash), None, changed(&[])]), [None, None, Some((0, 0))]);
        for bits in [&[63][..], &[0, 13], &[0, 13, 26, 39], &[63, 1, 14, 40]] {
            let found = near_duplicates(&[Some(hash), changed(bits)]);
            assert_eq!(found, [None, Some((0, bits.len() as u32))], "{bits:?}");
        }
        assert_eq!(near_duplicates(&[Some(hash), changed(&[0, 13, 26, 39, 52])]), [None, None]);
        let found = near_duplicates(&[Some(hash), changed(&[1, 2, 3]), changed(&[1, 2])]);
        assert_eq!(found[2], Some((1, 1)), "the nearest");
    }
}
