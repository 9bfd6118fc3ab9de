//! Vectors of eight numbers.

use std::arch::x86_64::{
    __m256, _CMP_NLE_UQ, _MM_FROUND_NO_EXC, _MM_FROUND_TO_NEAREST_INT, _mm256_add_epi32, _mm256_add_ps, _mm256_and_ps,
    _mm256_castsi256_ps, _mm256_cmp_ps, _mm256_cmpgt_epi32, _mm256_cvtps_epi32, _mm256_div_ps, _mm256_fmadd_ps,
    _mm256_loadu_ps, _mm256_loadu_si256, _mm256_mask_i32gather_ps, _mm256_maskload_ps, _mm256_max_ps, _mm256_mul_ps,
    _mm256_round_ps, _mm256_set1_epi32, _mm256_set1_ps, _mm256_setr_epi32, _mm256_setzero_ps, _mm256_slli_epi32,
    _mm256_storeu_ps, _mm256_sub_ps,
};

use super::Vector;

const LANES: usize = 8;

// SAFETY: instructions of AVX2 and FMA alone.
unsafe impl Vector for __m256 {
    const LANES: usize = LANES;
    const BESIDE: usize = 2;

    #[target_feature(enable = "avx2,fma")]
    unsafe fn compiled<T>(work: impl FnOnce() -> T) -> T {
        work()
    }

    #[inline(always)]
    unsafe fn splat(number: f32) -> Self {
        unsafe { _mm256_set1_ps(number) }
    }

    #[inline(always)]
    unsafe fn load(place: *const f32) -> Self {
        unsafe { _mm256_loadu_ps(place) }
    }

    #[inline(always)]
    unsafe fn load_part(place: *const f32, count: usize) -> Self {
        if count >= LANES {
            return unsafe { _mm256_loadu_ps(place) };
        }
        unsafe {
            let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            _mm256_maskload_ps(place, _mm256_cmpgt_epi32(_mm256_set1_epi32(count as i32), lanes))
        }
    }

    #[inline(always)]
    unsafe fn gather(from: *const f32, places: *const i32) -> Self {
        unsafe {
            let places = _mm256_loadu_si256(places.cast());
            let is_there = _mm256_cmpgt_epi32(places, _mm256_set1_epi32(-1));
            _mm256_mask_i32gather_ps::<4>(_mm256_setzero_ps(), from, places, _mm256_castsi256_ps(is_there))
        }
    }

    #[inline(always)]
    unsafe fn store(self, place: *mut f32) {
        unsafe { _mm256_storeu_ps(place, self) };
    }

    #[inline(always)]
    fn plus(self, other: Self) -> Self {
        unsafe { _mm256_add_ps(self, other) }
    }

    #[inline(always)]
    fn minus(self, other: Self) -> Self {
        unsafe { _mm256_sub_ps(self, other) }
    }

    #[inline(always)]
    fn times(self, other: Self) -> Self {
        unsafe { _mm256_mul_ps(self, other) }
    }

    #[inline(always)]
    fn over(self, other: Self) -> Self {
        unsafe { _mm256_div_ps(self, other) }
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        unsafe { _mm256_max_ps(self, other) }
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, term: Self) -> Self {
        unsafe { _mm256_fmadd_ps(self, factor, term) }
    }

    #[inline(always)]
    fn rounded(self) -> Self {
        unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self) }
    }

    #[inline(always)]
    fn times_power(self, whole: Self) -> Self {
        // A power of two is its exponent and nothing else. What is no number stays none.
        unsafe {
            let power = _mm256_slli_epi32::<23>(_mm256_add_epi32(_mm256_cvtps_epi32(whole), _mm256_set1_epi32(127)));
            let is_there = _mm256_cmp_ps::<_CMP_NLE_UQ>(whole, _mm256_set1_ps(-127.0));
            _mm256_and_ps(_mm256_mul_ps(self, _mm256_castsi256_ps(power)), is_there)
        }
    }
}
