//! The five networks that turn features into tokens, by their tensors.

use super::schema::{Dim, Size, Slot, Tensors};

/// Prefix of the tensors that make tokens.
pub(super) const PROJECTION: &str = "image_proj.";
/// Prefix within these of the resampler that a face's tokens are refined by.
pub(super) const PERCEIVER: &str = "perceiver_resampler.";
/// More layers than any resampler has.
const MAX_DEPTH: usize = 64;

/// The network that makes tokens; two kinds of adapters may share one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Network {
    /// A linear layer.
    Linear,
    /// A small network over every feature.
    EveryFeature,
    /// A small network over a face embedding.
    Face,
    /// The same, refined by a resampler over image features.
    FacePerceiver { depth: usize },
    /// A resampler with learned latents.
    Resampler { depth: usize },
}

impl Network {
    /// The one whose names have most in common with the tensors'.
    pub(super) fn nearest(tensors: &Tensors) -> Self {
        let num_names = tensors.keys().filter(|name| name.starts_with(PROJECTION)).count();
        let all = [
            Self::Linear,
            Self::EveryFeature,
            Self::Face,
            Self::Resampler { depth: depth(tensors, "") },
            Self::FacePerceiver { depth: depth(tensors, PERCEIVER) },
        ];
        let differences = |network: &Self| {
            let slots = network.slots();
            let shared = slots.iter().filter(|slot| tensors.contains_key(&slot.name)).count();
            let missing = slots.len() - shared;
            (missing + num_names - shared) as isize - shared as isize
        };
        let [mut best, rest @ ..] = all;
        for network in rest {
            if differences(&network) < differences(&best) {
                best = network;
            }
        }
        best
    }

    /// Its tensors.
    pub(super) fn slots(self) -> Vec<Slot> {
        let context = Dim::Of(Size::Context);
        match self {
            Self::Linear => [affine("proj", Dim::AllTokens, Dim::Of(Size::Input)), norm("norm", context)].concat(),
            Self::EveryFeature => {
                let input = Dim::Of(Size::Input);
                [affine("proj.0", input, input), affine("proj.2", context, input), norm("proj.3", context)].concat()
            }
            Self::Face => face(),
            Self::FacePerceiver { depth } => [face(), resampler(PERCEIVER, depth, context)].concat(),
            Self::Resampler { depth } => {
                let width = Dim::Of(Size::Latents);
                let latents = slot("latents", &[Dim::One, Dim::Of(Size::Tokens), width]);
                [vec![latents], resampler("", depth, width)].concat()
            }
        }
    }

    /// Name of the first query matrix of its resampler, if it has one.
    pub(super) fn first_query(self) -> Option<String> {
        match self {
            Self::FacePerceiver { .. } => Some(format!("{PROJECTION}{PERCEIVER}layers.0.0.to_q.weight")),
            Self::Resampler { .. } => Some(format!("{PROJECTION}layers.0.0.to_q.weight")),
            _ => None,
        }
    }
}

fn slot(name: &str, dims: &[Dim]) -> Slot {
    Slot::new(format!("{PROJECTION}{name}"), dims)
}

fn affine(name: &str, output: Dim, input: Dim) -> Vec<Slot> {
    vec![slot(&format!("{name}.weight"), &[output, input]), slot(&format!("{name}.bias"), &[output])]
}

fn norm(name: &str, width: Dim) -> Vec<Slot> {
    vec![slot(&format!("{name}.weight"), &[width]), slot(&format!("{name}.bias"), &[width])]
}

fn face() -> Vec<Slot> {
    let hidden = Dim::Of(Size::FaceHidden);
    [
        affine("proj.0", hidden, Dim::Of(Size::Face)),
        affine("proj.2", Dim::AllTokens, hidden),
        norm("norm", Dim::Of(Size::Context)),
    ]
    .concat()
}

fn resampler(prefix: &str, depth: usize, width: Dim) -> Vec<Slot> {
    let context = Dim::Of(Size::Context);
    let layers = (0..depth).flat_map(|layer| resampler_layer(&format!("{prefix}layers.{layer}"), width));
    affine(&format!("{prefix}proj_in"), width, Dim::Of(Size::Input))
        .into_iter()
        .chain(layers)
        .chain(affine(&format!("{prefix}proj_out"), context, width))
        .chain(norm(&format!("{prefix}norm_out"), context))
        .collect()
}

fn resampler_layer(layer: &str, width: Dim) -> Vec<Slot> {
    let (heads, feed_forward) = (Dim::Of(Size::Heads), Dim::Of(Size::FeedForward));
    [
        norm(&format!("{layer}.0.norm1"), width),
        norm(&format!("{layer}.0.norm2"), width),
        vec![
            slot(&format!("{layer}.0.to_q.weight"), &[heads, width]),
            slot(&format!("{layer}.0.to_kv.weight"), &[Dim::Twice(Size::Heads), width]),
            slot(&format!("{layer}.0.to_out.weight"), &[width, heads]),
        ],
        norm(&format!("{layer}.1.0"), width),
        vec![
            slot(&format!("{layer}.1.1.weight"), &[feed_forward, width]),
            slot(&format!("{layer}.1.3.weight"), &[width, feed_forward]),
        ],
    ]
    .concat()
}

/// Layers of a resampler: as many as leave the fewest tensors missing or over.
fn depth(tensors: &Tensors, prefix: &str) -> usize {
    let (mut best, mut best_surplus, mut surplus) = (1, isize::MIN, 0);
    for layer in 0..MAX_DEPTH {
        let slots = resampler_layer(&format!("{prefix}layers.{layer}"), Dim::One);
        let shared = slots.iter().filter(|slot| tensors.contains_key(&slot.name)).count() as isize;
        surplus += 2 * shared - slots.len() as isize;
        if surplus > best_surplus {
            (best, best_surplus) = (layer + 1, surplus);
        }
    }
    best
}
