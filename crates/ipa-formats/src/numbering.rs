//! How published adapter files number the cross-attention layers of a UNet.
//!
//! A file counts the attention layers in the order in which the reference registers them: blocks
//! going down, blocks going up, the middle block last, two to a transformer block (self-attention
//! even, cross-attention odd). Everything else here counts cross-attention layers alone, in the
//! order in which they run: down, middle, up.

/// Cross-attention layers in the three parts of a UNet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SiteCounts {
    /// Layers in the blocks going down.
    pub down: usize,
    /// Layers in the middle block.
    pub mid: usize,
    /// Layers in the blocks going up.
    pub up: usize,
}

/// Number in a published file of the cross-attention layer that runs as `site`-th, from 0.
///
/// Published files count every attention layer, self (even) and cross (odd), the mid block last.
pub fn published_number(site: usize, SiteCounts { down, mid, up }: SiteCounts) -> usize {
    let registered = match site {
        _ if site < down => site,
        _ if site < down + mid => site + up,
        _ => site - mid,
    };
    2 * registered + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    const SD15: SiteCounts = SiteCounts { down: 6, mid: 1, up: 9 };
    const SDXL: SiteCounts = SiteCounts { down: 24, mid: 10, up: 36 };

    #[test]
    fn published_numbers_of_sd15() {
        let number = |site| published_number(site, SD15);
        assert!((0..16).map(number).eq([1, 3, 5, 7, 9, 11, 31, 13, 15, 17, 19, 21, 23, 25, 27, 29]));
    }

    #[test]
    fn published_numbers_of_sdxl() {
        // In running order, per transformer: first and last number in the file.
        let transformers = [
            (1, 3),
            (5, 7),
            (9, 27),
            (29, 47),
            (121, 139), // the middle block
            (49, 67),
            (69, 87),
            (89, 107),
            (109, 111),
            (113, 115),
            (117, 119),
        ];
        let expected = transformers.iter().flat_map(|&(first, last)| (first..=last).step_by(2));
        assert!((0..70).map(|site| published_number(site, SDXL)).eq(expected));
    }
}
