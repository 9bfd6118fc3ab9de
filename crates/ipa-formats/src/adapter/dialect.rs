//! The names that adapter files use, and the published ones that they stand for.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::AdapterError;
use super::diffusers::projection_parts;
use super::layers::{ATTENTION, is_key_or_value, layer_numbers, numbered};
use super::paths::{BlockPlace, ProcessorTensor, processor_tensor};
use super::projections::PROJECTION;
use super::schema::Tensors;
use crate::TensorInfo;

const TRAINER_PROJECTION: &str = "image_proj_model.";
const TRAINER_ATTENTION: &str = "adapter_modules.";
const DIFFUSERS_PROJECTION: [&str; 2] = ["encoder_hid_proj.image_projection_layers.", "image_projection_layers."];
/// What wrappers for training on several devices put before every name.
const WRAPPER: &str = "module.";
/// What a dump of the whole trainer puts before the UNet's own names.
const UNET: &str = "unet.";
/// Where a UNet's own tensors lie, beside which an adapter may have been saved.
const UNET_PARTS: [&str; 8] = [
    "down_blocks.",
    "mid_block.",
    "up_blocks.",
    "conv_in.",
    "conv_norm_out.",
    "conv_out.",
    "time_embedding.",
    "add_embedding.",
];

/// Which names an adapter file uses.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AdapterDialect {
    /// `image_proj.*` and `ip_adapter.N.*`, flat or nested.
    Published,
    /// `image_proj_model.*` or `adapter_modules.N.*`, as in dumps of the reference's trainer.
    Trainer,
    /// Attention tensors under the names of the UNet's attention processors.
    Processors,
    /// The projection under diffusers' names.
    Diffusers,
}

/// How a file numbers the layers.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Numbering {
    /// Self-attention even, cross-attention odd: 1, 3, 5, ….
    #[default]
    Published,
    /// Cross-attention alone: 0, 1, 2, …, in the order down, up, middle.
    Dense,
}

/// An adapter's tensors under published names.
#[derive(Clone, Debug)]
pub(super) struct Translated {
    pub(super) dialect: AdapterDialect,
    pub(super) tensors: Tensors,
    /// Names in the file, by published name; the rows of two follow each other.
    pub(super) sources: BTreeMap<String, Vec<String>>,
}

