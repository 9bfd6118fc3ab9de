//! Tensors that an adapter must have, with sizes that are found by asking all of them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::AdapterError;
use crate::TensorInfo;

/// Tensors by name.
pub(super) type Tensors = BTreeMap<String, TensorInfo>;

/// Tokens of published adapters, which decide when two tensors disagree.
const USUAL_TOKENS: [usize; 2] = [4, 16];

/// A size that tensors of one adapter share.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Size {
    /// Width of the UNet's text features and of the tokens.
    Context,
    /// Tokens for one image.
    Tokens,
    /// Width of the image features.
    Input,
    /// Width of the face embedding.
    Face,
    /// Width inside the network over the face embedding.
    FaceHidden,
    /// Width of a resampler's latents.
    Latents,
    /// Width of a resampler's attention heads together.
    Heads,
    /// Width inside a resampler's feed-forward layers.
    FeedForward,
    /// Rank of the LoRA tensors.
    Rank,
    /// Width of the features in the transformer block of a cross-attention layer, counted as in files.
    Hidden(usize),
}

/// One size of a tensor.
#[derive(Clone, Copy, Debug)]
pub(super) enum Dim {
    One,
    Of(Size),
    Twice(Size),
    /// A token's width for every token.
    AllTokens,
}

/// A tensor that must be there.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    pub(super) name: String,
    dims: Vec<Dim>,
}

impl Slot {
    pub(super) fn new(name: String, dims: &[Dim]) -> Self {
        Self { name, dims: dims.to_vec() }
    }
}

/// Sizes of one adapter.
#[derive(Debug, Default)]
pub(super) struct Sizes {
    values: BTreeMap<Size, usize>,
}

/// How many tensors speak for which value of a size.
#[derive(Debug, Default)]
struct Votes {
    counts: BTreeMap<Size, BTreeMap<usize, usize>>,
}

impl Sizes {
    /// The values that most tensors of the right rank speak for, so that a misshapen one is outvoted.
    pub(super) fn vote(slots: &[Slot], tensors: &Tensors) -> Self {
        let present = slots.iter().filter_map(|slot| Some((slot, &tensors.get(&slot.name)?.shape)));
        let dims = present.filter(|(slot, shape)| slot.dims.len() == shape.len());
        let dims: Vec<(Dim, usize)> =
            dims.flat_map(|(slot, shape)| slot.dims.iter().copied().zip(shape.iter().copied())).collect();
        let mut votes = Votes::default();
        for &(dim, value) in &dims {
            match dim {
                Dim::Of(size) => votes.add(size, value),
                Dim::Twice(size) if value.is_multiple_of(2) => votes.add(size, value / 2),
                Dim::Twice(_) | Dim::One | Dim::AllTokens => {}
            }
        }
        let context = votes.winner(Size::Context);
        for &(dim, value) in &dims {
            if let (Dim::AllTokens, Some(context)) = (dim, context.filter(|&context| value.is_multiple_of(context))) {
                votes.add(Size::Tokens, value / context);
            }
        }
        Self { values: votes.counts.keys().filter_map(|&size| Some((size, votes.winner(size)?))).collect() }
    }

    pub(super) fn get(&self, size: Size) -> Option<usize> {
        self.values.get(&size).copied()
    }

    pub(super) fn set(&mut self, size: Size, value: usize) {
        self.values.insert(size, value);
    }

    fn of(&self, dim: Dim) -> Option<usize> {
        match dim {
            Dim::One => Some(1),
            Dim::Of(size) => self.get(size),
            Dim::Twice(size) => self.get(size)?.checked_mul(2),
            Dim::AllTokens => self.get(Size::Tokens)?.checked_mul(self.get(Size::Context)?),
        }
    }

    /// Compares every tensor that is there with its slot.
    pub(super) fn check(&self, slots: &[Slot], tensors: &Tensors) -> Result<(), AdapterError> {
        let there = slots.iter().filter_map(|slot| Some((slot, tensors.get(&slot.name)?)));
        there.into_iter().try_for_each(|(slot, info)| self.check_shape(slot, &info.shape))
    }

    fn check_shape(&self, slot: &Slot, shape: &[usize]) -> Result<(), AdapterError> {
        let expected: Vec<Option<usize>> = slot.dims.iter().map(|&dim| self.of(dim)).collect();
        if shape.iter().map(|&size| Some(size)).eq(expected.iter().copied()) {
            return Ok(());
        }
        let shown = expected.iter().map(|size| size.map_or("some size above 0".to_owned(), |size| size.to_string()));
        let expected = format!("[{}]", shown.collect::<Vec<_>>().join(", "));
        Err(AdapterError::Shape { name: slot.name.clone(), shape: shape.to_vec(), expected })
    }
}

/// Names of the slots that no tensor fills, in their order.
pub(super) fn missing(slots: &[Slot], tensors: &Tensors) -> Vec<String> {
    slots.iter().filter(|slot| !tensors.contains_key(&slot.name)).map(|slot| slot.name.clone()).collect()
}

/// Names of the tensors that fill no slot, sorted.
pub(super) fn unknown(slots: &[Slot], tensors: &Tensors) -> Vec<String> {
    let known: BTreeSet<&str> = slots.iter().map(|slot| slot.name.as_str()).collect();
    tensors.keys().filter(|name| !known.contains(name.as_str())).cloned().collect()
}

impl Votes {
    fn add(&mut self, size: Size, value: usize) {
        if value > 0 {
            *self.counts.entry(size).or_default().entry(value).or_default() += 1;
        }
    }

    fn winner(&self, size: Size) -> Option<usize> {
        let counts = self.counts.get(&size)?;
        let best = counts.iter().max_by_key(|&(&value, &count)| (count, self.usual(size, value), Reverse(value)));
        best.map(|(&value, _)| value)
    }

    /// Decides between values with equal votes; a layer is most likely as wide as the layers beside it.
    fn usual(&self, size: Size, value: usize) -> usize {
        match size {
            Size::Tokens => usize::from(USUAL_TOKENS.contains(&value)),
            Size::Hidden(layer) => {
                let near = [layer.checked_sub(1), Some(layer + 1)].into_iter().flatten();
                near.filter(|&near| self.counts.get(&Size::Hidden(near)).is_some_and(|at| at.contains_key(&value)))
                    .count()
            }
            _ => 0,
        }
    }
}
