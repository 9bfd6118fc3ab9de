//! What a conversion did with every tensor.

use serde::Serialize;

use crate::{Dtype, Weights};

/// What a conversion did with every tensor, sorted by name.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct ConversionReport {
    /// What was written.
    pub tensors: Vec<Moved>,
    /// What was read and not written.
    pub dropped: Vec<Dropped>,
    /// What a whole file would have too.
    pub missing: Vec<String>,
}

/// A tensor that was written.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Moved {
    /// Its name in the new file.
    pub name: String,
    /// Names in the old file of what it was made of.
    pub from: Vec<String>,
    /// Its sizes, outermost first.
    pub shape: Vec<usize>,
    /// Element type in the old file.
    pub dtype: Dtype,
    /// Element type in the new file.
    pub written: Dtype,
}

/// A tensor that was left out.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub struct Dropped {
    /// Its name in the old file.
    pub name: String,
    /// Why.
    pub reason: String,
}

impl ConversionReport {
    pub(super) fn new(weights: &Weights, dtype: Option<Dtype>, dropped: &[Dropped], missing: &[String]) -> Self {
        let moved = |name: &str| {
            let info = weights.info(name)?;
            Some(Moved {
                name: name.to_owned(),
                from: weights.sources(name).into_iter().map(str::to_owned).collect(),
                shape: info.shape.clone(),
                dtype: info.dtype,
                written: info.dtype.written_as(dtype),
            })
        };
        let mut dropped = dropped.to_vec();
        dropped.sort();
        Self { tensors: weights.names().filter_map(moved).collect(), dropped, missing: missing.to_vec() }
    }
}
