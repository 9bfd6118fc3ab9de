//! Rows as batches of one size.

use std::collections::BTreeMap;

use ipa_adapter::Features;
use ipa_core::noise::Draws;
use ipa_core::tch::{Device, Kind, Tensor};

use crate::EncodedRow;

/// Rows in one call of the model; under guidance each takes the place of two.
pub(super) const AT_ONCE: usize = 4;

/// Positions of rows in batches of one size of latents and one number of faces, at most [`AT_ONCE`] in each.
pub(super) fn batches(rows: &[&EncodedRow]) -> Vec<Vec<usize>> {
    let mut by_size: BTreeMap<(Vec<i64>, Vec<i64>), Vec<usize>> = BTreeMap::new();
    for (position, row) in rows.iter().enumerate() {
        let faces = row.face.as_ref().map(Tensor::size).unwrap_or_default();
        by_size.entry((row.posterior.mean.size(), faces)).or_default().push(position);
    }
    by_size.into_values().flat_map(|rows| rows.chunks(AT_ONCE).map(<[usize]>::to_vec).collect::<Vec<_>>()).collect()
}

/// A part of every row, one after another.
pub(super) fn stack<'a>(rows: &[&'a EncodedRow], part: impl Fn(&'a EncodedRow) -> &'a Tensor) -> Tensor {
    Tensor::cat(&rows.iter().map(|row| part(row)).collect::<Vec<_>>(), 0)
}

/// What the adapter reads of them, one reference a row.
pub(super) fn features(rows: &[&EncodedRow], device: Device) -> Features {
    let all = |part: fn(&EncodedRow) -> Option<&Tensor>| {
        let parts: Vec<&Tensor> = rows.iter().filter_map(|row| part(row)).collect();
        (!parts.is_empty()).then(|| Tensor::cat(&parts, 0).to_device(device))
    };
    Features { image: all(|row| row.image_features.as_ref()), face: all(|row| row.face.as_ref()), structure: 1.0 }
}

/// Normal numbers for every row, in the shape of its latents: those of its number whatever else is in the batch.
pub(super) fn noise(seed: u64, purpose: &str, numbered: &[(u64, &EncodedRow)]) -> Tensor {
    let drawn =
        |(number, row): &(u64, &EncodedRow)| Draws::counted(seed, purpose, *number).normal(&row.posterior.mean.size());
    Tensor::cat(&numbered.iter().map(drawn).collect::<Vec<_>>(), 0)
}

/// Whether all of a tensor are numbers.
pub(super) fn is_finite(tensor: &Tensor) -> bool {
    tensor.to_kind(Kind::Float).isfinite().all().int64_value(&[]) != 0
}
