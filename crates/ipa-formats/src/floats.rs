//! Numbers out of tensors' bytes, and into them, for the few that are read or changed here.

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

/// As [`floats`], of whole numbers too, as scales may be.
pub(crate) fn numbers(dtype: Dtype, bytes: &[u8]) -> Option<Vec<f64>> {
    match dtype {
        Dtype::I32 => Some(decoded(bytes, |bytes| f64::from(i32::from_le_bytes(bytes)))),
        Dtype::I64 => Some(decoded(bytes, |bytes| i64::from_le_bytes(bytes) as f64)),
        _ => floats(dtype, bytes),
    }
}

/// The numbers of a floating-point tensor, each multiplied and rounded once; others stay.
///
/// # Errors
/// How many finite numbers the product is not finite for.
pub(crate) fn scaled(bytes: &[u8], dtype: Dtype, factor: f64) -> Result<Vec<u8>, usize> {
    let Some(numbers) = floats(dtype, bytes) else { return Ok(bytes.to_vec()) };
    let products = numbers.iter().map(|number| number * factor);
    let (out, overflowed) = match dtype {
        Dtype::F16 => {
            encoded(products, |number| (f16::from_f64(number).to_le_bytes(), f16::from_f64(number).is_finite()))
        }
        Dtype::BF16 => {
            encoded(products, |number| (bf16::from_f64(number).to_le_bytes(), bf16::from_f64(number).is_finite()))
        }
        Dtype::F32 => encoded(products, |number| ((number as f32).to_le_bytes(), (number as f32).is_finite())),
        _ => encoded(products, |number| (number.to_le_bytes(), number.is_finite())),
    };
    let infinite = numbers.iter().filter(|number| !number.is_finite()).count();
    if overflowed == infinite { Ok(out) } else { Err(overflowed - infinite) }
}

/// A number of an element type, whose type is computed with in `f64`.
pub(crate) fn number_bytes(dtype: Dtype, number: f64) -> Vec<u8> {
    match dtype {
        Dtype::F16 => f16::from_f64(number).to_le_bytes().to_vec(),
        Dtype::BF16 => bf16::from_f64(number).to_le_bytes().to_vec(),
        Dtype::F64 => number.to_le_bytes().to_vec(),
        _ => (number as f32).to_le_bytes().to_vec(),
    }
}

/// The bytes of numbers, and how many of them are not finite.
fn encoded<const SIZE: usize>(
    numbers: impl Iterator<Item = f64>,
    bytes: impl Fn(f64) -> ([u8; SIZE], bool),
) -> (Vec<u8>, usize) {
    let (mut out, mut infinite) = (Vec::new(), 0);
    for (bytes, is_finite) in numbers.map(bytes) {
        out.extend(bytes);
        infinite += usize::from(!is_finite);
    }
    (out, infinite)
}

fn decoded<const SIZE: usize>(bytes: &[u8], number: impl Fn([u8; SIZE]) -> f64) -> Vec<f64> {
    bytes.as_chunks().0.iter().copied().map(number).collect()
}
