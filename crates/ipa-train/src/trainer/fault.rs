//! Where a number that is none begins.

use std::collections::BTreeMap;

use ipa_adapter::IpAdapter;
use ipa_core::tch::{Kind, Tensor};

use crate::objective::Batch;

/// The first of what a step is computed from that holds such a number, if any does.
pub(super) fn of_batch(batch: &Batch, adapter: &IpAdapter) -> Option<String> {
    let inputs = [
        ("latents, of a picture", Some(&batch.latents)),
        ("text_embeds, of a caption", Some(&batch.text_embeds)),
        ("image_features, of a reference", batch.image_features.as_ref()),
        ("face, of an identity file", batch.face.as_ref()),
    ];
    let input = inputs.into_iter().find(|(_, tensor)| tensor.is_some_and(|tensor| !is_finite(tensor)));
    let variable = || sorted(adapter).into_iter().find(|(_, tensor)| !is_finite(tensor));
    let input = input.map(|(name, _)| format!("the input {name},"));
    input.or_else(|| variable().map(|(name, _)| format!("the adapter's `{name}`")))
}

/// The first tensor of the adapter whose gradient holds one.
pub(super) fn of_gradient(adapter: &IpAdapter) -> String {
    let is_broken = |tensor: &Tensor| tensor.grad().defined() && !is_finite(&tensor.grad());
    let name = sorted(adapter).into_iter().find(|(_, tensor)| is_broken(tensor)).map(|(name, _)| name);
    name.map_or_else(|| "the gradient".to_owned(), |name| format!("the gradient of `{name}`"))
}

fn sorted(adapter: &IpAdapter) -> BTreeMap<String, Tensor> {
    adapter.variables().into_iter().collect()
}

fn is_finite(tensor: &Tensor) -> bool {
    tensor.detach().to_kind(Kind::Float).isfinite().all().int64_value(&[]) != 0
}
