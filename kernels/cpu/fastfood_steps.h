// The steps that Fastfood's forward and backward pass are made of, on granules of R rows (granule.h).
#pragma once

#include "gather.h"
#include "granule.h"

namespace ck::CK_ISA {

// A permutation as it was given.
struct Indices {
  const void* data;
  bool is_16;
  int64_t at(int64_t i) const {
    return is_16 ? static_cast<const uint16_t*>(data)[i] : static_cast<const int32_t*>(data)[i];
  }
};

// f(count<0>), ... f(count<R - 1>)
template <int R, class F>
CK_INLINE void for_each_vector(F f) {
  f(count<0>{});
  if constexpr (R == 4) f(count<1>{}), f(count<2>{}), f(count<3>{});
}

// h = x * b from element `first` to `last`, the bits of neighbours transformed; x is filled up with zeros from column
// `columns` on.
template <int R, int C>
static __attribute__((noinline)) void enter(const float* x, int64_t stride, int64_t columns, const float* b, float* h,
                                            int64_t first, int64_t last) {
  for (int64_t e = first; e < last; e += C * W) {
    float tile[R * C * W];
    int64_t step = stride;
    const float* from = x + e;
    if (__builtin_expect(e + C * W > columns, 0)) {
      step = C * W, from = tile;
      for (int r = 0; r < R; r++)
        for (int i = 0; i < C * W; i++) tile[r * C * W + i] = e + i < columns ? x[r * stride + e + i] : 0.0f;
    }
    V v[R * C];
    CK_UNROLL(16)
    for (int i = 0; i < R * C; i++) v[i] = loadu(from + i % R * step + i / R * W) * loadu(b + e + i / R * W);
    CK_UNROLL(16)
    for (int i = 0; i < C; i++) turn<R>(v + i * R);
    near<R, C>(v);
    CK_UNROLL(16)
    for (int i = 0; i < R * C; i++) storeu(h + e * R + i * W, v[i]);
  }
}

// The transform's bits of neighbours, and from the granules at h back to rows: v[c * R + r].
template <int R, int C>
CK_INLINE void leave(const float* h, V* v) {
  CK_UNROLL(16)
  for (int i = 0; i < R * C; i++) v[i] = loadu(h + i * W);
  near<R, C>(v);
  CK_UNROLL(16)
  for (int i = 0; i < C; i++) turn<R>(v + i * R);
}

// The same for all of them, into rows (R, d).
template <int R, int C>
static __attribute__((noinline)) void leave_to_rows(const float* h, float* rows, int64_t d) {
  for (int64_t e = 0; e < d; e += C * W) {
    V v[R * C];
    leave<R, C>(h + e * R, v);
    CK_UNROLL(16)
    for (int i = 0; i < R * C; i++) storeu(rows + i % R * d + e + i / R * W, v[i]);
  }
}

// Where each place of h[permutation[.]] comes from, in floats; only needed where a granule is more than a number.
template <class Index>
static __attribute__((noinline)) void find_places(const Index* permutation, int32_t* from, int64_t d, const Parts& parts) {
  const int shift = __builtin_ctzll(static_cast<unsigned long long>(parts.length));
  for (int64_t e = 0; e < d; e += W) {
    int32_t found[W];
    for (int i = 0; i < W; i++) {
      const int32_t at = static_cast<int32_t>(permutation[e + i]);
      found[i] = 4 * ((at & ~(W - 1)) | (at & 3) * (W / 4) | (at >> 2 & (W / 4 - 1))) +
                 (at >> shift) * static_cast<int32_t>(parts.gap);
    }
    CK_UNROLL(16)
    for (int i = 0; i < W; i++) from[e + i % 4 * (W / 4) + i / 4] = found[i];
  }
}

static void find_places(const Indices& permutation, int32_t* from, int64_t d, const Parts& parts) {
  if (permutation.is_16) find_places(static_cast<const uint16_t*>(permutation.data), from, d, parts);
  else find_places(static_cast<const int32_t*>(permutation.data), from, d, parts);
}

// One vector of permuted granules: W / 4 pieces of four floats.
CK_INLINE V pieces(const float* h, const int32_t* from) {
#if LANES == 16
  const __m256 low = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(h + from[0])), _mm_loadu_ps(h + from[1]), 1);
  const __m256 high = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(h + from[2])), _mm_loadu_ps(h + from[3]), 1);
  return joined(low, high);
#elif LANES == 8
  return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(h + from[0])), _mm_loadu_ps(h + from[1]), 1);
