//! The names that adapter files use, and the published ones that they stand for.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::AdapterError;
use super::diffusers::projection_parts;
use super::layers::{ATTENTION, is_key_or_value, layer_numbers, numbered};
use super::paths::{ProcessorTensor, attention_layer, processor_tensor};
use super::projections::PROJECTION;
use super::schema::Tensors;
use super::unet_layers::UnetLayers;
use crate::TensorInfo;

pub(super) const TRAINER_PROJECTION: &str = "image_proj_model.";
pub(super) const TRAINER_ATTENTION: &str = "adapter_modules.";
pub(super) const DIFFUSERS_PROJECTION: [&str; 2] =
    ["encoder_hid_proj.image_projection_layers.", "image_projection_layers."];
/// What wrappers for training on several devices, and programs that save more than a model, put before every name.
const WRAPPERS: [&str; 3] = ["module.", "state_dict.", "model."];
/// How an adapter's names begin; what else begins as a wrapper does is none.
const BEGINNINGS: [&str; 6] =
    [PROJECTION, TRAINER_PROJECTION, ATTENTION, TRAINER_ATTENTION, UNET, DIFFUSERS_PROJECTION[0]];
/// What a dump of the whole trainer puts before the UNet's own names.
pub(super) const UNET: &str = "unet.";
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
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AdapterDialect {
    /// `image_proj.*` and `ip_adapter.N.*`, flat or nested.
    #[default]
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

/// An adapter's tensors under published names, and those beside it.
#[derive(Clone, Debug)]
pub(super) struct Translated {
    pub(super) dialect: AdapterDialect,
    pub(super) tensors: Tensors,
    /// Names in the file, by published name; the rows of two follow each other.
    pub(super) sources: BTreeMap<String, Vec<String>>,
    /// Names in the file of the base model's own tensors, which are left out.
    pub(super) base_model: Vec<String>,
    /// Names in the file of what is there once more, with the published name that another tensor has.
    pub(super) again: Vec<(String, String)>,
    /// The UNet's attention layers, where the file's names tell them.
    pub(super) layers: Option<UnetLayers>,
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
///
/// Layers under their paths are numbered as in `layers`, without it as in the UNet whose names are there.
pub(super) fn translate(
    tensors: &Tensors,
    numbering: Numbering,
    layers: Option<&UnetLayers>,
) -> Result<Translated, AdapterError> {
    let parts = Parts::of(tensors)?;
    let mut translated = Translated {
        dialect: parts.dialect(),
        tensors: Tensors::new(),
        sources: BTreeMap::new(),
        base_model: Vec::new(),
        again: Vec::new(),
        layers: parts.layers(),
    };
    if let (None, Some(gap)) = (layers, parts.own_layers().and_then(|own| own.gap())) {
        return Err(AdapterError::Gap { place: gap });
    }
    let layers = layers.or(translated.layers.as_ref()).cloned().unwrap_or_default();
    for (source, name) in parts.names(numbering)? {
        translated.add(name, vec![source.to_owned()], tensors[source].clone())?;
    }
    let numbered = translated.tensors.clone();
    for (source, name) in parts.processor_names(&layers)? {
        match numbered.get(&name) {
            // A trainer's dump has its attention layers in the UNet and in a list.
            Some(info) if *info == tensors[source] => translated.again.push((source.to_owned(), name)),
            _ => translated.add(name, vec![source.to_owned()], tensors[source].clone())?,
        }
    }
    if parts.keeps_unet() {
        parts.unet.iter().try_for_each(|&source| {
            translated.add(source.to_owned(), vec![source.to_owned()], tensors[source].clone())
        })?;
    } else {
        translated.base_model = parts.unet.iter().map(|&source| source.to_owned()).collect();
    }
    for (name, sources, info) in projection_parts(&parts.diffusers, tensors)? {
        translated.add(format!("{PROJECTION}{name}"), sources, info)?;
    }
    Ok(translated)
}

fn unwrapped(name: &str) -> &str {
    let mut bare = name;
    while let Some(rest) = WRAPPERS.iter().find_map(|wrapper| bare.strip_prefix(wrapper)) {
        bare = rest;
    }
    let is_known = BEGINNINGS.iter().any(|beginning| bare.starts_with(beginning));
    if is_known { bare } else { name.strip_prefix(WRAPPERS[0]).unwrap_or(name) }
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

    /// Published names, with those in the file, of all tensors but a projection's in diffusers' layout and those that
    /// lie in the UNet.
    fn names(&self, numbering: Numbering) -> Result<Vec<(&'a str, String)>, AdapterError> {
        let projection = self.projection.iter().map(|&(source, rest)| (source, format!("{PROJECTION}{rest}")));
        let kept = self.other.iter().map(|&(source, name)| (source, name.to_owned()));
        let mut names: Vec<_> = projection.chain(kept).collect();
        if !self.numbered.is_empty() {
            names.extend(self.numbered_names(numbering)?);
        }
        Ok(names)
    }

    /// Whether a UNet's tensors have no business in such a file.
    fn keeps_unet(&self) -> bool {
        !self.from_trainer && self.processors.is_empty()
    }

    /// The attention layers of the UNet by the names of its tensors and of those that the adapter has in it.
    fn layers(&self) -> Option<UnetLayers> {
        let bare = |name: &'a str| unwrapped(name).strip_prefix(UNET).unwrap_or(unwrapped(name));
        let of_unet = self.unet.iter().filter_map(|name| Some(attention_layer(bare(name))?.0));
        let layers = UnetLayers::of_places(self.processors.iter().map(|(_, tensor)| tensor.place).chain(of_unet));
        Some(layers).filter(|layers| !layers.is_empty())
    }

    /// The attention layers that the adapter's tensors lie in, if nothing else tells which there are.
    fn own_layers(&self) -> Option<UnetLayers> {
        let own = || UnetLayers::of_places(self.processors.iter().map(|(_, tensor)| tensor.place));
        let is_told = self.layers().is_none_or(|layers| layers != own()) || !self.numbered.is_empty();
        (!is_told).then(own)
    }

    /// Published names of what lies in the UNet's attention layers.
    fn processor_names(&self, layers: &UnetLayers) -> Result<Vec<(&'a str, String)>, AdapterError> {
        let name = |(source, tensor): &(&'a str, ProcessorTensor<'a>)| {
            let number = layers.number(tensor.place, tensor.cross);
            let number = number.ok_or_else(|| AdapterError::NoSuchLayer { name: source.to_string() })?;
            Ok((*source, format!("{ATTENTION}{number}.{}.{}", tensor.matrix, tensor.suffix)))
        };
        self.processors.iter().map(name).collect()
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
