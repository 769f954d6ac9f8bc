// A vector of LANES floats, and the few operations on it that the language has no sign for.
//
// Included only by kernels.cpp, which is compiled once for each instruction set with its own LANES and CK_ISA. No
// function template of std:: may be instantiated there: the linker would be free to keep the copy that only one machine
// can run.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#ifndef CK_INLINE  // sanitizers: `static inline`, as the checks of all that is inlined take minutes to compile
#define CK_INLINE static inline __attribute__((always_inline))
#endif

// Before a loop of so many steps, to be unrolled.
#define CK_PRAGMA(text) _Pragma(#text)
#ifdef __clang__
#define CK_UNROLL(steps) CK_PRAGMA(unroll steps)
#else
#define CK_UNROLL(steps) CK_PRAGMA(GCC unroll steps)
#endif

namespace ck::CK_ISA {

constexpr int W = LANES;
typedef float V __attribute__((vector_size(4 * LANES)));
typedef float VU __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t VI __attribute__((vector_size(4 * LANES)));

CK_INLINE V load(const float* p) { return *reinterpret_cast<const V*>(p); }  // p is aligned to the vector
CK_INLINE void store(float* p, V v) { *reinterpret_cast<V*>(p) = v; }
CK_INLINE V loadu(const float* p) { return *reinterpret_cast<const VU*>(p); }
CK_INLINE void storeu(float* p, V v) { *reinterpret_cast<VU*>(p) = v; }

// Hides from the compiler what v is.
CK_INLINE void hide(V& v) {
#if defined(__aarch64__)
  asm volatile("" : "+w"(v));
#elif LANES == 16 && !defined(__AVX512F__)
  asm volatile("" : "+m"(v));
#else
  asm volatile("" : "+v"(v));
#endif
}

// A load for two uses. Left to itself the compiler makes it an operand of both instructions, two loads.
CK_INLINE V load_once(const float* p) {
  V v = load(p);
#if !(LANES == 16 && !defined(__AVX512F__))
  hide(v);
#endif
  return v;
}

CK_INLINE void fetch(const float* p) { __builtin_prefetch(p); }  // into the cache, for later; p may be anywhere

CK_INLINE V splat(float s) {
#ifdef __AVX512F__
  return _mm512_set1_ps(s);
#elif LANES == 16  // 16 lanes without AVX-512, for tests: two registers each
  return s - V{};
#elif LANES == 8
  return _mm256_set1_ps(s);
#elif defined(__x86_64__)
  return _mm_set1_ps(s);
#else
  return vdupq_n_f32(s);
#endif
}

#if LANES == 16
CK_INLINE V joined(__m256 low, __m256 high) {
#ifdef __AVX512F__
  return _mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1);
#else
  const __m256 both[2] = {low, high};
  V v;
  memcpy(&v, both, sizeof v);
  return v;
#endif
}

template <int P>
CK_INLINE __m128 quarter(V v) {
#ifdef __AVX512F__
  return _mm512_extractf32x4_ps(v, P);
#else
  __m128 parts[4];
  memcpy(parts, &v, sizeof v);
  return parts[P];
#endif
}
#endif

CK_INLINE V zero() { return splat(0.0f); }

// ReLU as torch has it: NaN stays NaN. Of two numbers with a NaN among them, max is the second.
CK_INLINE V relu(V x) {
#ifdef __AVX512F__
  return _mm512_maskz_max_ps(static_cast<__mmask16>(-1), zero(), x);  // the unmasked one: a warning in GCC's header
#elif LANES == 8
  return _mm256_max_ps(zero(), x);
#else
  return zero() > x ? zero() : x;
#endif
}

// The sum of the lanes, always in the same order.
CK_INLINE float sum(V v) {
  float lane[W];
  storeu(lane, v);
  for (int step = W / 2; step; step /= 2)
    for (int i = 0; i < step; i++) lane[i] += lane[i + step];
  return lane[0];
}

template <class From, int... I>
CK_INLINE V shuffle(V a, V b, From from, std::integer_sequence<int, I...>) {
#ifdef __clang__  // GCC has it from 12 on
  return __builtin_shufflevector(a, b, from(I)...);
#else
  return __builtin_shuffle(a, b, VI{from(I)...});
#endif
}

// Lane i of the result is lane from(i) of a, or from W on of b; `from` captures nothing.
template <class From>
CK_INLINE V shuffle(V a, V b, From from) {
  return shuffle(a, b, from, std::make_integer_sequence<int, W>{});
}

