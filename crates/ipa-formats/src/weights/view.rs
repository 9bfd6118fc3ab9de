//! Tensors made of others: under another name, in another layout, rows together or apart, scaled, or new.

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

use super::Weights;
use crate::floats::scaled;
use crate::{TensorFile, TensorInfo, TensorPlan};

/// What tensors are taken from.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    File(Arc<TensorFile>),
    /// Those of a component, which may lie in several files.
    Weights(Weights),
}

/// Where a tensor lies.
#[derive(Clone, Debug)]
pub(super) enum Place {
    /// Under its own name in one of the sources.
    Own(usize),
    /// Made of tensors of one source, which has another layout.
    Planned(usize, TensorPlan),
    /// The rows of these tensors of the sources one after the other, often of a single one under another name.
    Rows { info: TensorInfo, parts: Vec<(usize, String)> },
    /// Half of the rows of one of the first source's tensors: 0 the upper, 1 the lower.
    Half { info: TensorInfo, part: String, half: usize },
    /// One of the first source's tensors, each number multiplied; `because` is the tensor that says so, if one does.
    Scaled { info: TensorInfo, part: String, factor: f64, because: Option<String> },
    /// In no source.
    Given { info: TensorInfo, data: Vec<u8> },
}

/// A tensor of [`Weights::renamed`].
#[derive(Debug)]
pub(crate) enum Made {
    /// One tensor under another name.
    Moved(String),
    /// Half of its rows: 0 the upper, 1 the lower.
    Half(String, usize),
    /// One tensor, each number multiplied, as another tensor says.
    Scaled(String, f64, Option<String>),
    /// One that is new.
    Given(TensorInfo, Vec<u8>),
}

/// Why the bytes of a tensor cannot be had.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Unmade {
    /// It, or what it is made of, is not there.
    Missing,
    /// So many of its numbers are too large for its element type.
    Overflow(usize),
}

impl Weights {
    /// Tensors that are made of those of sources with another layout; each plan comes with the number of its source.
    pub(crate) fn planned(path: &Path, sources: Vec<Source>, plans: impl Iterator<Item = (usize, TensorPlan)>) -> Self {
        let places = plans.map(|(source, plan)| (plan.name.clone(), Place::Planned(source, plan))).collect();
        Self { path: path.to_owned(), sources, places }
    }

    /// The same files under other names: each tensor is one of these, or the rows of several one after the other.
    pub(crate) fn rearranged(self, made: impl Iterator<Item = (String, TensorInfo, Vec<String>)>) -> Self {
        let place = |(name, info, sources): (String, TensorInfo, Vec<String>)| {
            (name, Place::Rows { info, parts: sources.into_iter().map(|source| (0, source)).collect() })
        };
        let places = made.map(place).collect();
        Self { path: self.path.clone(), places, sources: vec![Source::Weights(self)] }
    }

    /// Tensors made of these; those whose source is not there are left out.
    pub(crate) fn renamed(self, made: impl Iterator<Item = (String, Made)>) -> Self {
        let place = |(name, made)| {
            let place = match made {
                Made::Moved(part) => Place::Rows { info: self.info(&part)?.clone(), parts: vec![(0, part)] },
                Made::Half(part, half) => Place::Half { info: self.info(&part)?.half()?, part, half },
                Made::Scaled(part, factor, because) => {
                    Place::Scaled { info: self.info(&part)?.clone(), part, factor, because }
                }
                Made::Given(info, data) => Place::Given { info, data },
            };
            Some((name, place))
        };
        let places = made.filter_map(place).collect();
        Self { path: self.path.clone(), places, sources: vec![Source::Weights(self)] }
    }

    /// The tensors of both, under the path of `self`; where both have a name, that of `self`.
    pub(crate) fn joined(self, other: Self) -> Self {
        let own = |(index, weights): (usize, &Self)| -> Vec<(String, Place)> {
            weights.names().map(|name| (name.to_owned(), Place::Own(index))).collect()
        };
        let places = [(1, &other), (0, &self)].into_iter().flat_map(own).collect();
        Self { path: self.path.clone(), places, sources: vec![Source::Weights(self), Source::Weights(other)] }
    }

