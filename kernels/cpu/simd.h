// A vector of LANES floats, and the few operations on it that the language has no sign for.
//
// Included only by kernels.cpp, which is compiled once for each instruction set with its own LANES and CK_ISA. No std::
// template may be instantiated there: the linker would be free to keep the copy that only one machine can run.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define CK_INLINE static inline __attribute__((always_inline))

namespace ck::CK_ISA {

constexpr int W = LANES;
typedef float V __attribute__((vector_size(4 * LANES)));
typedef float VU __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t VI __attribute__((vector_size(4 * LANES)));

CK_INLINE V load(const float* p) { return *reinterpret_cast<const V*>(p); }  // p is aligned to the vector
CK_INLINE void store(float* p, V v) { *reinterpret_cast<V*>(p) = v; }
CK_INLINE V loadu(const float* p) { return *reinterpret_cast<const VU*>(p); }
CK_INLINE void storeu(float* p, V v) { *reinterpret_cast<VU*>(p) = v; }

CK_INLINE V splat(float s) {
#if LANES == 16
  return _mm512_set1_ps(s);
#elif LANES == 8
  return _mm256_set1_ps(s);
#elif defined(__x86_64__)
  return _mm_set1_ps(s);
#else
  return vdupq_n_f32(s);
#endif
}

CK_INLINE V zero() { return splat(0.0f); }

// ReLU as torch has it: NaN stays NaN.
CK_INLINE V relu(V x) { return zero() > x ? zero() : x; }

// The sum of the lanes, always in the same order.
CK_INLINE float sum(V v) {
  float lane[W];
  storeu(lane, v);
  for (int step = W / 2; step; step /= 2)
    for (int i = 0; i < step; i++) lane[i] += lane[i + step];
  return lane[0];
}

// Exchanges a W x W block held in W vectors: r[i][j] becomes r[j][i].
CK_INLINE void transpose(V r[W]) {
#pragma GCC unroll 4
  for (int step = 1; step < W; step *= 2) {
    V t[W];
#pragma GCC unroll 16
    for (int i = 0; i < W; i++) {
      VI low, high;
#pragma GCC unroll 16
      for (int j = 0; j < W; j++) {
        low[j] = (j & step) ? W + (j ^ step) : j;
        high[j] = (j & step) ? W + j : (j ^ step);
      }
      if (!(i & step)) {
        t[i] = __builtin_shuffle(r[i], r[i ^ step], low);
        t[i ^ step] = __builtin_shuffle(r[i], r[i ^ step], high);
      }
    }
#pragma GCC unroll 16
    for (int i = 0; i < W; i++) r[i] = t[i];
  }
}

}  // namespace ck::CK_ISA
