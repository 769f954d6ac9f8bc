// Walsh-Hadamard transforms of R rows at once, R = 1 or 4, and the pieces that other kernels are made of.
//
// A *granule* is one element of R rows side by side; a *group* is W elements, R vectors. With R = 4, vector j of a group
// holds its elements j, j + 4, j + 8, ...: what a 4 x 4 transpose of whole 128-bit pieces gives. A transform of length
// d = 2^p is a pass over neighbouring groups (their lanes and R * C vectors) and passes over distant vectors, in any
// order, since the butterflies of different bits commute.
#pragma once

#include "simd.h"

namespace ck::CK_ISA {

constexpr int neighbours = W == 16 ? 16 : 8;  // vectors of the pass over neighbours: what the registers hold

// 1, of which the compiler does not know it: x - y * opaque_one() takes the ports for products, which are idle.
CK_INLINE V opaque_one() {
  V one = splat(1.0f);
  hide(one);
  return one;
}

// In-register transform over N vectors, natural order. A quarter of the sums as products, from 8 vectors on.
template <int N>
CK_INLINE void butterflies(V* v, V one) {
  if constexpr (N > 1) {
    butterflies<N / 2>(v, one);
    butterflies<N / 2>(v + N / 2, one);
    CK_UNROLL(16)
    for (int i = 0; i < N / 2; i++) {
      const V a = v[i], b = v[i + N / 2];
      v[i] = a + b;
      v[i + N / 2] = i & 1 ? a - b * one : a - b;
    }
  }
}

// Transform over the lanes, for those T, 2T, ... apart.
template <int T>
CK_INLINE V lane_butterflies(V v) {
  if constexpr (T < W) {
    V sign;
    CK_UNROLL(16)
    for (int i = 0; i < W; i++) sign[i] = i & T ? -1.0f : 1.0f;
    return lane_butterflies<2 * T>(shuffle(v, v, [](int i) { return i ^ T; }) + sign * v);
  } else {
    return v;
  }
}

// W elements of R rows <-> the R vectors of a group; its own inverse.
template <int R>
CK_INLINE void turn(V* v) {
  if constexpr (R == 4) transpose_four(v);
}

// W vectors: v[i][j] <-> v[j][i].
CK_INLINE void turn_square(V* v) {
  CK_UNROLL(4)
  for (int i = 0; i < W; i += 4) turn<4>(v + i);
  if constexpr (W >= 8) {
    CK_UNROLL(16)
    for (int i = 0; i < W; i++)
      if (!(i & 4)) exchange_pieces<4>(v[i], v[i + 4]);
  }
  if constexpr (W == 16) {
    CK_UNROLL(8)
    for (int i = 0; i < 8; i++) exchange_pieces<8>(v[i], v[i + 8]);
  }
}

// The sum of the lanes of each of W vectors.
CK_INLINE V sums(V* v) {
  CK_UNROLL(4)
  for (int i = 0; i < W; i += 4) {
    turn<4>(v + i);
    v[i] = (v[i] + v[i + 1]) + (v[i + 2] + v[i + 3]);  // lane 4 l + r: piece l of vector i + r
  }
  if constexpr (W >= 8) {
    CK_UNROLL(2)
    for (int i = 0; i < W; i += 8) {
      exchange_pieces<4>(v[i], v[i + 4]);
      v[i] += v[i + 4];
    }
  }
  if constexpr (W == 16) {
    exchange_pieces<8>(v[0], v[8]);
    v[0] += v[8];
  }
  return v[0];
}

// One number an element, g = W of them, as it meets vector J of a group.
template <int R, int J>
CK_INLINE V spread(V g) {
  if constexpr (R == 4)
    return shuffle4<J, J, J, J>(g, g);
  else
    return g;
}

// One pass over vectors `stride` apart, N of them at a time; `in(v, t)` gives vector v of `total`, the t-th of its N.
// `gap` more floats lie between the N, where they are all there are.
template <int N, class In>
CK_INLINE void distant_pass(In in, float* out, int64_t stride, int64_t total, int64_t gap = 0) {
  const V one = opaque_one();
  for (int64_t block = 0; block < total; block += N * stride)
    for (int64_t j = block; j < block + stride; j++) {
      V v[N];
      CK_UNROLL(16)
      for (int t = 0; t < N; t++) v[t] = in(j + t * stride, t);
      butterflies<N>(v, one);
      CK_UNROLL(16)
      for (int t = 0; t < N; t++) storeu(out + (j + t * stride) * W + t * gap, v[t]);
    }
}

// The next radix for `left` bits: few passes, none of them of one bit if that can be. Vectors 4 KB apart all want the
// same place in the cache, which holds eight of them.
CK_INLINE int radix_bits(int left, int64_t stride) {
  if (stride * W * 4 >= 4096) return left == 4 ? 2 : left < 3 ? left : 3;
  if (left == 4 && W == 8) return 2;  // sixteen vectors are as many as there are registers
  if (left < 5) return left;
  return left % 3 == 0 || left == 5 ? 3 : 4;
}

// All passes over vectors `stride` or more apart, in place.
static __attribute__((noinline)) void distant(float* h, int64_t stride, int64_t total) {
  const auto in = [=](int64_t v, int) { return loadu(h + v * W); };
  int left = __builtin_ctzll(static_cast<unsigned long long>(total / stride));
  while (left) {
    const int bits = radix_bits(left, stride);
    if (bits == 1) distant_pass<2>(in, h, stride, total);
    else if (bits == 2) distant_pass<4>(in, h, stride, total);
    else if (bits == 3) distant_pass<8>(in, h, stride, total);
    else distant_pass<16>(in, h, stride, total);
    stride <<= bits;
    left -= bits;
  }
}

// A long transform goes part by part, each through all its passes while it is near, and in one pass over the parts. There
// are at most 8. Those of granules lie PART_GAP floats further apart, as eight lines at a power of two fall on one set of
// the cache.
constexpr int64_t PART = 4096, MOST_PARTS = 8, PART_GAP = 16;  // floats; parts; floats

struct Parts {
  int64_t length, gap;  // elements; floats

