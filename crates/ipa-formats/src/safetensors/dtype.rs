//! Element types of tensors in files.

use std::fmt;

use serde::Serialize;

/// Element type of a stored tensor: the ones libtorch computes with.
///
/// Eight-bit and smaller floats, complex and wide unsigned types are refused when a header is read.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Dtype {
    /// One byte, 0 or 1.
    Bool,
    /// Unsigned, 8 bits.
    U8,
    /// Signed, 8 bits.
    I8,
    /// Signed, 16 bits.
    I16,
    /// Signed, 32 bits.
    I32,
    /// Signed, 64 bits.
    I64,
    /// IEEE half precision.
    F16,
    /// Brain float: the upper half of an `F32`.
    BF16,
    /// IEEE single precision.
    F32,
    /// IEEE double precision.
    F64,
}

impl Dtype {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        self.stored().bitsize() / 8
    }

    /// Name in a safetensors header, such as `BF16`.
    pub fn name(self) -> &'static str {
        match self {
            Dtype::Bool => "BOOL",
            Dtype::U8 => "U8",
            Dtype::I8 => "I8",
            Dtype::I16 => "I16",
            Dtype::I32 => "I32",
            Dtype::I64 => "I64",
            Dtype::F16 => "F16",
            Dtype::BF16 => "BF16",
            Dtype::F32 => "F32",
            Dtype::F64 => "F64",
        }
    }

    /// Whether its elements are floating-point numbers.
    pub fn is_float(self) -> bool {
        matches!(self, Dtype::F16 | Dtype::BF16 | Dtype::F32 | Dtype::F64)
    }

    /// What a tensor is written as where floating-point ones are to be `float`; others stay what they are.
    pub(crate) fn written_as(self, float: Option<Dtype>) -> Dtype {
        float.filter(|_| self.is_float()).unwrap_or(self)
    }

    pub(super) fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "BOOL" => Dtype::Bool,
            "U8" => Dtype::U8,
            "I8" => Dtype::I8,
            "I16" => Dtype::I16,
            "I32" => Dtype::I32,
            "I64" => Dtype::I64,
            "F16" => Dtype::F16,
            "BF16" => Dtype::BF16,
            "F32" => Dtype::F32,
            "F64" => Dtype::F64,
            _ => return None,
        })
    }

    pub(super) fn stored(self) -> ::safetensors::Dtype {
        match self {
            Dtype::Bool => ::safetensors::Dtype::BOOL,
            Dtype::U8 => ::safetensors::Dtype::U8,
            Dtype::I8 => ::safetensors::Dtype::I8,
            Dtype::I16 => ::safetensors::Dtype::I16,
            Dtype::I32 => ::safetensors::Dtype::I32,
            Dtype::I64 => ::safetensors::Dtype::I64,
            Dtype::F16 => ::safetensors::Dtype::F16,
            Dtype::BF16 => ::safetensors::Dtype::BF16,
            Dtype::F32 => ::safetensors::Dtype::F32,
            Dtype::F64 => ::safetensors::Dtype::F64,
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
