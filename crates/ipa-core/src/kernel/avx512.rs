//! Vectors of 16 numbers.

use std::arch::x86_64::{
    __m512, __mmask16, _mm512_add_ps, _mm512_cmpge_epi32_mask, _mm512_div_ps, _mm512_fmadd_ps, _mm512_loadu_epi32,
    _mm512_loadu_ps, _mm512_mask_i32gather_ps, _mm512_maskz_loadu_ps, _mm512_max_ps, _mm512_mul_ps,
    _mm512_roundscale_ps, _mm512_scalef_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_setzero_si512, _mm512_storeu_ps,
    _mm512_sub_ps,
};

use super::Vector;

const LANES: usize = 16;

// SAFETY: instructions of AVX-512 alone.
unsafe impl Vector for __m512 {
    const LANES: usize = LANES;
    const BESIDE: usize = 3;

    #[target_feature(enable = "avx512f")]
    unsafe fn compiled<T>(work: impl FnOnce() -> T) -> T {
        work()
    }

    #[inline(always)]
    unsafe fn splat(number: f32) -> Self {
        unsafe { _mm512_set1_ps(number) }
    }

    #[inline(always)]
    unsafe fn load(place: *const f32) -> Self {
        unsafe { _mm512_loadu_ps(place) }
    }

    #[inline(always)]
    unsafe fn load_part(place: *const f32, count: usize) -> Self {
        let mask = if count >= LANES { __mmask16::MAX } else { (1 << count) - 1 };
        unsafe { _mm512_maskz_loadu_ps(mask, place) }
    }

    #[inline(always)]
    unsafe fn gather(from: *const f32, places: *const i32) -> Self {
        unsafe {
            let places = _mm512_loadu_epi32(places);
            let is_there = _mm512_cmpge_epi32_mask(places, _mm512_setzero_si512());
            _mm512_mask_i32gather_ps::<4>(_mm512_setzero_ps(), is_there, places, from)
        }
    }

    #[inline(always)]
    unsafe fn store(self, place: *mut f32) {
        unsafe { _mm512_storeu_ps(place, self) };
    }

    #[inline(always)]
    fn plus(self, other: Self) -> Self {
        unsafe { _mm512_add_ps(self, other) }
    }

    #[inline(always)]
    fn minus(self, other: Self) -> Self {
        unsafe { _mm512_sub_ps(self, other) }
    }

    #[inline(always)]
    fn times(self, other: Self) -> Self {
        unsafe { _mm512_mul_ps(self, other) }
    }

    #[inline(always)]
    fn over(self, other: Self) -> Self {
        unsafe { _mm512_div_ps(self, other) }
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        unsafe { _mm512_max_ps(self, other) }
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, term: Self) -> Self {
        unsafe { _mm512_fmadd_ps(self, factor, term) }
    }

    #[inline(always)]
    fn rounded(self) -> Self {
        unsafe { _mm512_roundscale_ps::<0>(self) }
    }

    #[inline(always)]
    fn times_power(self, whole: Self) -> Self {
        unsafe { _mm512_scalef_ps(self, whole) }
    }
}
