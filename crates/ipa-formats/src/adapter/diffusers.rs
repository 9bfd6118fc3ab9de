//! Projections under the names that diffusers gives them.
//!
//! Source: diffusers' `loaders/unet.py`, `_convert_ip_adapter_image_proj_to_diffusers`.

use std::collections::BTreeMap;

use super::AdapterError;
use super::layers::numbered;
use super::projections::{Network, PERCEIVER};
use super::schema::Tensors;
use crate::TensorInfo;

/// Name without prefix, names in the file, and what these make.
type Made = (String, Vec<String>, TensorInfo);

/// Reads names in the file, with what follows their prefix, back to published ones without prefix.
///
/// Keys and values, which are two tensors here and one there, are to be concatenated.
pub(super) fn projection_parts(names: &[(&str, &str)], tensors: &Tensors) -> Result<Vec<Made>, AdapterError> {
    let network = likely_network(names, tensors);
    let mut made = Vec::new();
    let mut halves = BTreeMap::<String, [Option<&str>; 2]>::new();
    for &(source, rest) in names {
        let (prefix, name) = published(network, rest);
        match half(rest) {
            Some((layer, half)) => {
                halves.entry(format!("{prefix}layers.{layer}.0.to_kv.weight")).or_default()[half] = Some(source);
            }
            None => made.push((format!("{prefix}{name}"), vec![source.to_owned()], tensors[source].clone())),
        }
    }
    for (name, [key, value]) in halves {
        let (Some(key), Some(value)) = (key, value) else {
            return Err(AdapterError::Missing { name: other_half(key.or(value).unwrap_or_default()) });
        };
        made.push((name, vec![key.to_owned(), value.to_owned()], joined(key, value, tensors)?));
    }
    Ok(made)
}

/// Layer of a key (0) or value (1) matrix.
fn half(rest: &str) -> Option<(usize, usize)> {
    let (layer, rest) = numbered(rest.strip_prefix("layers.")?)?;
    match rest {
        "attn.to_k.weight" => Some((layer, 0)),
        "attn.to_v.weight" => Some((layer, 1)),
        _ => None,
    }
}

/// Name of the value matrix that belongs to a key matrix, or the other way.
fn other_half(name: &str) -> String {
    match name.strip_suffix("to_k.weight") {
        Some(start) => format!("{start}to_v.weight"),
        None => format!("{}to_k.weight", name.strip_suffix("to_v.weight").unwrap_or(name)),
    }
}

/// The rows of two matrices one after the other.
fn joined(key: &str, value: &str, tensors: &Tensors) -> Result<TensorInfo, AdapterError> {
    let fault = || AdapterError::Halves { key: key.to_owned(), value: value.to_owned() };
    let info = &tensors[key];
    let [rows, columns] = info.shape[..] else { return Err(fault()) };
    let rows = rows.checked_mul(2).filter(|_| *info == tensors[value]).ok_or_else(fault)?;
    let joined = TensorInfo { dtype: info.dtype, shape: vec![rows, columns] };
    joined.checked_bytes().ok_or_else(fault)?;
    Ok(joined)
}

/// Which network a projection is, whose depth does not matter here.
fn likely_network(names: &[(&str, &str)], tensors: &Tensors) -> Network {
    let has = |start: &str| names.iter().any(|(_, rest)| rest.starts_with(start));
    match () {
        () if has("image_embeds.") => Network::Linear,
        () if has("proj.net.") => Network::FacePerceiver { depth: 0 },
        () if has("ff.net.") && one_token_out(names, tensors) => Network::EveryFeature,
        () if has("ff.net.") => Network::Face,
        () => Network::Resampler { depth: 0 },
    }
}

/// Beginnings of names in diffusers, and of the published ones, outside of a resampler.
fn renames(network: Network) -> &'static [(&'static str, &'static str)] {
    match network {
        Network::Linear => &[("image_embeds.", "proj.")],
        Network::EveryFeature => &[("ff.net.0.proj.", "proj.0."), ("ff.net.2.", "proj.2."), ("norm.", "proj.3.")],
        Network::Face => &[("ff.net.0.proj.", "proj.0."), ("ff.net.2.", "proj.2.")],
        Network::FacePerceiver { .. } => {
            &[("proj.net.0.proj.", "proj.0."), ("proj.net.2.", "proj.2."), ("norm.", "norm.")]
        }
        Network::Resampler { .. } => &[],
    }
}

/// Published prefix and rest of a name.
fn published(network: Network, rest: &str) -> (&'static str, String) {
    let renamed = renames(network).iter().find_map(|(from, to)| Some(format!("{to}{}", rest.strip_prefix(from)?)));
    match (renamed, network) {
        (Some(name), _) => ("", name),
        (None, Network::FacePerceiver { .. }) => (PERCEIVER, resampler_name(rest)),
        (None, Network::Resampler { .. }) => ("", resampler_name(rest)),
        (None, _) => ("", rest.to_owned()),
    }
}

/// Names in diffusers of a published tensor, without prefix, and which half each takes: a resampler's keys and values are
/// two tensors there.
pub(super) fn diffusers_names(network: Network, rest: &str) -> Vec<(String, Option<usize>)> {
    let bare = rest.strip_prefix(PERCEIVER).unwrap_or(rest);
    if let Some((layer, inner)) = bare.strip_prefix("layers.").and_then(numbered) {
        if inner == "0.to_kv.weight" {
            let half = |(half, part)| (format!("layers.{layer}.attn.{part}.weight"), Some(half));
            return [(0, "to_k"), (1, "to_v")].map(half).into();
        }
        let renamed = LAYER_RENAMES.iter().find_map(|(to, from)| Some(format!("{to}{}", inner.strip_prefix(from)?)));
        return vec![(format!("layers.{layer}.{}", renamed.unwrap_or_else(|| inner.to_owned())), None)];
    }
    let renamed = match bare == rest {
        true => renames(network).iter().find_map(|(to, from)| Some(format!("{to}{}", rest.strip_prefix(from)?))),
        false => None,
    };
    vec![(renamed.unwrap_or_else(|| bare.to_owned()), None)]
}

/// Whether the network's last layer is as wide as its norm, so that a feature becomes one token.
fn one_token_out(names: &[(&str, &str)], tensors: &Tensors) -> bool {
    let rows = |start: &str| {
        let sources = names.iter().filter(|(_, rest)| rest.starts_with(start)).map(|(source, _)| *source);
        sources.filter_map(|source| tensors[source].shape.first().copied()).collect::<Vec<_>>()
    };
    let widths = rows("norm.");
    rows("ff.net.2.").iter().any(|rows| widths.contains(rows))
}

/// Beginnings of names in a resampler's layer in diffusers, and of the published ones.
const LAYER_RENAMES: [(&str, &str); 7] = [
    ("ln0.", "0.norm1."),
    ("ln1.", "0.norm2."),
    ("attn.to_q.", "0.to_q."),
    ("attn.to_out.0.", "0.to_out."),
    ("ff.0.", "1.0."),
    ("ff.1.net.0.proj.", "1.1."),
    ("ff.1.net.2.", "1.3."),
];

fn resampler_name(rest: &str) -> String {
    let Some((layer, rest)) = rest.strip_prefix("layers.").and_then(numbered) else { return rest.to_owned() };
    let renamed = LAYER_RENAMES.iter().find_map(|(from, to)| Some(format!("{to}{}", rest.strip_prefix(from)?)));
    format!("layers.{layer}.{}", renamed.unwrap_or_else(|| rest.to_owned()))
}
