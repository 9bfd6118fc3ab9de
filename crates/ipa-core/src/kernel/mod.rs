//! What kernels of our own are made of: products of a few rows that stay in registers, and powers of two; written once for
//! vectors of each size.
//!
//! Whatever computes with vectors is inlined into [`Vector::compiled`], and nothing of it is called elsewhere.

mod avx2;
mod avx512;
mod product;

use std::arch::x86_64::{__m256, __m512};

pub(crate) use product::{Left, Rows, add_product, add_wide, turned};

/// The instructions that kernels are compiled for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Instructions {
    /// 16 numbers in a vector, 32 vectors.
    Avx512,
    /// 8 numbers in a vector, 16 vectors.
    Avx2,
}

impl Instructions {
    /// The best first.
    pub(crate) const ALL: [Self; 2] = [Self::Avx512, Self::Avx2];

    /// Whether this processor has them.
    pub(crate) fn is_there(self) -> bool {
        match self {
            Self::Avx512 => std::arch::is_x86_feature_detected!("avx512f"),
            Self::Avx2 => std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma"),
        }
    }

    /// The best that this processor has.
    pub(crate) fn found() -> Option<Self> {
        Self::ALL.into_iter().find(|instructions| instructions.is_there())
    }

    /// Queries or positions that are computed together.
    pub(crate) fn panel(self) -> usize {
        match self {
            Self::Avx512 => Line::<__m512>::PANEL,
            Self::Avx2 => Line::<__m256>::PANEL,
        }
    }
}

/// A vector of numbers. Everything that computes with some is called inside [`Vector::compiled`] alone, on a processor that
/// has the instructions: that is what its functions that are not `unsafe` rely on, and what `unsafe` ones "as [`Vector`]" ask.
///
/// # Safety
/// It is [`Vector::LANES`] numbers and nothing else, of any bits.
pub(crate) unsafe trait Vector: Copy + Send + Sync + std::fmt::Debug {
    const LANES: usize;
    /// How many may be beside each other in [`add_wide`], so that the sums of all rows stay in registers.
    const BESIDE: usize;

    /// Does the work in a function that is compiled for these instructions: it has to be `#[inline(always)]` with all it calls.
    ///
    /// # Safety
    /// The processor has them.
    unsafe fn compiled<T>(work: impl FnOnce() -> T) -> T;

    unsafe fn splat(number: f32) -> Self;
    /// # Safety
    /// So many numbers lie there.
    unsafe fn load(place: *const f32) -> Self;
    /// As many as there are, zeros after them.
    ///
    /// # Safety
    /// `count` numbers lie there, or as many as in a vector.
    unsafe fn load_part(place: *const f32, count: usize) -> Self;
    /// The numbers at so many places from there on, zeros where a place is below 0.
    ///
    /// # Safety
    /// They lie there, and there are as many places as in a vector.
    unsafe fn gather(from: *const f32, places: *const i32) -> Self;
    /// # Safety
    /// There is room for so many numbers.
    unsafe fn store(self, place: *mut f32);
    fn plus(self, other: Self) -> Self;
    fn minus(self, other: Self) -> Self;
    fn times(self, other: Self) -> Self;
    fn over(self, other: Self) -> Self;
    fn max(self, other: Self) -> Self;
    /// `self · factor + term`, rounded once.
    fn mul_add(self, factor: Self, term: Self) -> Self;
    /// To the nearest whole number.
    fn rounded(self) -> Self;
    /// `self · 2^whole`, 0 where that is too small; `whole` not above 127.
    fn times_power(self, whole: Self) -> Self;

    /// `2^self`, to 1 in the last place; 0 where that is too small.
    #[inline(always)]
    fn exp2(self) -> Self {
        let whole = self.rounded();
        let rest = self.minus(whole);
        // SAFETY: as `Vector` says.
        let mut sum = unsafe { Self::splat(EXP2_SERIES[0]) };
        for term in &EXP2_SERIES[1..] {
            // SAFETY: as `Vector` says.
            sum = sum.mul_add(rest, unsafe { Self::splat(*term) });
        }
        sum.times_power(whole)
    }
}

/// Taylor's series of `2^x`; the next term is 5e-9 at the ends of ±1/2.
pub(crate) const EXP2_SERIES: [f32; 8] = [
    1.525_273_4e-5,
    1.540_353e-4,
    1.333_355_8e-3,
    9.618_129e-3,
    5.550_411e-2,
    0.240_226_5,
    std::f32::consts::LN_2,
    1.0,
];

/// A number for each query or position of a panel, in two vectors: each number of a key or weight serves them all.
#[derive(Debug, Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Line<V>(pub(crate) [V; 2]);

impl<V: Vector> Line<V> {
    /// Queries or positions that are computed together.
    pub(crate) const PANEL: usize = 2 * V::LANES;

    /// It is so many numbers and nothing else.
    const IS_NUMBERS: () = assert!(size_of::<Self>() == Self::PANEL * size_of::<f32>());

