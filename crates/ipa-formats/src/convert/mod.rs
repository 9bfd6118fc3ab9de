//! Conversions: the same tensors under other names, in other files, with other element types.
//!
//! A conversion is decided from headers alone, by name and shape, before a byte is moved: a [`Conversion`] lists every
//! tensor that will be written with those it is made of, and every tensor of the input that will not, with the reason.
//! [`Conversion::write`] then moves the data, one tensor after the other.

mod cast;
mod lora;
mod model;
mod report;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use serde_json::Value;

pub use lora::{LoraDialect, convert_lora};
pub use model::{ModelConversion, ModelConversionOptions, ModelForm, ModelReport};
pub use report::{ConversionReport, Dropped, Moved};

use cast::cast;

use crate::safetensors::{LazyTensor, texts, write_lazily};
use crate::weights::Unmade;
use crate::{Dtype, FormatError, METADATA_KEY, PlainValue, TensorInfo, Weights};

/// How much of the files that are read memory may hold meanwhile.
const HELD_BYTES: usize = 128 << 20;
/// How many times longer than what is read a written file may be, before numbers get wider: tensors of one storage are
/// written one by one, and a stranger's file may have thousands of them.
const MAX_GROWTH: usize = 8;
/// What a file may grow by in any case.
const SMALL_GROWTH: usize = 1 << 20;
/// What is made at a time, a multiple of every element's size.
const BLOCK_BYTES: usize = 1 << 20;

/// Names that readers of pickles know and that are no tensors, as things that are left out.
pub(crate) fn no_tensors(values: &BTreeMap<String, PlainValue>) -> impl Iterator<Item = Dropped> {
    values.iter().map(|(name, value)| {
        let what = match value {
            PlainValue::None => "nothing (None)",
            PlainValue::Bool(_) | PlainValue::Int(_) | PlainValue::Float(_) => "a number",
            PlainValue::Text(_) => "a text",
            PlainValue::Opaque(_) => "an object",
        };
        Dropped { name: name.clone(), reason: format!("{what}, no tensor") }
    })
}

/// Texts of a header that stay true when its tensors have other bytes: not this project's own, which is written anew, and
/// no digests.
pub(crate) fn kept_texts(texts: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let stays = |key: &String| key != METADATA_KEY && key != "format" && !key.contains("hash");
    texts.iter().filter(|(key, _)| stays(key)).map(|(key, text)| (key.clone(), text.clone())).collect()
}

/// Tensors ready to be written under their new names, and what became of the others.
#[derive(Debug)]
pub struct Conversion {
    weights: Weights,
    dropped: Vec<Dropped>,
    missing: Vec<String>,
    texts: BTreeMap<String, String>,
}

impl Conversion {
    /// Tensors under their new names; what of the input is not among their sources; what a whole file would have too.
    pub(crate) fn new(weights: Weights, dropped: Vec<Dropped>, missing: Vec<String>) -> Self {
        Self { weights, dropped, missing, texts: BTreeMap::new() }
    }

    /// Free text that goes into the header beside what [`Conversion::write`] is given.
    pub(crate) fn with_texts(self, texts: BTreeMap<String, String>) -> Self {
        Self { texts, ..self }
    }

    /// The tensors under their new names.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// What a whole file would have and this one will lack, by the names that are written.
    pub fn missing(&self) -> &[String] {
        &self.missing
    }

    /// What [`Conversion::write`] with the same element type does, tensor by tensor.
    pub fn report(&self, dtype: Option<Dtype>) -> ConversionReport {
        ConversionReport::new(&self.weights, dtype, &self.dropped, &self.missing)
    }

    /// Writes the tensors as safetensors, whole or not at all; `dtype` is what floating-point tensors are written as,
    /// `None` to leave them as they are. Memory holds a few tensors at a time.
    ///
    /// # Errors
    /// [`FormatError::Overflow`] for numbers that the element type cannot hold, [`FormatError::NotConvertible`] for a
    /// file many times as long as the input; as [`crate::write_safetensors`].
    pub fn write(&self, path: &Path, dtype: Option<Dtype>, metadata: Option<&Value>) -> Result<(), FormatError> {
        self.check_growth()?;
        let held = AtomicUsize::new(0);
        let tensors = self.weights.names().filter_map(|name| self.tensor(name, dtype, &held)).collect();
        let mut entries = self.texts.clone();
        entries.extend(texts(metadata));
        write_lazily(path, tensors, &entries)
    }

