//! Seeds that depend on nothing but what is drawn.

use sha2::{Digest, Sha256};

/// The seed of sample `sample`, counted from 0, of an image: the first 53 bits of SHA-256 of `<id>/<sample>`, so that every
/// reader of JSON keeps it whole.
///
/// In Python: `int.from_bytes(sha256(f"{id}/{sample}".encode()).digest()[:8], "big") >> 11`.
pub fn sample_seed(id: &str, sample: u32) -> u64 {
    let digest = Sha256::digest(format!("{id}/{sample}"));
    digest[..8].iter().fold(0, |bits, byte| (bits << 8) | u64::from(*byte)) >> 11
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reference values: the line of Python above.
    #[test]
    fn seeds_are_those_of_the_formula() {
        let found = [sample_seed("397133", 0), sample_seed("397133", 3), sample_seed("cats/ä.png", 1)];
        assert_eq!(found, [3540862958906403, 1135933902980335, 8766192475835268]);
    }
}
