//! Numbers out of tensors' bytes, for the few that are read here.

use half::{bf16, f16};

use crate::Dtype;

/// The numbers of a floating-point tensor; `None` for other element types.
pub(crate) fn floats(dtype: Dtype, bytes: &[u8]) -> Option<Vec<f64>> {
    Some(match dtype {
        Dtype::F16 => decoded(bytes, |bytes| f16::from_le_bytes(bytes).to_f64()),
        Dtype::BF16 => decoded(bytes, |bytes| bf16::from_le_bytes(bytes).to_f64()),
        Dtype::F32 => decoded(bytes, |bytes| f64::from(f32::from_le_bytes(bytes))),
        Dtype::F64 => decoded(bytes, f64::from_le_bytes),
        _ => return None,
    })
}

fn decoded<const SIZE: usize>(bytes: &[u8], number: impl Fn([u8; SIZE]) -> f64) -> Vec<f64> {
    bytes.as_chunks().0.iter().copied().map(number).collect()
}
