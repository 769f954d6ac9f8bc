// Fastfood: y = s * H G P H (b * x) in blocks of d, stacked and cut to `width`; with a bias, through ReLU, or as cosine
// and sine. Four rows at a time if there are that many: then the permutation moves 16 bytes instead of 4.
#pragma once

#include "fastfood_steps.h"
#include "fwht.h"
#include "sincos.h"

namespace ck::CK_ISA {

// One block of the stack, and where its outputs begin.
struct Block {
  const float *b, *g, *s;
  Indices permutation;
  int64_t d, first, columns;  // columns <= d of the outputs are kept
  const float* bias;          // or nullptr
  const ck_fastfood* stack;

  Block(const ck_fastfood& f, int64_t m)
      : b(f.b + m * f.d), g(f.g + m * f.d), s(f.s + m * f.d),
        permutation{static_cast<const char*>(f.permutation) + m * f.d * (f.flags & CK_FASTFOOD_INDEX_16 ? 2 : 4),
                    (f.flags & CK_FASTFOOD_INDEX_16) != 0},
        d(f.d), first(m * f.d), columns(f.width - first < f.d ? f.width - first : f.d),
        bias(f.bias ? f.bias + first : nullptr), stack(&f) {}
};

template <bool Small>
CK_INLINE void bend_vector(const ck_fastfood& f, V product, V& first, V& second) {
  if (f.features == CK_FASTFOOD_RELU) {
    first = relu(product);
    return;
  }
  if (Small) small_sincos(product, first, second);
  else library_sincos(product, first, second);
  first *= splat(f.rbf_scale), second *= splat(f.rbf_scale);
}

template <bool Small>
static __attribute__((noinline)) void bend_row(const ck_fastfood& f, float* y, int64_t count) {
  const bool is_double = f.features == CK_FASTFOOD_RBF;
  V first, second = zero();
  int64_t i = 0;
  for (; i + W <= count; i += W) {
    bend_vector<Small>(f, loadu(y + i), first, second);
    storeu(y + i, first);
    if (is_double) storeu(y + f.width + i, second);
  }
  if (i == count) return;
  float tail[W] = {}, sines[W];
  for (int64_t j = i; j < count; j++) tail[j - i] = y[j];
  bend_vector<Small>(f, loadu(tail), first, second);
  storeu(tail, first), storeu(sines, second);
  for (int64_t j = i; j < count; j++) {
    y[j] = tail[j - i];
    if (is_double) y[f.width + j] = sines[j - i];
  }
}

// `count` products at y become the features; a cosine and its sine are `width` apart.
static void bend(const ck_fastfood& f, float* y, int64_t count) {
  if (f.features == CK_FASTFOOD_RELU || are_small(y, count)) bend_row<true>(f, y, count);
  else bend_row<false>(f, y, count);
}

// R rows of s * (the rest of the transform of u) + bias from element `first` to `last`, u in granules with the neighbours'
// bits left.
template <int R, int C, bool Biased>
static __attribute__((noinline)) void finish(const Block& k, const float* u, float* y, int64_t y_stride, int64_t first,
                                             int64_t last) {
  const V scale = splat(k.stack->scale);
  for (int64_t e = first; e < last && e < k.columns; e += C * W) {
    V v[R * C];
    leave<R, C>(u + e * R, v);
    if (__builtin_expect(e + C * W <= k.columns, 1)) {
      CK_UNROLL(16)
      for (int i = 0; i < R * C; i++) {
        const int64_t at = e + i / R * W;
        const V product = v[i] * (loadu(k.s + at) * scale);
        storeu(y + i % R * y_stride + at, Biased ? product + loadu(k.bias + at) : product);
      }
      continue;
    }
    for (int i = 0; i < R * C; i++) {
      float lane[W];
      storeu(lane, v[i]);
      const int64_t at = e + i / R * W;
      for (int64_t j = 0; j < W && at + j < k.columns; j++)
        y[i % R * y_stride + at + j] = lane[j] * (k.s[at + j] * k.stack->scale) + (Biased ? k.bias[at + j] : 0.0f);
    }
  }
}

template <int R, int C>
static void fastfood_rows(const Block& k, const Parts& parts, const float* x, int64_t x_stride, float* y,
                          int64_t y_stride, float* h, float* u, const int32_t* from) {
  const int64_t stride = R * C, total = R * k.d / W, part = R * parts.length / W;
  for (int64_t e = 0; e < k.d; e += parts.length) {
    float* moved = h + e / parts.length * parts.gap;  // where e = 0 would be
    enter<R, C>(x, x_stride, k.stack->columns_in, k.b, moved, e, e + parts.length);
    distant(moved + R * e, stride, part);
  }
  across(h, part, total, parts.gap);
  if constexpr (R == 4) {
    weighted_pieces(h, from, k.g, u, stride, total, parts);
  } else {
    weighted_numbers(h, k.permutation, k.g, u, stride, total, parts);
  }
  for (int64_t e = 0; e < k.d; e += parts.length) {
    float* moved = u + e / parts.length * parts.gap;
    if (part < total) distant(moved + R * e, stride, part);
    const auto finished = k.bias ? finish<R, C, true> : finish<R, C, false>;
    finished(k, moved, y + k.first, y_stride, e, e + parts.length);
  }
  if (k.stack->features != CK_FASTFOOD_LINEAR)
    for (int r = 0; r < R; r++) bend(*k.stack, y + r * y_stride + k.first, k.columns);
}

// d < W: plainly.
static void short_fastfood(const Block& k, const float* x, float* y) {
  float h[W], u[W], p[W];
  for (int64_t i = 0; i < k.d; i++) h[i] = i < k.stack->columns_in ? x[i] * k.b[i] : 0.0f;
  short_fwht(h, p, k.d);
  for (int64_t i = 0; i < k.d; i++) u[i] = p[k.permutation.at(i)] * k.g[i];
  short_fwht(u, h, k.d);
  for (int64_t i = 0; i < k.columns; i++)
    y[k.first + i] = h[i] * (k.s[i] * k.stack->scale) + (k.bias ? k.bias[i] : 0.0f);
  if (k.stack->features != CK_FASTFOOD_LINEAR) bend(*k.stack, y + k.first, k.columns);
}

static void fastfood_block(const FastfoodCall& c, const Block& k) {
  float *h = c.scratch, *u = h + 4 * k.d + (MOST_PARTS - 1) * PART_GAP;
  int64_t row = 0;
  if (k.d < W) {
    for (; row < c.rows; row++) short_fastfood(k, c.x + row * c.x_stride, c.y + row * c.y_stride);
    return;
  }
  const auto take = [&](auto rows, const Parts& parts) {
    constexpr int R = decltype(rows)::value;
    with_groups<R>(k.d, [&](auto groups) {
      for (; row + R <= c.rows; row += R)
        fastfood_rows<R, decltype(groups)::value>(k, parts, c.x + row * c.x_stride, c.x_stride, c.y + row * c.y_stride,
                                                  c.y_stride, h, u, c.places);
    });
  };
  if (takes_four_rows(k.d, c.rows)) {
    const Parts parts = Parts::of(k.d, 4);
    find_places(k.permutation, c.places, k.d, parts);
    take(count<4>{}, parts);
  }
  take(count<1>{}, Parts::of(k.d, 1));
}

static void fastfood(const FastfoodCall& c) {
  for (int64_t m = 0; m < c.stack->blocks; m++) fastfood_block(c, Block(*c.stack, m));
}

}  // namespace ck::CK_ISA
