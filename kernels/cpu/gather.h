// Numbers from anywhere into one vector: what a permutation costs a row that lies across the lanes.
#pragma once

#include "simd.h"

namespace ck::CK_ISA {

// Four of the numbers at h. One load each: gather instructions take longer.
typedef float Four __attribute__((vector_size(16)));

CK_INLINE Four four_numbers(const float* h, const uint8_t* permutation) {
  uint32_t at;
  memcpy(&at, permutation, sizeof at);
  return Four{h[at & 0xff], h[at >> 8 & 0xff], h[at >> 16 & 0xff], h[at >> 24]};
}

CK_INLINE Four four_numbers(const float* h, const uint16_t* permutation) {
  uint64_t at;
  memcpy(&at, permutation, sizeof at);  // one load for the four indices
  return Four{h[at & 0xffff], h[at >> 16 & 0xffff], h[at >> 32 & 0xffff], h[at >> 48]};
}

CK_INLINE Four four_numbers(const float* h, const int32_t* permutation) {
  return Four{h[permutation[0]], h[permutation[1]], h[permutation[2]], h[permutation[3]]};
}

template <class Index>
CK_INLINE V numbers(const float* h, const Index* permutation) {
#if LANES == 16
  const __m256 low = _mm256_insertf128_ps(_mm256_castps128_ps256(four_numbers(h, permutation)),
                                          four_numbers(h, permutation + 4), 1);
  const __m256 high = _mm256_insertf128_ps(_mm256_castps128_ps256(four_numbers(h, permutation + 8)),
                                           four_numbers(h, permutation + 12), 1);
  return joined(low, high);
#elif LANES == 8
  return _mm256_insertf128_ps(_mm256_castps128_ps256(four_numbers(h, permutation)), four_numbers(h, permutation + 4), 1);
#else
  return four_numbers(h, permutation);
#endif
}

#if LANES >= 8
CK_INLINE __m256i eight_indices(const uint16_t* at) {
  return _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at)));
}
CK_INLINE __m256i eight_indices(const int32_t* at) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)); }

// Whether all eight are of one aligned block of eight, in any order.
template <class Index>
CK_INLINE bool is_block(const Index* at) {
  const __m256i index = eight_indices(at), block = _mm256_set1_epi32(static_cast<int32_t>(at[0]) & ~7);
  return _mm256_testz_si256(_mm256_xor_si256(index, block), _mm256_set1_epi32(~7));
}

// The same, and quicker where they are.
template <class Index>
CK_INLINE __m256 eight_numbers(const float* h, const Index* at) {
  if (is_block(at)) return _mm256_permutevar8x32_ps(_mm256_load_ps(h + (at[0] & ~7)), eight_indices(at));
  return _mm256_insertf128_ps(_mm256_castps128_ps256(four_numbers(h, at)), four_numbers(h, at + 4), 1);
}
#else
template <class Index>
CK_INLINE bool is_block(const Index*) {
  return false;
}
#endif

// `numbers` for an h that is aligned and a permutation that moves many blocks of eight.
template <class Index>
CK_INLINE V numbers_or_blocks(const float* h, const Index* at) {
#if LANES == 16
  return joined(eight_numbers(h, at), eight_numbers(h, at + 8));
#elif LANES == 8
  return eight_numbers(h, at);
#else
  return numbers(h, at);
#endif
}

// Between the vectors of a row that is `count` long: zeros beyond.
CK_INLINE V load_part(const float* x, int64_t count) {
  if (count >= W) return loadu(x);
  V v = zero();
  for (int64_t i = 0; i < count; i++) v[i] = x[i];
  return v;
}

CK_INLINE void store_part(float* y, V v, int64_t count) {
  if (count >= W) {
    storeu(y, v);
  } else {
    for (int64_t i = 0; i < count; i++) y[i] = v[i];
  }
}

}  // namespace ck::CK_ISA
