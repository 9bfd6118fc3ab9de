//! Adapter files: every published kind under whichever names, checked tensor by tensor.
//!
//! [`AdapterFile::open`] reads a file in three steps, each from names and shapes alone: the published names of its
//! tensors, what kind of adapter has such tensors, and whether all of them fit. Data is moved when it is asked for.
//!
//! The tests for kinds are those of the reference loaders (diffusers' `loaders/unet.py`, ComfyUI_IPAdapter_plus).

mod checkpoint;
mod convert;
mod declared;
mod dialect;
mod diffusers;
mod error;
mod info;
mod kind;
mod layers;
mod paths;
mod projections;
mod recognise;
mod schema;
mod unet_layers;
mod write;

use std::collections::BTreeMap;
use std::path::Path;

pub use checkpoint::adapter_file;
pub use convert::{AdapterConversion, AdapterLora, ConvertedAdapter, convert_adapter};
pub use dialect::{AdapterDialect, Numbering, is_adapter};
pub use error::AdapterError;
pub use info::{AdapterInfo, ResamplerSizes};
pub use kind::{AdapterCoupling, AdapterKind, AdapterVariant, BaseModel, UnknownVariant};
pub use unet_layers::{UnetLayers, UnetLayersError};

use declared::Declared;
use dialect::{Translated, translate};
use recognise::recognise;

use crate::{FormatError, TensorInfo, Weights};

/// What a caller knows of an adapter that its file may not tell.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct AdapterOptions {
    /// How the file numbers the layers.
    pub numbering: Numbering,
    /// Which variant it is.
    pub variant: Option<AdapterVariant>,
}

/// An adapter, its tensors under the published names.
///
/// ```no_run
/// use ipa_formats::{AdapterFile, AdapterOptions};
///
/// let adapter = AdapterFile::open("ip-adapter_sd15.bin".as_ref(), &AdapterOptions::default())?;
/// println!("{} with {} tokens", adapter.info().variant(), adapter.info().num_tokens);
/// let keys = adapter.weights().data("ip_adapter.1.to_k_ip.weight");
/// # Ok::<(), ipa_formats::FormatError>(())
/// ```
#[derive(Debug)]
pub struct AdapterFile {
    weights: Weights,
    info: AdapterInfo,
    dialect: AdapterDialect,
}

impl AdapterFile {
    /// Opens an adapter in whichever dialect.
    ///
    /// # Errors
    /// As [`Weights::open`]; [`FormatError::NotAnAdapter`] and, for anything but exactly the tensors of one kind,
    /// [`FormatError::Adapter`].
    pub fn open(path: &Path, options: &AdapterOptions) -> Result<Self, FormatError> {
        let weights = Weights::open(path)?;
        let (Translated { dialect, tensors, mut sources, .. }, info) = read(&weights, options)?;
        let made = tensors.into_iter().map(|(name, info)| {
            let sources = sources.remove(&name).unwrap_or_default();
            (name, info, sources)
        });
        Ok(Self { weights: weights.rearranged(made), info, dialect })
    }

    /// Kind and sizes.
    pub fn info(&self) -> &AdapterInfo {
        &self.info
    }

    /// The names it uses.
    pub fn dialect(&self) -> AdapterDialect {
        self.dialect
    }

    /// The tensors under their published names.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// The tensors alone.
    pub fn into_weights(self) -> Weights {
        self.weights
    }
}

/// Recognises kind and sizes of an adapter in whichever dialect, without what its metadata or file name says.
///
/// # Errors
/// [`AdapterError`] naming the tensor that is missing, does not fit or is foreign.
pub fn recognise_adapter(
    tensors: &BTreeMap<String, TensorInfo>,
    options: &AdapterOptions,
) -> Result<AdapterInfo, AdapterError> {
    let declared = Declared::new(options.variant, &BTreeMap::new(), "")?;
    translated(tensors, options.numbering, &declared).map(|(_, info)| info)
}

/// Dialect, kind and sizes of opened weights.
pub(crate) fn inspect_adapter(
    weights: &Weights,
    options: &AdapterOptions,
) -> Result<(AdapterInfo, AdapterDialect), FormatError> {
    read(weights, options).map(|(translated, info)| (info, translated.dialect))
}

fn read(weights: &Weights, options: &AdapterOptions) -> Result<(Translated, AdapterInfo), FormatError> {
    let path = weights.path();
    if !is_adapter(&weights.tensors()) {
        return Err(FormatError::NotAnAdapter { path: path.to_owned() });
    }
    let file_name = path.file_name().unwrap_or_default().to_string_lossy();
    Declared::new(options.variant, &weights.metadata(), &file_name)
        .and_then(|declared| translated(&weights.tensors(), options.numbering, &declared))
        .map_err(|source| FormatError::Adapter { path: path.to_owned(), source: Box::new(source) })
}

fn translated(
    tensors: &BTreeMap<String, TensorInfo>,
    numbering: Numbering,
    declared: &Declared,
) -> Result<(Translated, AdapterInfo), AdapterError> {
    let translated = translate(tensors, numbering, None)?;
    let info = recognise(&translated.tensors, declared).map_err(|error| translated.in_the_file(error))?;
    Ok((translated, info))
}
