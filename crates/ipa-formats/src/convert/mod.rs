//! Conversions: the same tensors under other names, in other files, with other element types.
//!
//! A conversion is decided from headers alone, by name and shape, before a byte is moved: a [`Conversion`] lists every
//! tensor that will be written with those it is made of, and every tensor of the input that will not, with the reason.
//! [`Conversion::write`] then moves the data, one tensor after the other.

mod cast;
mod report;

use std::cell::Cell;
use std::path::Path;

use serde_json::Value;

pub use report::{ConversionReport, Dropped, Moved};

use cast::cast;

use crate::safetensors::{LazyTensor, write_lazily};
use crate::{Dtype, FormatError, TensorInfo, Weights};

/// How much of the files that are read memory may hold meanwhile.
const HELD_BYTES: usize = 128 << 20;

/// Tensors ready to be written under their new names, and what became of the others.
#[derive(Debug)]
pub struct Conversion {
    weights: Weights,
    dropped: Vec<Dropped>,
    missing: Vec<String>,
}

impl Conversion {
    /// Tensors under their new names; what of the input is not among their sources; what a whole file would have too.
    pub(crate) fn new(weights: Weights, dropped: Vec<Dropped>, missing: Vec<String>) -> Self {
        Self { weights, dropped, missing }
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
    /// `None` to leave them as they are.
    ///
    /// # Errors
    /// [`FormatError::Overflow`] for numbers that the element type cannot hold; as [`crate::write_safetensors`].
    pub fn write(&self, path: &Path, dtype: Option<Dtype>, metadata: Option<&Value>) -> Result<(), FormatError> {
        let read = Cell::new(0);
        let tensors = self.weights.names().filter_map(|name| self.tensor(name, dtype, &read)).collect();
        write_lazily(path, tensors, metadata)
    }

    /// Makes every tensor as [`Conversion::write`] does and writes none: what that would fail with, but for the disk.
    ///
    /// # Errors
    /// As [`Conversion::write`].
    pub fn check(&self, dtype: Option<Dtype>) -> Result<(), FormatError> {
        let read = Cell::new(0);
        let mut tensors = self.weights.names().filter_map(|name| self.tensor(name, dtype, &read));
        tensors.try_for_each(|tensor| (tensor.data)().map(drop))
    }

    /// One tensor, made when it is written. `read` counts the bytes of files that memory holds.
    fn tensor<'a>(&'a self, name: &'a str, dtype: Option<Dtype>, read: &'a Cell<usize>) -> Option<LazyTensor<'a>> {
        let TensorInfo { dtype: stored, shape } = self.weights.info(name)?;
        let written = stored.written_as(dtype);
        let missing = || FormatError::Tensor {
            path: self.weights.path().to_owned(),
            name: name.to_owned(),
            problem: "has lost what it is made of",
        };
        let data = move || {
            if read.get() > HELD_BYTES {
                self.weights.release();
                read.set(0);
            }
            let data = self.weights.data(name).ok_or_else(missing)?;
            read.set(read.get() + data.len());
            cast(data, *stored, written).map_err(|count| FormatError::Overflow {
                path: self.weights.path().to_owned(),
                name: name.to_owned(),
                count,
                dtype: written,
            })
        };
        let info = TensorInfo { dtype: written, shape: shape.clone() };
        Some(LazyTensor { name: name.to_owned(), info, data: Box::new(data) })
    }
}
