//! Floating-point numbers of one size as those of another.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::Dtype;

/// Numbers that are converted at a time where the processor has an instruction for it.
const LANE: usize = 1024;

/// The same numbers as another element type, rounded to the nearest, ties to even, as libtorch does it; `f64` goes
/// through `f32` on its way to the halves, there too.
///
/// # Errors
/// How many finite numbers the other element type has no finite neighbour for.
pub(super) fn cast(data: &[u8], from: Dtype, to: Dtype) -> Result<Vec<u8>, usize> {
    match (from, to) {
        (Dtype::F32, Dtype::F16) => halved::<f16>(data),
        (Dtype::F32, Dtype::BF16) => halved::<bf16>(data),
        (Dtype::F16, Dtype::F32) => Ok(doubled::<f16>(data)),
        (Dtype::BF16, Dtype::F32) => Ok(doubled::<bf16>(data)),
        (Dtype::F64, Dtype::F32) => narrowed(data, |number: f64| number as f32),
        (Dtype::F64, Dtype::F16) => narrowed(data, |number: f64| f16::from_f32(number as f32)),
        (Dtype::F64, Dtype::BF16) => narrowed(data, |number: f64| bf16::from_f32(number as f32)),
        (Dtype::F32, Dtype::F64) => narrowed(data, |number: f32| f64::from(number)),
        (Dtype::F16, Dtype::F64) => narrowed(data, |number: f16| f64::from(number)),
        (Dtype::F16, Dtype::BF16) => narrowed(data, |number: f16| bf16::from_f32(number.to_f32())),
        (Dtype::BF16, Dtype::F64) => narrowed(data, |number: bf16| f64::from(number)),
        (Dtype::BF16, Dtype::F16) => narrowed(data, |number: bf16| f16::from_f32(number.to_f32())),
        _ => Ok(data.to_vec()), // whole numbers and truth values stay, as does what is of the type already
    }
}

/// A number as its little-endian bytes.
trait Number<const SIZE: usize>: Copy {
    fn bytes(self) -> [u8; SIZE];
    fn of_bytes(bytes: [u8; SIZE]) -> Self;
    fn is_finite(self) -> bool;
}

