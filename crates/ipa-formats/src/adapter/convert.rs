//! Adapters from one dialect to another, whole or with what is there, with their LoRA inside or beside.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::declared::Declared;
use super::dialect::{AdapterDialect, Translated, is_adapter, translate};
use super::kind::AdapterVariant;
use super::recognise::{Lenience, Recognised, recognise_leniently};
use super::unet_layers::UnetLayers;
use super::write::{is_lora, lora_factor, lora_modules, names};
use super::{AdapterError, AdapterInfo, AdapterOptions};
use crate::convert::{kept_texts, no_tensors};
use crate::weights::Made;
use crate::{Conversion, Dropped, FormatError, LoraDialect, METADATA_KEY, Weights, lora_layers};

/// What to make of an adapter.
#[derive(Clone, Debug, Default)]
pub struct AdapterConversion {
    /// What is known of the file that is read.
    pub read: AdapterOptions,
    /// The names to write.
    pub to: AdapterDialect,
    /// The attention layers of the UNet, where they are not those of Stable Diffusion 1.x, 2.x or XL.
    pub layers: Option<UnetLayers>,
    /// Writes what is there of an adapter that is not whole.
    pub allow_missing: bool,
    /// Leaves out tensors that are none of such an adapter.
    pub drop_unknown: bool,
    /// What becomes of its LoRA.
    pub lora: AdapterLora,
}

/// Where the LoRA of a FaceID adapter goes.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum AdapterLora {
    /// It stays where it is.
    #[default]
    Keep,
    /// Into a file of its own, with these names.
    Split(LoraDialect),
    /// Into the adapter, from this file.
    Join(PathBuf),
}

/// An adapter ready to be written.
#[derive(Debug)]
pub struct ConvertedAdapter {
    /// Kind and sizes; `None` if it is not whole.
    pub info: Option<AdapterInfo>,
    /// The names that the file uses.
    pub dialect: AdapterDialect,
    /// The adapter.
    pub adapter: Conversion,
    /// Its LoRA, if that is to be split off.
    pub lora: Option<Conversion>,
    /// What [`Conversion::write`] should store beside the adapter: what the file says of itself, and its variant.
    pub metadata: Value,
}

/// Decides how an adapter in whichever dialect becomes one in another; nothing is moved before it is written.
///
/// Dumps of a whole trainer are adapters too: the base model's weights are left out, and what such a dump holds twice
/// must be equal.
///
/// # Errors
/// As [`super::AdapterFile::open`]; [`FormatError::Adapter`] also for layers that the UNet does not have, LoRA tensors
/// that are not there to be split off or are there already, and tensors that should be equal; [`FormatError::Lora`].
pub fn convert_adapter(path: &Path, options: &AdapterConversion) -> Result<ConvertedAdapter, FormatError> {
    let mut weights = Weights::open(path)?;
    let tensors = weights.tensors();
    if !is_adapter(&tensors) {
        return Err(FormatError::NotAnAdapter { path: path.to_owned() });
    }
    let in_file = |source| FormatError::Adapter { path: path.to_owned(), source: Box::new(source) };
    let file_name = path.file_name().unwrap_or_default().to_string_lossy();
    let declared = Declared::new(options.read.variant, &weights.metadata(), &file_name).map_err(in_file)?;
    let mut translated = translate(&tensors, options.read.numbering, options.layers.as_ref()).map_err(in_file)?;
    check_copies(&weights, &translated).map_err(in_file)?;
    let metadata = weights.metadata();
    if let AdapterLora::Join(lora) = &options.lora {
        weights = join_lora(weights, lora, &mut translated, options).map_err(|error| error.or(path))?;
    }
    let lenience = Lenience { missing: options.allow_missing, unknown: options.drop_unknown };
    let recognised = recognise_leniently(&translated.tensors, &declared, lenience)
        .map_err(|error| in_file(translated.in_the_file(error)))?;
    let dialect = translated.dialect;
    let mut dropped = dropped(&translated, &recognised);
    dropped.extend(weights.files().flat_map(|file| no_tensors(file.values())));
    let made = Planned { dropped, translated, recognised };
    let (adapter, lora) = made.conversions(weights, options).map_err(in_file)?;
    let texts = kept_texts(&metadata);
    let (adapter, lora) = (adapter.with_texts(texts.clone()), lora.map(|lora| lora.with_texts(texts)));
    let metadata = described(&metadata, made.recognised.info.as_ref());
    Ok(ConvertedAdapter { info: made.recognised.info, dialect, adapter, lora, metadata })
}