    // SAFETY: zeros are numbers, of which a line consists.
    pub(crate) const ZERO: Self = unsafe { std::mem::zeroed() };

    /// # Safety
    /// As [`Vector::splat`].
    #[inline(always)]
    pub(crate) unsafe fn splat(number: f32) -> Self {
        // SAFETY: the caller sees to it.
        Self([unsafe { V::splat(number) }; 2])
    }

    #[inline(always)]
    pub(crate) fn numbers(&self) -> &[f32] {
        Self::all_numbers(std::slice::from_ref(self))
    }

    #[inline(always)]
    pub(crate) fn numbers_mut(&mut self) -> &mut [f32] {
        let () = Self::IS_NUMBERS;
        // SAFETY: as was just asked.
        unsafe { std::slice::from_raw_parts_mut(std::ptr::from_mut(self).cast(), Self::PANEL) }
    }

    /// The numbers of lines, which lie without gaps.
    #[inline(always)]
    pub(crate) fn all_numbers(lines: &[Self]) -> &[f32] {
        let () = Self::IS_NUMBERS;
        // SAFETY: as was just asked.
        unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), lines.len() * Self::PANEL) }
    }

    #[inline(always)]
    pub(crate) fn plus(self, other: Self) -> Self {
        let mut result = self;
        for (value, other) in result.0.iter_mut().zip(other.0) {
            *value = value.plus(other);
        }
        result
    }

    #[inline(always)]
    pub(crate) fn minus(self, other: Self) -> Self {
        let mut result = self;
        for (value, other) in result.0.iter_mut().zip(other.0) {
            *value = value.minus(other);
        }
        result
    }

    #[inline(always)]
    pub(crate) fn times(self, other: Self) -> Self {
        let mut result = self;
        for (value, other) in result.0.iter_mut().zip(other.0) {
            *value = value.times(other);
        }
        result
    }

    #[inline(always)]
    pub(crate) fn over(self, other: Self) -> Self {
        let mut result = self;
        for (value, other) in result.0.iter_mut().zip(other.0) {
            *value = value.over(other);
        }
        result
    }

    #[inline(always)]
    pub(crate) fn max(self, other: Self) -> Self {
        let mut result = self;
        for (value, other) in result.0.iter_mut().zip(other.0) {
            *value = value.max(other);
        }
        result
    }

    #[inline(always)]
    pub(crate) fn exp2(self) -> Self {
        let mut result = self;
        for value in &mut result.0 {
            *value = value.exp2();
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Calls a function for the vectors of all instructions that this processor has.
    macro_rules! for_all {
        ($of:ident) => {
            // SAFETY: the processor has the instructions.
            unsafe {
                if Instructions::Avx512.is_there() {
                    __m512::compiled(
                        #[inline(always)]
                        || $of::<__m512>(),
                    );
                }
                if Instructions::Avx2.is_there() {
                    __m256::compiled(
                        #[inline(always)]
                        || $of::<__m256>(),
                    );
                }
            }
        };
    }

    fn numbers<V: Vector>(vector: V) -> Vec<f32> {
        let mut numbers = vec![0.0; V::LANES];
        // SAFETY: there is room for it.
        unsafe { vector.store(numbers.as_mut_ptr()) };
        numbers
    }

    unsafe fn powers<V: Vector>() {
        let of = |x: f32| unsafe { numbers(V::splat(x).exp2())[0] };
        for step in -125_500..=1_000 {
            let x = step as f32 / 1000.0 + 1e-5;
            let exact = f64::from(x).exp2();
            assert!((f64::from(of(x)) / exact - 1.0).abs() < 2e-7, "2^{x} is {exact}, not {}", of(x));
        }
        assert_eq!([0.0, 1.0, -1.0, -126.0].map(of), [1.0, 2.0, 0.5, f32::MIN_POSITIVE]);
        assert_eq!([-200.0, -1e30, f32::NEG_INFINITY].map(of), [0.0; 3]);
        assert!(of(f32::NAN).is_nan());
    }

    unsafe fn parts<V: Vector>() {
        let all: Vec<f32> = (1..=20).map(|number| number as f32).collect();
        for count in 0..=V::LANES {
            // Nothing lies beyond it.
            let some = all[..count].to_vec().into_boxed_slice();
            let found = unsafe { numbers(V::load_part(some.as_ptr(), count)) };
            assert!(found[..count] == some[..] && found[count..].iter().all(|number| *number == 0.0), "{count}");
        }
        let places: Vec<i32> = (0..V::LANES as i32).map(|lane| if lane % 3 == 1 { -1 } else { 19 - lane }).collect();
        let found = unsafe { numbers(V::gather(all.as_ptr(), places.as_ptr())) };
        let expected = places.iter().map(|place| usize::try_from(*place).map_or(0.0, |place| all[place]));
        assert!(found.into_iter().eq(expected));
    }

    #[test]
    fn powers_are_exact_to_the_last_place() {
        for_all!(powers);
    }

    #[test]
    fn what_is_not_there_is_not_read() {
        for_all!(parts);
    }
}
