//! The names that an adapter's published tensors have elsewhere.

use super::dialect::{AdapterDialect, DIFFUSERS_PROJECTION, TRAINER_ATTENTION, TRAINER_PROJECTION, UNET};
use super::diffusers::diffusers_names;
use super::layers::{ATTENTION, numbered};
use super::paths::in_diffusers;
use super::projections::{Network, PROJECTION};
use super::unet_layers::UnetLayers;

/// Names that a published tensor gets, and which half of it each takes: two if it is split. `None` if it lies in an
/// attention layer that the UNet does not have.
///
/// What belongs neither to the projection nor to a layer keeps its name.
pub(super) fn names(
    published: &str,
    to: AdapterDialect,
    network: Network,
    layers: &UnetLayers,
) -> Option<Vec<(String, Option<usize>)>> {
    let whole = |name: String| Some(vec![(name, None)]);
    if let Some(rest) = published.strip_prefix(PROJECTION) {
        return match to {
            AdapterDialect::Published => whole(published.to_owned()),
            AdapterDialect::Trainer | AdapterDialect::Processors => whole(format!("{TRAINER_PROJECTION}{rest}")),
            AdapterDialect::Diffusers => {
                let named = |(name, half)| (format!("{}0.{name}", DIFFUSERS_PROJECTION[0]), half);
                Some(diffusers_names(network, rest).into_iter().map(named).collect())
            }
        };
    }
    let Some(rest) = published.strip_prefix(ATTENTION) else { return whole(published.to_owned()) };
    let in_layer = |named: &dyn Fn(String, &str) -> Option<String>| {
        let (number, rest) = numbered(rest)?;
        whole(named(layers.name(number)?, rest)?)
    };
    match to {
        AdapterDialect::Published => whole(published.to_owned()),
        AdapterDialect::Trainer => whole(format!("{TRAINER_ATTENTION}{rest}")),
        AdapterDialect::Processors => in_layer(&|layer, rest| Some(format!("{UNET}{layer}.processor.{rest}"))),
        AdapterDialect::Diffusers => in_layer(&|layer, rest| Some(format!("{layer}.{}", in_diffusers(rest)?))),
    }
}

/// The module that a LoRA's tensor changes, and which of the two factors it is, `down` or `up`; `None` for other tensors
/// and layers that the UNet does not have.
pub(super) fn lora_factor<'a>(published: &'a str, layers: &UnetLayers) -> Option<(String, &'a str)> {
    let (number, rest) = numbered(published.strip_prefix(ATTENTION)?)?;
    let (matrix, factor) = rest.strip_suffix(".weight")?.split_once("_lora.")?;
    let matrix = if matrix == "to_out" { "to_out.0" } else { matrix };
    Some((format!("{}.{matrix}", layers.name(number)?), factor))
}

/// The modules of the attention layers that an adapter's LoRA may change, each with the start of its published names.
pub(super) fn lora_modules(layers: &UnetLayers) -> Vec<(String, String)> {
    let of = |number: usize| {
        let layer = layers.name(number);
        ["to_q", "to_k", "to_v", "to_out"].into_iter().filter_map(move |matrix| {
            let module = if matrix == "to_out" { "to_out.0" } else { matrix };
            Some((format!("{}.{module}", layer.as_ref()?), format!("{ATTENTION}{number}.{matrix}_lora")))
        })
    };
    (0..2 * layers.len()).flat_map(of).collect()
}

/// Whether a published name is that of a LoRA's tensor.
pub(super) fn is_lora(published: &str) -> bool {
    published.starts_with(ATTENTION) && published.contains("_lora.")
}