/// A recognised adapter under its published names.
struct Planned {
    translated: Translated,
    recognised: Recognised,
    dropped: Vec<Dropped>,
}

impl Planned {
    /// The adapter, and its LoRA if that is split off, under the names to be written.
    fn conversions(
        &self,
        weights: Weights,
        options: &AdapterConversion,
    ) -> Result<(Conversion, Option<Conversion>), AdapterError> {
        let layers = self.layers(options)?;
        let kept: Vec<&String> =
            self.translated.tensors.keys().filter(|name| !self.recognised.unknown.contains(name)).collect();
        let place = |name: &str| AdapterError::NoSuchLayer { name: self.source(name) };
        let (mut adapter, mut lora) = (Vec::new(), Vec::new());
        for name in kept {
            if let (AdapterLora::Split(names), true) = (&options.lora, is_lora(name)) {
                let (module, factor) = lora_factor(name, &layers).ok_or_else(|| place(name))?;
                lora.push((names.name(&module, factor), Made::Moved(name.clone())));
                continue;
            }
            let named = names(name, options.to, self.recognised.parts.network, &layers).ok_or_else(|| place(name))?;
            adapter.extend(named.into_iter().map(|(to, half)| (to, taken(name, half))));
        }
        if matches!(options.lora, AdapterLora::Split(_)) && lora.is_empty() {
            return Err(AdapterError::NoLora);
        }
        let published = || weights.clone().rearranged(self.published());
        let lora = (!lora.is_empty()).then(|| Conversion::new(published().renamed(lora.into_iter()), vec![], vec![]));
        let renamed = published().renamed(adapter.into_iter());
        Ok((Conversion::new(renamed, self.dropped.clone(), self.recognised.missing.clone()), lora))
    }

    /// Published names with what they are made of.
    fn published(&self) -> impl Iterator<Item = (String, crate::TensorInfo, Vec<String>)> {
        let Translated { tensors, sources, .. } = &self.translated;
        tensors.iter().map(|(name, info)| (name.clone(), info.clone(), sources[name].clone()))
    }

    /// Name in the file.
    fn source(&self, name: &str) -> String {
        self.translated.sources.get(name).and_then(|sources| sources.first()).map_or(name, String::as_str).to_owned()
    }

    /// The UNet's attention layers, as far as names to be written have to tell them.
    fn layers(&self, options: &AdapterConversion) -> Result<UnetLayers, AdapterError> {
        let needed = match options.lora {
            AdapterLora::Split(_) => true,
            _ => matches!(options.to, AdapterDialect::Processors | AdapterDialect::Diffusers),
        };
        let count = self.recognised.parts.num_layers;
        if !needed || count == 0 {
            return Ok(UnetLayers::default());
        }
        let known = options.layers.clone().or_else(|| self.translated.layers.clone());
        let layers = known.or_else(|| UnetLayers::of_family(count)).ok_or(AdapterError::UnknownUnet { count })?;
        match layers.len() == count {
            true => Ok(layers),
            false => Err(AdapterError::OtherUnet { count, expected: layers.len() }),
        }
    }
}

/// A tensor, or half of it.
fn taken(name: &str, half: Option<usize>) -> Made {
    half.map_or_else(|| Made::Moved(name.to_owned()), |half| Made::Half(name.to_owned(), half))
}

