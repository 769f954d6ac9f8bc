// The transform of one row that lies across the lanes (row_plan.h): of the columns, and across the lanes group by group.
#pragma once

#include "outer.h"
#include "table.h"

namespace ck::CK_ISA {

static void columns_forward(const RowView& plan, float* z) {
  for (int64_t i = 0; i < plan.pass_count; i++) forward_pass(plan.passes[i], z, plan.length);
}

static void columns_backward(const RowView& plan, float* z) {
  for (int64_t i = plan.pass_count; i-- > 0;) backward_pass(plan.passes[i], z, plan.length);
}

// A row's buffer has n floats, and behind them what the last group has too many.
static void clear_dummy(const RowView& plan, float* z) { store(z + plan.n, zero()), store(z + plan.n + W, zero()); }

// W vectors of the columns' transform, times twist, turned around, and transformed across what were the lanes; into
// `line`, slot after slot.
#if LANES == 8  // halves of vectors i and i + 4 are loaded together: half of turning them around
CK_INLINE V load_halves(const float* low, const float* high) {
  return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_load_ps(low)), _mm_load_ps(high), 1);
}

CK_INLINE void store_halves(float* low, float* high, V v) {
  _mm_store_ps(low, _mm256_castps256_ps128(v)), _mm_store_ps(high, _mm256_extractf128_ps(v, 1));
}

static void across_lanes(const float* z, const float* twist, const int32_t* position, float* line) {
  CK_UNROLL(2)
  for (int half = 0; half < 2; half++) {
    V re[4], im[4];
    CK_UNROLL(4)
    for (int i = 0; i < 4; i++) {
      const float *low = z + int64_t{position[i]} + 4 * half, *high = z + int64_t{position[i + 4]} + 4 * half;
      const V r = load_halves(low, high), m = load_halves(low + W, high + W);
      const V c = load(twist + 2 * W * (4 * half + i)), s = load(twist + 2 * W * (4 * half + i) + W);
      re[i] = r * c - m * s, im[i] = r * s + m * c;
    }
    transpose_four(re);
    transpose_four(im);
    CK_UNROLL(4)
    for (int i = 0; i < 4; i++) store(line + 2 * W * (4 * half + i), re[i]), store(line + 2 * W * (4 * half + i) + W, im[i]);
  }
  const auto get = [&](int i, V& re, V& im) __attribute__((always_inline)) {
    re = load(line + 2 * W * i), im = load(line + 2 * W * i + W);
  };
  const auto put = [&](int i, V re, V im) __attribute__((always_inline)) {
    store(line + 2 * W * i, re), store(line + 2 * W * i + W, im);
  };
  forward_eight_by_halves<false>(get, put, nullptr);
}

static void back_across_lanes(float* z, const float* twist, const int32_t* position, float* line) {
  const auto get = [&](int i, V& re, V& im) __attribute__((always_inline)) {
    re = load(line + 2 * W * i), im = load(line + 2 * W * i + W);
  };
  const auto put = [&](int i, V re, V im) __attribute__((always_inline)) {
    store(line + 2 * W * i, re), store(line + 2 * W * i + W, im);
  };
  backward_eight_by_halves<false>(get, put, nullptr);
  CK_UNROLL(2)
  for (int half = 0; half < 2; half++) {
    V re[4], im[4];
    CK_UNROLL(4)
    for (int i = 0; i < 4; i++) re[i] = load(line + 2 * W * (4 * half + i)), im[i] = load(line + 2 * W * (4 * half + i) + W);
    transpose_four(re);
    transpose_four(im);
    CK_UNROLL(4)
    for (int i = 0; i < 4; i++) {
      float *low = z + int64_t{position[i]} + 4 * half, *high = z + int64_t{position[i + 4]} + 4 * half;
      const V c = load(twist + 2 * W * (4 * half + i)), s = load(twist + 2 * W * (4 * half + i) + W);
      store_halves(low, high, re[i] * c + im[i] * s), store_halves(low + W, high + W, im[i] * c - re[i] * s);
    }
  }
}
#else
static void across_lanes(const float* z, const float* twist, const int32_t* position, float* line) {
  V re[W], im[W];
  CK_UNROLL(16)
  for (int i = 0; i < W; i++) {
    const float *from = z + int64_t{position[i]}, *factor = twist + 2 * W * i;
    const V r = load(from), m = load(from + W), c = load(factor), s = load(factor + W);
    re[i] = r * c - m * s, im[i] = r * s + m * c;
  }
  transpose(re);
  transpose(im);
  bf<W>(re, im);
  CK_UNROLL(16)
  for (int i = 0; i < W; i++) store(line + 2 * W * i, re[i]), store(line + 2 * W * i + W, im[i]);
}

static void back_across_lanes(float* z, const float* twist, const int32_t* position, float* line) {
  V re[W], im[W];
  CK_UNROLL(16)
  for (int i = 0; i < W; i++) re[i] = load(line + 2 * W * i), im[i] = load(line + 2 * W * i + W);
  bf<W>(im, re);
  transpose(re);
  transpose(im);
  CK_UNROLL(16)
  for (int i = 0; i < W; i++) {
    float* to = z + int64_t{position[i]};
    const float* factor = twist + 2 * W * i;
    const V c = load(factor), s = load(factor + W);
    store(to, re[i] * c + im[i] * s), store(to + W, im[i] * c - re[i] * s);
  }
}
#endif

// In lane 0 of group 0 the pairs are others: this brings them to where the loop over slots expects them, and back.
static void exchange_special(float* a, float* b, bool is_back) {
  float kept[4 * W], *const of_b = kept + 2 * W;
  for (int i = 0; i < 2 * W; i++) kept[i] = a[i * W], of_b[i] = b[i * W];
  for (int i = 0; i < W; i++) {  // re and im of the slots below half, and of those above
    const int above = W + i, next = W + (i + 2) % W;
    if (is_back)
      b[i * W] = kept[above], b[above * W] = of_b[i], a[next * W] = of_b[above];
    else
      a[above * W] = of_b[i], b[i * W] = of_b[above], b[above * W] = kept[next];
  }
}

// W slots of W frequencies, and their mirrors: with k in slot s of `near` goes M - k, in `far_at` of that slot. Only lane 0
// of slot 0 in group 0 has 0 and M / 2.
struct alignas(64) RowGroup {
  float near[2 * W * W], far[2 * W * W];

  float* near_at(int64_t slot) { return near + 2 * W * slot; }
  float* far_at(int64_t slot) { return far + 2 * W * (W - 1 - slot); }
};

template <bool IS_SPECIAL>
CK_INLINE void enter_group(const RowView& plan, int64_t group, const float* z, RowGroup& both) {
  const int32_t* position = plan.position + 2 * W * group;
  const float* twist = plan.twist + 4 * W * W * group;
  across_lanes(z, twist, position, both.near);
  across_lanes(z, twist + 2 * W * W, position + W, both.far);
  if (IS_SPECIAL) exchange_special(both.near, both.far, false);
}

template <bool IS_SPECIAL>
CK_INLINE void leave_group(const RowView& plan, int64_t group, float* z, RowGroup& both) {
  const int32_t* position = plan.position + 2 * W * group;
  const float* twist = plan.twist + 4 * W * W * group;
  if (IS_SPECIAL) exchange_special(both.near, both.far, true);
  back_across_lanes(z, twist, position, both.near);
  back_across_lanes(z, twist + 2 * W * W, position + W, both.far);
}

}  // namespace ck::CK_ISA