  static Parts whole(int64_t d) { return {d, 0}; }
  static Parts of(int64_t d, int64_t rows) {
    const int64_t length = d * rows <= PART ? d : d * rows <= PART * MOST_PARTS ? PART / rows : d / MOST_PARTS;
    return {length, rows > 1 && length < d ? PART_GAP : 0};
  }
};

// The pass over the parts, vectors `stride` apart.
static __attribute__((noinline)) void across(float* h, int64_t stride, int64_t total, int64_t gap) {
  const auto in = [=](int64_t v, int t) { return loadu(h + v * W + t * gap); };
  if (total == 2 * stride) distant_pass<2>(in, h, stride, total, gap);
  else if (total == 4 * stride) distant_pass<4>(in, h, stride, total, gap);
  else if (total == 8 * stride) distant_pass<8>(in, h, stride, total, gap);
}

// The pass over neighbours, for C groups whose R * C vectors are in v.
template <int R, int C>
CK_INLINE void near(V* v) {
  butterflies<R * C>(v, splat(1.0f));
  CK_UNROLL(16)
  for (int i = 0; i < R * C; i++) v[i] = lane_butterflies<R>(v[i]);
}

template <int C>
struct count {
  static constexpr int value = C;
};

// Calls pass(count<C>) with the number of groups of a pass over neighbours for length d, a power of two >= W.
template <int R, class Pass>
CK_INLINE void with_groups(int64_t d, Pass pass) {
  constexpr int most = neighbours / R;
  if (d >= most * W) pass(count<most>{});
  else pass(count<1>{});
}

}  // namespace ck::CK_ISA