/// What is in the file and will not be written, with the reason.
fn dropped(translated: &Translated, recognised: &Recognised) -> Vec<Dropped> {
    let of = |name: &String, reason: &str| Dropped { name: name.clone(), reason: reason.to_owned() };
    let base = translated.base_model.iter().map(|name| of(name, "a weight of the base model"));
    let again = translated.again.iter().map(|(name, published)| {
        let other = translated.sources.get(published).and_then(|sources| sources.first()).unwrap_or(published);
        of(name, &format!("the same tensor as {other}"))
    });
    let unknown = recognised.unknown.iter().flat_map(|name| &translated.sources[name]);
    base.chain(again).chain(unknown.map(|name| of(name, "no tensor of such an adapter"))).collect()
}

/// What is there twice must be equal: a trainer keeps one tensor under two names.
fn check_copies(weights: &Weights, translated: &Translated) -> Result<(), AdapterError> {
    for (name, published) in &translated.again {
        let first = translated.sources[published].first().cloned().unwrap_or_default();
        if weights.data(name) != weights.data(&first) {
            return Err(AdapterError::Differ { first, second: name.clone() });
        }
    }
    Ok(())
}

/// What stopped a LoRA from being joined: the adapter, or the LoRA's file.
enum NotJoined {
    Adapter(AdapterError),
    Lora(FormatError),
}

impl NotJoined {
    fn or(self, path: &Path) -> FormatError {
        match self {
            Self::Adapter(source) => FormatError::Adapter { path: path.to_owned(), source: Box::new(source) },
            Self::Lora(error) => error,
        }
    }
}

/// Adds a LoRA file's tensors to those of an adapter.
fn join_lora(
    weights: Weights,
    path: &Path,
    translated: &mut Translated,
    options: &AdapterConversion,
) -> Result<Weights, NotJoined> {
    if let Some(name) = translated.tensors.keys().find(|name| is_lora(name)) {
        return Err(NotJoined::Adapter(AdapterError::HasLora { name: name.clone() }));
    }
    let count = super::layers::count_layers(&translated.tensors).map_err(NotJoined::Adapter)?;
    let known = options.layers.clone().or_else(|| translated.layers.clone());
    let layers = known.or_else(|| UnetLayers::of_family(count));
    let layers = layers.ok_or(NotJoined::Adapter(AdapterError::UnknownUnet { count }))?;
    let modules: BTreeMap<String, String> = lora_modules(&layers).into_iter().collect();
    let lora = Weights::open(path).map_err(NotJoined::Lora)?;
    let found = lora_layers(&lora, &modules.keys().cloned().collect::<Vec<_>>()).map_err(NotJoined::Lora)?;
    let mut names = Vec::new();
    for layer in found {
        let rank = lora.info(&layer.down).and_then(|info| info.shape.first().copied()).unwrap_or_default();
        // An adapter has no place for a scale: it is multiplied in, exactly if it is a power of two.
        let scale = layer.alpha.map_or(1.0, |alpha| alpha / rank as f64);
        for (factor, source) in [("down", layer.down), ("up", layer.up)] {
            let name = format!("{}.{factor}.weight", modules[&layer.module]);
            let Some(info) = lora.info(&source).cloned() else { continue };
            translated.tensors.insert(name.clone(), info);
            translated.sources.insert(name.clone(), vec![name.clone()]);
            let is_scaled = factor == "up" && scale != 1.0;
            names.push((name, if is_scaled { Made::Scaled(source, scale, None) } else { Made::Moved(source) }));
        }
    }
    Ok(weights.joined(lora.renamed(names.into_iter())))
}

/// What a file says of itself, with the variant that it turned out to be.
fn described(metadata: &BTreeMap<String, String>, info: Option<&AdapterInfo>) -> Value {
    let own = metadata.get(METADATA_KEY).and_then(|text| serde_json::from_str(text).ok());
    let mut own: Map<String, Value> = own.unwrap_or_default();
    if let Some(info) = info {
        let variant: AdapterVariant = info.variant();
        own.insert("variant".to_owned(), variant.name().into());
        own.insert("num_tokens".to_owned(), info.num_tokens.into());
    }
    own.into()
}