#else
  return loadu(h + from[0]);
#endif
}

CK_INLINE void put_pieces(float* h, const int32_t* to, V v) {
#if LANES == 16
  _mm_storeu_ps(h + to[0], quarter<0>(v)), _mm_storeu_ps(h + to[1], quarter<1>(v));
  _mm_storeu_ps(h + to[2], quarter<2>(v)), _mm_storeu_ps(h + to[3], quarter<3>(v));
#elif LANES == 8
  _mm_storeu_ps(h + to[0], _mm256_castps256_ps128(v));
  _mm_storeu_ps(h + to[1], _mm256_extractf128_ps(v, 1));
#else
  storeu(h + to[0], v);
#endif
}

// The distant bits of in * g; `in(v)` gives vector v.
template <int R, int N, class In>
CK_INLINE void weighted_pass(In in, const float* g, float* out, int64_t stride, int64_t total, int64_t gap) {
  const V one = opaque_one();
  for (int64_t block = 0; block < total; block += N * stride)
    for (int64_t j = block; j < block + stride; j += R)
      for_each_vector<R>([&](auto which) {
        constexpr int J = decltype(which)::value;
        V v[N];
        CK_UNROLL(16)
        for (int t = 0; t < N; t++) v[t] = in(j + J + t * stride) * spread<R, J>(loadu(g + (j + t * stride) / R * W));
        butterflies<N>(v, one);
        CK_UNROLL(16)
        for (int t = 0; t < N; t++) storeu(out + (j + J + t * stride) * W + t * gap, v[t]);
      });
}

// The first pass over distant vectors, of in * g, into out: so many bits, from `stride` on.
template <int R, class In>
CK_INLINE void weighted_bits(int bits, In in, const float* g, float* out, int64_t stride, int64_t total, int64_t gap) {
  if (bits == 0) weighted_pass<R, 1>(in, g, out, stride, total, gap);
  else if (bits == 1) weighted_pass<R, 2>(in, g, out, stride, total, gap);
  else if (bits == 2) weighted_pass<R, 4>(in, g, out, stride, total, gap);
  else if (bits == 3) weighted_pass<R, 8>(in, g, out, stride, total, gap);
  else weighted_pass<R, 16>(in, g, out, stride, total, gap);
}

CK_INLINE int bits_of(int64_t power) { return __builtin_ctzll(static_cast<unsigned long long>(power)); }

// The distant bits of in * g, into out: those over the parts where there are several, else all.
template <int R, class In>
CK_INLINE void weighted_distant(In in, const float* g, float* out, int64_t stride, int64_t total, const Parts& parts) {
  const int64_t part = parts.length * R / W;
  if (part < total) {
    weighted_bits<R>(bits_of(total / part), in, g, out, part, total, parts.gap);
    return;
  }
  const int bits = radix_bits(bits_of(total / stride), stride);
  weighted_bits<R>(bits, in, g, out, stride, total, 0);
  distant(out, stride << bits, total);
}

// The same for p, or for the permuted h: granules of four rows, or one row.
template <int R>
static __attribute__((noinline)) void weighted_in_order(const float* p, const float* g, float* out, int64_t stride,
                                                        int64_t total, const Parts& parts) {
  weighted_distant<R>([=](int64_t v) { return loadu(p + v * W); }, g, out, stride, total, parts);
}

static __attribute__((noinline)) void weighted_pieces(const float* h, const int32_t* from, const float* g, float* out,
                                                      int64_t stride, int64_t total, const Parts& parts) {
  weighted_distant<4>([=](int64_t v) { return pieces(h, from + v * (W / 4)); }, g, out, stride, total, parts);
}

template <class Index>
static __attribute__((noinline)) void weighted_numbers(const float* h, const Index* permutation, const float* g,
                                                       float* out, int64_t stride, int64_t total, const Parts& parts) {
  weighted_distant<1>([=](int64_t v) { return numbers(h, permutation + v * W); }, g, out, stride, total, parts);
}

static void weighted_numbers(const float* h, const Indices& permutation, const float* g, float* out, int64_t stride,
                             int64_t total, const Parts& parts) {
  if (permutation.is_16)
    weighted_numbers(h, static_cast<const uint16_t*>(permutation.data), g, out, stride, total, parts);
  else
    weighted_numbers(h, static_cast<const int32_t*>(permutation.data), g, out, stride, total, parts);
}

}  // namespace ck::CK_ISA
