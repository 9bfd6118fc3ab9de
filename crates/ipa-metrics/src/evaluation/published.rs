//! Scores that others published, to be set beside a protocol run.

use serde::{Deserialize, Serialize};

/// Numbers that were not measured here, and what keeps them from being compared number by number.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PublishedScores {
    /// Where they stand.
    pub source: String,
    /// By method, in the table's order.
    pub rows: Vec<PublishedRow>,
    /// What to keep in mind.
    pub caveats: Vec<String>,
    /// What the run beside them did otherwise; if there is anything, the numbers cannot be compared one by one.
    pub deviations: Vec<String>,
}

/// One published method.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PublishedRow {
    /// Its name in the table.
    pub method: String,
    /// Trained parameters, in millions.
    pub num_million_parameters: u32,
    /// CLIP-T as printed, which can only be 2.5 times a cosine.
    pub clip_t: f64,
    /// CLIP-I as printed.
    pub clip_i: f64,
}

impl PublishedScores {
    /// Table 1 of the IP-Adapter paper.
    pub fn paper() -> Self {
        let row = |method: &str, num_million_parameters, clip_t, clip_i| PublishedRow {
            method: method.to_owned(),
            num_million_parameters,
            clip_t,
            clip_i,
        };
        let caveats = [
            "Published numbers, copied from the paper; nothing of them was measured here.",
            "CLIP-T is printed without its formula. Cosines of matching pairs under ViT-L/14 lie near 0.2 to 0.27, so 0.588 \
             can only be CLIPScore, 2.5 times the cosine; compare it with the column that is scaled alike.",
            "Each COCO image has about five captions, and the paper does not say which it used or whether it averaged; both \
             are shown here.",
            "Whether captions were prefixed with \"A photo depicts \", as the original CLIPScore does, is not said; here they \
             are not.",
            "Seeds, negative prompt, picture size and the crop of images that are not square are not said either. \
             Differences of 0.01 mean little.",
        ];
        Self {
            source: "arXiv:2308.06721v1, Table 1 (COCO 2017 validation, 5,000 images, 4 samples each)".to_owned(),
            rows: vec![
                row("Open unCLIP", 893, 0.608, 0.858),
                row("Kandinsky-2-1", 1229, 0.599, 0.855),
                row("Versatile Diffusion", 860, 0.587, 0.830),
                row("SD Image Variations", 860, 0.548, 0.760),
                row("SD unCLIP", 870, 0.584, 0.810),
                row("Uni-ControlNet (global)", 47, 0.506, 0.736),
                row("T2I-Adapter (style)", 39, 0.485, 0.648),
                row("ControlNet Shuffle", 361, 0.421, 0.616),
                row("IP-Adapter", 22, 0.588, 0.828),
            ],
            caveats: caveats.map(str::to_owned).to_vec(),
            deviations: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// arXiv:2308.06721v1, Table 1.
    #[test]
    fn the_table_is_the_papers() {
        let rows = PublishedScores::paper().rows;
        let sums = rows
            .iter()
            .fold((0, 0.0, 0.0), |(a, b, c), row| (a + row.num_million_parameters, b + row.clip_t, c + row.clip_i));
        assert_eq!((rows.len(), sums.0), (9, 5181));
        assert!((sums.1 - 4.926).abs() < 1e-9 && (sums.2 - 6.941).abs() < 1e-9, "{sums:?}");
        let ours = &rows[8];
        assert_eq!((ours.method.as_str(), ours.clip_t, ours.clip_i), ("IP-Adapter", 0.588, 0.828));
    }
}