// a0 b0 a1 b1 of each 128 bits, and a2 b2 a3 b3.
CK_INLINE V unpack_low(V a, V b) {
  return shuffle(a, b, [](int i) { return i / 4 * 4 + i % 4 / 2 + (i % 2 ? W : 0); });
}
CK_INLINE V unpack_high(V a, V b) {
  return shuffle(a, b, [](int i) { return i / 4 * 4 + i % 4 / 2 + 2 + (i % 2 ? W : 0); });
}

// Two vectors, shuffled alike in each 128 bits: entries A and B of x, then C and D of y.
template <int A, int B, int C, int D>
CK_INLINE V shuffle4(V x, V y) {
  return shuffle(x, y, [](int i) {
    constexpr int from[4] = {A, B, W + C, W + D};
    return from[i % 4] + i / 4 * 4;
  });
}

// Of x and y, pieces of T lanes: the odd pieces of x <-> the even ones of y.
template <int T>
CK_INLINE void exchange_pieces(V& x, V& y) {
  const V a = shuffle(x, y, [](int i) { return i & T ? W + i - T : i; });
  y = shuffle(x, y, [](int i) { return i & T ? W + i : i + T; });
  x = a;
}

// Turns each 4 x 4 block, 128 bits of four vectors, around.
CK_INLINE void transpose_four(V* v) {
  const V a = unpack_low(v[0], v[1]), b = unpack_high(v[0], v[1]);
  const V c = unpack_low(v[2], v[3]), d = unpack_high(v[2], v[3]);
  v[0] = shuffle4<0, 1, 0, 1>(a, c), v[1] = shuffle4<2, 3, 2, 3>(a, c);
  v[2] = shuffle4<0, 1, 0, 1>(b, d), v[3] = shuffle4<2, 3, 2, 3>(b, d);
}

CK_INLINE void transpose_quarters(V r[W]) {
  CK_UNROLL(4)
  for (int i = 0; i < W; i += 4) transpose_four(r + i);
}

// Exchanges 128-bit parts: part q of vector p goes to part p/4 of vector 4 q + p % 4.
template <int T = 4>
CK_INLINE void transpose_parts(V r[W]) {
  if constexpr (T < W) {
    CK_UNROLL(16)
    for (int pair = 0; pair < W / 2; pair++) {
      const int i = pair / T * 2 * T + pair % T;
      exchange_pieces<T>(r[i], r[i + T]);
    }
    transpose_parts<2 * T>(r);
  }
}

// Exchanges a W x W block held in W vectors: r[i][j] becomes r[j][i].
CK_INLINE void transpose(V r[W]) {
  transpose_quarters(r);
  transpose_parts(r);
}

// The W x W block whose rows row(0) ... row(W - 1) point to, turned around.
template <class Row>
CK_INLINE void load_transposed(const Row& row, V r[W]) {
#if LANES == 8  // two halves from memory cost no shuffle
  CK_UNROLL(4)
  for (int i = 0; i < 4; i++) {
    const float *near = row(i), *far = row(i + 4);
    r[i] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(near)), _mm_loadu_ps(far), 1);
    r[i + 4] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(near + 4)), _mm_loadu_ps(far + 4), 1);
  }
  transpose_quarters(r);
#else
  CK_UNROLL(16)
  for (int i = 0; i < W; i++) r[i] = loadu(row(i));
  transpose(r);
#endif
}

// The lanes backwards.
CK_INLINE V reverse(V v) {
  return shuffle(v, v, [](int i) { return W - 1 - i; });
}

// Lane i holds v[W - i], lane 0 something else.
CK_INLINE V reverse_from_1(V v) {
  return shuffle(v, v, [](int i) { return (W - i) % W; });
}

// Lane 0 of `first`, the others of `rest`.
CK_INLINE V first_lane(V first, V rest) {
  return shuffle(first, rest, [](int i) { return i ? W + i : 0; });
}

// 4 W numbers in a row become four vectors with every fourth number each: s[c][i] = v[4 i + c]; and back.
CK_INLINE void part_fours(V v[4]) {
  constexpr int P = W / 4;  // parts of a vector; part p of vector q holds the four with i = P q + p
  transpose_four(v);
  if (P > 1)
    for (int j = 0; j < 4; j++) v[j] = shuffle(v[j], v[j], [](int i) { return i % P * 4 + i / P; });
}

CK_INLINE void join_fours(V v[4]) {
  constexpr int P = W / 4;
  if (P > 1)
    for (int j = 0; j < 4; j++) v[j] = shuffle(v[j], v[j], [](int i) { return i % 4 * P + i / 4; });
  transpose_four(v);
}

}  // namespace ck::CK_ISA