    /// Element type and shape of a tensor.
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        match self.places.get(name)? {
            Place::Own(index) => self.sources.get(*index)?.info(name),
            Place::Planned(_, plan) => Some(&plan.info),
            Place::Rows { info, .. }
            | Place::Half { info, .. }
            | Place::Scaled { info, .. }
            | Place::Given { info, .. } => Some(info),
        }
    }

    /// As [`Weights::data`], saying why there are none.
    pub(crate) fn made(&self, name: &str) -> Result<Cow<'_, [u8]>, Unmade> {
        let of = |index: usize, name: &str| self.sources.get(index).ok_or(Unmade::Missing)?.made(name);
        match self.places.get(name).ok_or(Unmade::Missing)? {
            Place::Own(index) => of(*index, name),
            // The plan was made for this very source, so what it asks for is there and the sizes fit.
            Place::Planned(index, plan) => plan.gathered(|source| of(*index, source).ok()).map_err(|_| Unmade::Missing),
            Place::Rows { parts, .. } => match &parts[..] {
                [(index, name)] => of(*index, name),
                _ => {
                    let parts = parts.iter().map(|(index, name)| of(*index, name)).collect::<Result<Vec<_>, _>>()?;
                    Ok(Cow::Owned(parts.concat()))
                }
            },
            Place::Half { info, part, half } => {
                let range = half * info.num_bytes()..(half + 1) * info.num_bytes();
                match of(0, part)? {
                    Cow::Borrowed(data) => data.get(range).map(Cow::Borrowed),
                    Cow::Owned(data) => data.get(range).map(|data| Cow::Owned(data.to_vec())),
                }
                .ok_or(Unmade::Missing)
            }
            Place::Scaled { info, part, factor, .. } => {
                scaled(&of(0, part)?, info.dtype, *factor).map(Cow::Owned).map_err(Unmade::Overflow)
            }
            Place::Given { data, .. } => Ok(Cow::Borrowed(data)),
        }
    }

    /// Names in its files of what a tensor is made of.
    pub fn sources(&self, name: &str) -> Vec<&str> {
        let of = |index: usize, name: &'_ str| self.sources.get(index).map(|source| source.sources(name));
        match self.places.get(name) {
            None | Some(Place::Given { .. }) => Vec::new(),
            Some(Place::Own(index)) => of(*index, name).unwrap_or_default(),
            Some(Place::Planned(index, plan)) => {
                plan.sources.iter().flat_map(|name| of(*index, name).unwrap_or_default()).collect()
            }
            Some(Place::Rows { parts, .. }) => {
                parts.iter().flat_map(|(index, name)| of(*index, name).unwrap_or_default()).collect()
            }
            Some(Place::Half { part, .. }) => of(0, part).unwrap_or_default(),
            Some(Place::Scaled { part, because, .. }) => {
                [part].into_iter().chain(because).flat_map(|name| of(0, name).unwrap_or_default()).collect()
            }
        }
    }
}

impl Source {
    fn info(&self, name: &str) -> Option<&TensorInfo> {
        match self {
            Self::File(file) => file.tensors().get(name),
            Self::Weights(weights) => weights.info(name),
        }
    }

    fn made(&self, name: &str) -> Result<Cow<'_, [u8]>, Unmade> {
        match self {
            Self::File(file) => file.data(name).ok_or(Unmade::Missing),
            Self::Weights(weights) => weights.made(name),
        }
    }

    fn sources(&self, name: &str) -> Vec<&str> {
        match self {
            Self::File(file) => file.tensors().get_key_value(name).map(|(name, _)| &name[..]).into_iter().collect(),
            Self::Weights(weights) => weights.sources(name),
        }
    }
}