    /// Makes every tensor as [`Conversion::write`] does and writes none: what that would fail with, but for the disk.
    ///
    /// # Errors
    /// As [`Conversion::write`].
    pub fn check(&self, dtype: Option<Dtype>) -> Result<(), FormatError> {
        self.check_growth()?;
        let held = AtomicUsize::new(0);
        let mut tensors = self.weights.names().filter_map(|name| self.tensor(name, dtype, &held));
        tensors.try_for_each(|tensor| (tensor.pour)(&mut |_| true))
    }

    fn check_growth(&self) -> Result<(), FormatError> {
        let lengths = self.weights.names().filter_map(|name| self.weights.info(name)).map(TensorInfo::num_bytes);
        let written = lengths.fold(0_usize, usize::saturating_add);
        let read = usize::try_from(self.weights.num_bytes()).unwrap_or(usize::MAX);
        match written <= read.saturating_mul(MAX_GROWTH).saturating_add(SMALL_GROWTH) {
            true => Ok(()),
            false => Err(FormatError::NotConvertible {
                path: self.weights.path().to_owned(),
                problem: format!(
                    "many of its tensors are the same numbers, and its {read} bytes would become {written}; save it \
                     again with a copy for each tensor that is to have one"
                ),
            }),
        }
    }

    /// One tensor, made when it is written. `held` counts the bytes of files that memory holds.
    fn tensor<'a>(&'a self, name: &'a str, dtype: Option<Dtype>, held: &'a AtomicUsize) -> Option<LazyTensor<'a>> {
        let stored = self.weights.info(name)?;
        let info = TensorInfo { dtype: stored.dtype.written_as(dtype), shape: stored.shape.clone() };
        let cast = (stored.dtype, info.dtype);
        let pour = move |sink: &mut dyn FnMut(Cow<'a, [u8]>) -> bool| {
            self.pour(name, cast, held, sink).map_err(|fault| {
                let (path, name) = (self.weights.path().to_owned(), name.to_owned());
                match fault {
                    Unmade::Missing => FormatError::Tensor { path, name, problem: "has lost what it is made of" },
                    Unmade::Overflow(count) => FormatError::Overflow { path, name, count, dtype: cast.1 },
                }
            })
        };
        Some(LazyTensor { name: name.to_owned(), info, pour: Box::new(pour) })
    }

    /// Hands a tensor over block by block, while `sink` takes them.
    fn pour<'a>(
        &'a self,
        name: &str,
        (from, to): (Dtype, Dtype),
        held: &AtomicUsize,
        sink: &mut dyn FnMut(Cow<'a, [u8]>) -> bool,
    ) -> Result<(), Unmade> {
        let data = self.weights.made(name)?;
        let mut overflowed = 0;
        match (data, from == to) {
            (Cow::Owned(data), true) => drop(sink(Cow::Owned(data))),
            (Cow::Borrowed(data), true) => {
                let mut blocks = data.chunks(BLOCK_BYTES).inspect(|block| self.count_held(block, held));
                while blocks.next().is_some_and(|block| sink(Cow::Borrowed(block))) {}
            }
            (data, false) => {
                for block in data.chunks(BLOCK_BYTES) {
                    self.count_held(block, held);
                    match cast(block, from, to) {
                        Err(count) => overflowed += count,
                        Ok(_) if overflowed > 0 => {}
                        Ok(block) => {
                            if !sink(Cow::Owned(block)) {
                                break;
                            }
                        }
                    }
                }
            }
        }
        if overflowed == 0 { Ok(()) } else { Err(Unmade::Overflow(overflowed)) }
    }

    /// Gives memory back once in a while: pages of a mapped file stay in it otherwise, up to the whole file.
    fn count_held(&self, block: &[u8], held: &AtomicUsize) {
        if held.fetch_add(block.len(), Relaxed) > HELD_BYTES {
            self.weights.release();
            held.store(0, Relaxed);
        }
    }
}
