//! Floating-point numbers of one size as those of another.

use std::borrow::Cow;

use half::{bf16, f16};

use crate::Dtype;

/// The same numbers as another element type, rounded to the nearest, ties to even, as libtorch does it; `f64` goes
/// through `f32` on its way to the halves, there too.
///
/// # Errors
/// How many finite numbers the other element type has no finite neighbour for.
pub(super) fn cast(data: Cow<'_, [u8]>, from: Dtype, to: Dtype) -> Result<Cow<'_, [u8]>, usize> {
    match (from, to) {
        (from, to) if from == to => Ok(data),
        (Dtype::F64, Dtype::F32) => narrowed(&data, f64::from_le_bytes, |number| number as f32),
        (Dtype::F64, Dtype::F16) => narrowed(&data, f64::from_le_bytes, |number| f16::from_f32(number as f32)),
        (Dtype::F64, Dtype::BF16) => narrowed(&data, f64::from_le_bytes, |number| bf16::from_f32(number as f32)),
        (Dtype::F32, Dtype::F64) => narrowed(&data, f32::from_le_bytes, f64::from),
        (Dtype::F32, Dtype::F16) => narrowed(&data, f32::from_le_bytes, f16::from_f32),
        (Dtype::F32, Dtype::BF16) => narrowed(&data, f32::from_le_bytes, bf16::from_f32),
        (Dtype::F16, Dtype::F64) => narrowed(&data, f16::from_le_bytes, f64::from),
        (Dtype::F16, Dtype::F32) => narrowed(&data, f16::from_le_bytes, f32::from),
        (Dtype::F16, Dtype::BF16) => narrowed(&data, f16::from_le_bytes, |number| bf16::from_f32(number.to_f32())),
        (Dtype::BF16, Dtype::F64) => narrowed(&data, bf16::from_le_bytes, f64::from),
        (Dtype::BF16, Dtype::F32) => narrowed(&data, bf16::from_le_bytes, f32::from),
        (Dtype::BF16, Dtype::F16) => narrowed(&data, bf16::from_le_bytes, |number| f16::from_f32(number.to_f32())),
        _ => Ok(data), // whole numbers and truth values stay
    }
}

/// A number as its little-endian bytes.
trait Number<const SIZE: usize>: Copy {
    fn bytes(self) -> [u8; SIZE];
    fn is_finite(self) -> bool;
}

macro_rules! number {
    ($type:ty, $size:literal) => {
        impl Number<$size> for $type {
            fn bytes(self) -> [u8; $size] {
                self.to_le_bytes()
            }
            fn is_finite(self) -> bool {
                self.is_finite()
            }
        }
    };
}

number!(f16, 2);
number!(bf16, 2);
number!(f32, 4);
number!(f64, 8);

fn narrowed<const FROM: usize, const TO: usize, A: Number<FROM>, B: Number<TO>>(
    data: &[u8],
    read: impl Fn([u8; FROM]) -> A,
    convert: impl Fn(A) -> B,
) -> Result<Cow<'static, [u8]>, usize> {
    let numbers = data.as_chunks::<FROM>().0;
    let mut out = vec![0; numbers.len() * TO];
    let mut overflowed = 0;
    for (bytes, place) in numbers.iter().zip(out.as_chunks_mut::<TO>().0) {
        let number = read(*bytes);
        let converted = convert(number);
        overflowed += usize::from(number.is_finite() && !converted.is_finite());
        *place = converted.bytes();
    }
    if overflowed == 0 { Ok(Cow::Owned(out)) } else { Err(overflowed) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn bytes(numbers: &[f32]) -> Vec<u8> {
        numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
    }

    #[test]
    fn numbers_are_rounded_to_the_nearest() {
        let halves = [1.0, -2.5, 65504.0, 1.0 + 1.0 / 2048.0, 1.0 + 3.0 / 2048.0, 1e-8, f32::INFINITY];
        let expected = [1.0, -2.5, 65504.0, 1.0, 1.0 + 2.0 / 1024.0, 0.0, f32::INFINITY];
        let cast_down = cast(bytes(&halves).into(), Dtype::F32, Dtype::F16).unwrap();
        let back = cast(cast_down, Dtype::F16, Dtype::F32).unwrap();
        assert_eq!(&back[..], bytes(&expected));
        let nan = cast(bytes(&[f32::NAN]).into(), Dtype::F32, Dtype::BF16).unwrap();
        assert!(bf16::from_le_bytes(nan[..].try_into().unwrap()).is_nan());
    }

    #[test]
    fn a_wider_type_and_back_is_the_same() {
        for dtype in [Dtype::F16, Dtype::BF16] {
            let all: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
            for wide in [Dtype::F32, Dtype::F64] {
                let widened = cast(all.clone().into(), dtype, wide).unwrap();
                let back = cast(widened, wide, dtype).unwrap();
                let is_nan = |bytes: &[u8; 2]| {
                    cast(bytes[..].into(), dtype, Dtype::F32)
                        .is_ok_and(|wide| f32::from_le_bytes(wide[..].try_into().unwrap()).is_nan())
                };
                let same = |(a, b): (&[u8; 2], &[u8; 2])| a == b || is_nan(a) && is_nan(b);
                assert!(all.as_chunks::<2>().0.iter().zip(back.as_chunks::<2>().0).all(same), "{dtype} {wide}");
            }
        }
    }

    #[test]
    fn numbers_that_do_not_fit_are_counted() {
        let far = bytes(&[65520.0, 1.0, -1e30]);
        assert_eq!(cast(far.clone().into(), Dtype::F32, Dtype::F16), Err(2));
        assert!(cast(far.into(), Dtype::F32, Dtype::BF16).is_ok());
    }

    #[test]
    fn other_elements_stay() {
        assert_eq!(cast(vec![1, 2].into(), Dtype::U8, Dtype::U8), Ok(vec![1, 2].into()));
    }
}