macro_rules! number {
    ($type:ty, $size:literal) => {
        impl Number<$size> for $type {
            fn bytes(self) -> [u8; $size] {
                self.to_le_bytes()
            }
            fn of_bytes(bytes: [u8; $size]) -> Self {
                Self::from_le_bytes(bytes)
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
    convert: impl Fn(A) -> B,
) -> Result<Vec<u8>, usize> {
    let numbers = data.as_chunks::<FROM>().0;
    let mut out = vec![0; numbers.len() * TO];
    let mut overflowed = 0;
    for (bytes, place) in numbers.iter().zip(out.as_chunks_mut::<TO>().0) {
        let number = A::of_bytes(*bytes);
        let converted = convert(number);
        overflowed += usize::from(number.is_finite() && !converted.is_finite());
        *place = converted.bytes();
    }
    if overflowed == 0 { Ok(out) } else { Err(overflowed) }
}

/// [`narrowed`] for the pairs that matter, several times as fast through the slices of `half`.
fn halved<H: Number<2> + Default>(data: &[u8]) -> Result<Vec<u8>, usize>
where
    [H]: HalfFloatSliceExt,
{
    let mut out = vec![0; data.len() / 2];
    let (mut singles, mut halves) = ([0.0_f32; LANE], [H::default(); LANE]);
    let mut overflowed = 0;
    for (bytes, place) in data.chunks(4 * LANE).zip(out.chunks_mut(2 * LANE)) {
        let (bytes, place) = (bytes.as_chunks().0, place.as_chunks_mut().0);
        singles.iter_mut().zip(bytes).for_each(|(single, bytes)| *single = f32::from_le_bytes(*bytes));
        halves[..bytes.len()].convert_from_f32_slice(&singles[..bytes.len()]);
        if halves[..bytes.len()].iter().fold(false, |any, half| any | !half.is_finite()) {
            let pairs = singles.iter().zip(&halves).take(bytes.len());
            overflowed += pairs.filter(|(single, half)| single.is_finite() && !half.is_finite()).count();
        }
        place.iter_mut().zip(&halves).for_each(|(place, half)| *place = half.bytes());
    }
    if overflowed == 0 { Ok(out) } else { Err(overflowed) }
}

fn doubled<H: Number<2> + Default>(data: &[u8]) -> Vec<u8>
where
    [H]: HalfFloatSliceExt,
{
    let mut out = vec![0; data.len() * 2];
    let (mut singles, mut halves) = ([0.0_f32; LANE], [H::default(); LANE]);
    for (bytes, place) in data.chunks(2 * LANE).zip(out.chunks_mut(4 * LANE)) {
        let (bytes, place) = (bytes.as_chunks().0, place.as_chunks_mut().0);
        halves.iter_mut().zip(bytes).for_each(|(half, bytes)| *half = H::of_bytes(*bytes));
        halves[..bytes.len()].convert_to_f32_slice(&mut singles[..bytes.len()]);
        place.iter_mut().zip(&singles).for_each(|(place, single)| *place = single.to_le_bytes());
    }
    out
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
        let cast_down = cast(&bytes(&halves), Dtype::F32, Dtype::F16).unwrap();
        let back = cast(&cast_down, Dtype::F16, Dtype::F32).unwrap();
        assert_eq!(back, bytes(&expected));
        let nan = cast(&bytes(&[f32::NAN]), Dtype::F32, Dtype::BF16).unwrap();
        assert!(bf16::from_le_bytes(nan[..].try_into().unwrap()).is_nan());
    }

    /// The processor's instruction and the portable code, in whole lanes and in the rest of one.
    #[test]
    fn slices_are_cast_as_single_numbers_are() {
        let bits = (0..3 * LANE as u32 + 5).map(|number| number.wrapping_mul(0x9e37_79b9) >> 2);
        let numbers: Vec<f32> = bits.map(|bits| f32::from_bits(bits).min(60_000.0)).collect();
        let single = |number: &f32| f16::from_f32_const(*number).to_le_bytes();
        let brain = |number: &f32| bf16::from_f32_const(*number).to_le_bytes();
        let halves = cast(&bytes(&numbers), Dtype::F32, Dtype::F16).unwrap();
        assert_eq!(halves, numbers.iter().flat_map(single).collect::<Vec<_>>());
        let brains = cast(&bytes(&numbers), Dtype::F32, Dtype::BF16).unwrap();
        assert_eq!(brains, numbers.iter().flat_map(brain).collect::<Vec<_>>());
        let single = |half: &[u8; 2]| f16::from_le_bytes(*half).to_f32_const().to_le_bytes();
        let back = cast(&halves, Dtype::F16, Dtype::F32).unwrap();
        assert_eq!(back, halves.as_chunks().0.iter().flat_map(single).collect::<Vec<_>>());
    }

    #[test]
    fn a_wider_type_and_back_is_the_same() {
        for dtype in [Dtype::F16, Dtype::BF16] {
            let all: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
            for wide in [Dtype::F32, Dtype::F64] {
                let back = cast(&cast(&all, dtype, wide).unwrap(), wide, dtype).unwrap();
                let is_nan = |bytes: &[u8; 2]| {
                    cast(bytes, dtype, Dtype::F32)
                        .is_ok_and(|wide| f32::from_le_bytes(wide[..].try_into().unwrap()).is_nan())
                };
                let same = |(a, b): (&[u8; 2], &[u8; 2])| a == b || is_nan(a) && is_nan(b);
                assert!(all.as_chunks::<2>().0.iter().zip(back.as_chunks::<2>().0).all(same), "{dtype} {wide}");
            }
        }
    }

    #[test]
    fn numbers_that_do_not_fit_are_counted() {
        let far = bytes(&[65520.0, 1.0, -1e30, f32::INFINITY]);
        assert_eq!(cast(&far, Dtype::F32, Dtype::F16), Err(2));
        assert!(cast(&far, Dtype::F32, Dtype::BF16).is_ok());
    }

    #[test]
    fn other_elements_stay() {
        assert_eq!(cast(&[1, 2], Dtype::U8, Dtype::F16), Ok(vec![1, 2]));
    }
}
