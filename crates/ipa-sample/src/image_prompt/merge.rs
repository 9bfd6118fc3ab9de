//! Several references as one.

use std::fmt;

use ipa_core::tch::{Kind, Tensor};
use serde::{Deserialize, Serialize};

/// How several references become one prompt.
///
/// All but [`Merge::Concat`] act on what the encoder says of them, before the projection, as ComfyUI_IPAdapter_plus does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Merge {
    /// The tokens of all side by side.
    #[default]
    Concat,
    /// Their sum.
    Add,
    /// The first less the mean of the others.
    Subtract,
    /// Their mean.
    Average,
    /// The mean of each value divided by the root of the sum of its squares over the references.
    NormAverage,
    /// The largest of each value.
    Max,
    /// The smallest of each value.
    Min,
}

impl Merge {
    /// `[1, references, ..]` → `[1, 1, ..]`, or as it is under [`Merge::Concat`] and of a single reference.
    pub(crate) fn apply(self, features: &Tensor) -> Tensor {
        let num = features.size()[1];
        if num == 1 {
            return features.shallow_clone();
        }
        let mean = |features: &Tensor| features.mean_dim(1, true, None::<Kind>);
        match self {
            Self::Concat => features.shallow_clone(),
            Self::Add => features.sum_dim_intlist(1, true, None::<Kind>),
            Self::Subtract => features.narrow(1, 0, 1) - mean(&features.narrow(1, 1, num - 1)),
            Self::Average => mean(features),
            Self::NormAverage => {
                let norms = features.norm_scalaropt_dim(2, 1, true).clamp_min(f64::from(f32::MIN_POSITIVE));
                mean(&(features / norms))
            }
            Self::Max => features.amax(1, true),
            Self::Min => features.amin(1, true),
        }
    }
}

impl fmt::Display for Merge {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.serialize(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merging_is_value_by_value() {
        let features = Tensor::from_slice(&[3f32, -1., 4., 1.]).view([1, 2, 2]);
        let merged = |merge: Merge| Vec::<f32>::try_from(merge.apply(&features).view(-1)).expect("numbers");
        assert_eq!(merged(Merge::Concat), [3., -1., 4., 1.]);
        assert_eq!(merged(Merge::Add), [7., 0.]);
        assert_eq!(merged(Merge::Subtract), [-1., -2.]);
        assert_eq!(merged(Merge::Average), [3.5, 0.]);
        assert_eq!(merged(Merge::Max), [4., 1.]);
        assert_eq!(merged(Merge::Min), [3., -1.]);
        let norm_average = merged(Merge::NormAverage);
        assert!((norm_average[0] - 0.7).abs() < 1e-6 && norm_average[1].abs() < 1e-6, "{norm_average:?}");
        assert_eq!(Merge::NormAverage.to_string(), "norm-average");
    }
}