/// What a name in a file tells.
#[derive(Debug)]
enum Part<'a> {
    Projection(&'a str),
    DiffusersProjection { adapter: usize, rest: &'a str },
    Numbered(&'a str),
    Processor(ProcessorTensor<'a>),
    Unet,
    Other(&'a str),
}

/// Names of a file by what they tell.
#[derive(Debug, Default)]
struct Parts<'a> {
    projection: Vec<(&'a str, &'a str)>, // name in the file, rest
    diffusers: Vec<(&'a str, &'a str)>,
    numbered: Vec<(&'a str, &'a str)>,
    processors: Vec<(&'a str, ProcessorTensor<'a>)>,
    unet: Vec<&'a str>,
    other: Vec<(&'a str, &'a str)>,
    from_trainer: bool,
}

/// Whether any tensor name is that of an adapter, in whichever dialect.
pub fn is_adapter(tensors: &BTreeMap<String, TensorInfo>) -> bool {
    tensors.keys().any(|name| match part(unwrapped(name)) {
        Part::Projection(_) | Part::DiffusersProjection { .. } | Part::Numbered(_) => true,
        Part::Processor(tensor) => matches!(tensor.matrix, "to_k_ip" | "to_v_ip"), // LoRA alone is no adapter
        Part::Unet | Part::Other(_) => false,
    })
}

/// Finds the published names of a file's tensors; names without one are kept, a UNet's own in a dump left out.
pub(super) fn translate(tensors: &Tensors, numbering: Numbering) -> Result<Translated, AdapterError> {
    let parts = Parts::of(tensors)?;
    let mut translated = Translated { dialect: parts.dialect(), tensors: Tensors::new(), sources: BTreeMap::new() };
    for (source, name) in parts.names(numbering)? {
        translated.add(name, vec![source.to_owned()], tensors[source].clone())?;
    }
    for (name, sources, info) in projection_parts(&parts.diffusers, tensors)? {
        translated.add(format!("{PROJECTION}{name}"), sources, info)?;
    }
    Ok(translated)
}

fn unwrapped(name: &str) -> &str {
    name.strip_prefix(WRAPPER).unwrap_or(name)
}

fn part(name: &str) -> Part<'_> {
    let after = |prefixes: &[&str]| prefixes.iter().find_map(|prefix| name.strip_prefix(prefix));
    if let Some(rest) = after(&[PROJECTION, TRAINER_PROJECTION]) {
        return Part::Projection(rest);
    }
    if let Some(rest) = after(&[ATTENTION, TRAINER_ATTENTION]) {
        return Part::Numbered(rest);
    }
    if let Some((adapter, rest)) = after(&DIFFUSERS_PROJECTION).and_then(numbered) {
        return Part::DiffusersProjection { adapter, rest };
    }
    let in_unet = name.strip_prefix(UNET);
    match processor_tensor(in_unet.unwrap_or(name)) {
        Some(tensor) => Part::Processor(tensor),
        None if name.contains(".processor.") => Part::Other(name),
        None if in_unet.is_some() || after(&UNET_PARTS).is_some() => Part::Unet,
        None => Part::Other(name),
    }
}

impl<'a> Parts<'a> {
    fn of(tensors: &'a Tensors) -> Result<Self, AdapterError> {
        let mut parts = Self::default();
        for source in tensors.keys() {
            let name = unwrapped(source);
            let second = || AdapterError::Several { name: source.clone() };
            match part(name) {
                Part::Projection(rest) => parts.projection.push((source, rest)),
                Part::DiffusersProjection { adapter: 0, rest } => parts.diffusers.push((source, rest)),
                Part::DiffusersProjection { .. } => return Err(second()),
                Part::Numbered(rest) => parts.numbered.push((source, rest)),
                Part::Processor(tensor) if tensor.adapter.is_some_and(|adapter| adapter > 0) => return Err(second()),
                Part::Processor(tensor) => parts.processors.push((source, tensor)),
                Part::Unet => parts.unet.push(source),
                Part::Other(name) => parts.other.push((source, name)),
            }
            parts.from_trainer |= name.starts_with(TRAINER_PROJECTION) || name.starts_with(TRAINER_ATTENTION);
        }
        Ok(parts)
    }

    fn dialect(&self) -> AdapterDialect {
        match () {
            () if !self.diffusers.is_empty() => AdapterDialect::Diffusers,
            () if self.numbered.is_empty() && !self.processors.is_empty() => AdapterDialect::Processors,
            () if self.from_trainer => AdapterDialect::Trainer,
            () => AdapterDialect::Published,
        }
    }

    /// Published names of all tensors but those of a projection in diffusers' layout, with the names in the file.
    fn names(&self, numbering: Numbering) -> Result<Vec<(&'a str, String)>, AdapterError> {
        let projection = self.projection.iter().map(|&(source, rest)| (source, format!("{PROJECTION}{rest}")));
        let kept = self.other.iter().map(|&(source, name)| (source, name.to_owned()));
        let mut names: Vec<_> = projection.chain(kept).collect();
        match self.numbered.is_empty() {
            true => names.extend(self.processor_names()),
            // The UNet's processors are then the same tensors once more.
            false => names.extend(self.numbered_names(numbering)?),
        }
        if !self.from_trainer && self.processors.is_empty() {
            names.extend(self.unet.iter().map(|&source| (source, source.to_owned())));
        }
        Ok(names)
    }

    fn processor_names(&self) -> impl Iterator<Item = (&'a str, String)> {
        let places: BTreeSet<BlockPlace> = self.processors.iter().map(|(_, tensor)| tensor.place).collect();
        let blocks: BTreeMap<BlockPlace, usize> = places.into_iter().zip(0..).collect();
        self.processors.iter().map(move |(source, tensor)| {
            let number = 2 * blocks[&tensor.place] + usize::from(tensor.cross);
            (*source, format!("{ATTENTION}{number}.{}.{}", tensor.matrix, tensor.suffix))
        })
    }

    fn numbered_names(&self, numbering: Numbering) -> Result<Vec<(&'a str, String)>, AdapterError> {
        let numbers = layer_numbers(self.numbered.iter().map(|&(_, rest)| rest));
        let dense = !numbers.is_empty() && numbers.iter().copied().eq(0..numbers.len());
        match (numbering, dense) {
            (Numbering::Published, true) => return Err(AdapterError::Dense { count: numbers.len() }),
            (Numbering::Dense, false) => {
                return Err(AdapterError::NotDense { numbers: numbers.into_iter().collect() });
            }
            _ => {}
        }
        let name = |&(source, rest): &(&'a str, &str)| match numbering {
            Numbering::Published => Ok((source, format!("{ATTENTION}{rest}"))),
            Numbering::Dense => match numbered(rest).filter(|(_, rest)| is_key_or_value(rest)) {
                Some((layer, rest)) => Ok((source, format!("{ATTENTION}{}.{rest}", 2 * layer + 1))),
                None => Err(AdapterError::Unexpected { name: source.to_owned() }),
            },
        };
        self.numbered.iter().map(name).collect()
    }
}

impl Translated {
    fn add(&mut self, name: String, sources: Vec<String>, info: TensorInfo) -> Result<(), AdapterError> {
        if let Some(others) = self.sources.get(&name) {
            return Err(AdapterError::Collision { names: [&others[..], &sources].concat() });
        }
        self.tensors.insert(name.clone(), info);
        self.sources.insert(name, sources);
        Ok(())
    }

    /// The same error with the name that a tensor has in the file.
    pub(super) fn in_the_file(&self, error: AdapterError) -> AdapterError {
        let in_file =
            |name: String| self.sources.get(&name).and_then(|sources| sources.first().cloned()).unwrap_or(name);
        match error {
            AdapterError::Shape { name, shape, expected } => {
                AdapterError::Shape { name: in_file(name), shape, expected }
            }
            AdapterError::Unexpected { name } => AdapterError::Unexpected { name: in_file(name) },
            other => other,
        }
    }
}
