// A cascade over one row at a time, the row lying across the lanes (row_plan.h).
//
// The tables of a member are read as they are, a, d, bias and permutation in their own order: nothing is packed and
// kept, so a change of a parameter is always seen, and a cold call reads little.
#pragma once

#include "butterfly.h"
#include "table.h"

namespace ck::CK_ISA {

// The four diagonal entries and biases of one slot of a group.
struct Ends {
  V d[4], bias[4];
};

template <bool IS_SPECIAL>
CK_INLINE void load_ends(const RowView& plan, int64_t group, int64_t slot, const float* values, V out[4]) {
  const int64_t k = group * W + plan.length * slot;
  out[0] = loadu(values + k);
  out[1] = IS_SPECIAL ? reverse_from_1(loadu(values + plan.n - k - W)) : reverse(loadu(values + plan.n - k - W + 1));
  out[2] = reverse(loadu(values + plan.m - k - W + 1));
  out[3] = loadu(values + plan.m + k);
  if (IS_SPECIAL)
    for (int i = 0; i < 4; i++) out[i][0] = values[plan.special[4 * slot + i]];
}

// z' = T^t (d T z + bias) for W quads at once.
CK_INLINE void apply_ends(const float* t, const Ends& ends, bool has_bias, V& zr, V& zi, V& yr, V& yi) {
  const V ar = load(t), ai = load(t + W), br = load(t + 2 * W), bi = load(t + 3 * W);
  const V cr = load(t + 4 * W), ci = load(t + 5 * W), er = load(t + 6 * W), ei = load(t + 7 * W);
  V x0 = (ar * zr - ai * zi + br * yr + bi * yi) * ends.d[0];
  V x1 = (br * yi - ai * zr - ar * zi - bi * yr) * ends.d[1];
  V x2 = (cr * zr - ci * zi + er * yr + ei * yi) * ends.d[2];
  V x3 = (ci * zr + cr * zi + ei * yr - er * yi) * ends.d[3];
  if (has_bias) x0 += ends.bias[0], x1 += ends.bias[1], x2 += ends.bias[2], x3 += ends.bias[3];
  zr = ar * x0 - ai * x1 + cr * x2 + ci * x3;
  zi = cr * x3 - ai * x0 - ar * x1 - ci * x2;
  yr = br * x0 - bi * x1 + er * x2 + ei * x3;
  yi = bi * x0 + br * x1 + ei * x2 - er * x3;
}

// W vectors of the columns' transform, times twist, turned around, and transformed across what were the lanes.
CK_INLINE void across_lanes(const float* z, const float* twist, const int32_t* position, V* re, V* im) {
#pragma GCC unroll 16
  for (int i = 0; i < W; i++) {
    const int64_t at = 2 * W * int64_t{position[i]};
    const V r = load(z + at), m = load(z + at + W), c = load(twist + at), s = load(twist + at + W);
    re[i] = r * c - m * s, im[i] = r * s + m * c;
  }
  transpose(re);
  transpose(im);
  bf<W>(re, im);
}

CK_INLINE void back_across_lanes(float* z, const float* twist, const int32_t* position, V* re, V* im) {
  bf<W>(im, re);
  transpose(re);
  transpose(im);
#pragma GCC unroll 16
  for (int i = 0; i < W; i++) {
    const int64_t at = 2 * W * int64_t{position[i]};
    const V c = load(twist + at), s = load(twist + at + W);
    store(z + at, re[i] * c + im[i] * s), store(z + at + W, im[i] * c - re[i] * s);
  }
}

// In lane 0 of group 0 the pairs are others: these exchanges bring them to where the loop over slots expects them.
CK_INLINE void exchange_special(V a[W], V b[W]) {
  constexpr int H = W / 2;
  V na[W], nb[W];
#pragma GCC unroll 16
  for (int i = 0; i < H; i++) {
    na[i] = a[i], na[H + i] = first_lane(b[i], a[H + i]);
    nb[i] = first_lane(b[H + i], b[i]), nb[H + i] = first_lane(a[H + (i + 1) % H], b[H + i]);
  }
#pragma GCC unroll 16
  for (int i = 0; i < W; i++) a[i] = na[i], b[i] = nb[i];
}

CK_INLINE void exchange_back(V a[W], V b[W]) {
  constexpr int H = W / 2;
  V na[W], nb[W];
#pragma GCC unroll 16
  for (int i = 0; i < H; i++) {
    na[i] = a[i], nb[i] = first_lane(a[H + i], b[i]);
    nb[H + i] = first_lane(b[i], b[H + i]), na[H + (i + 1) % H] = first_lane(b[H + i], a[H + (i + 1) % H]);
  }
#pragma GCC unroll 16
  for (int i = 0; i < W; i++) a[i] = na[i], b[i] = nb[i];
}

template <bool IS_SPECIAL>
static void map_group(const RowView& plan, int64_t group, float* z, const float* d, const float* bias) {
  const int32_t* position = plan.position + 2 * W * group;
  V ar[W], ai[W], br[W], bi[W];
  across_lanes(z, plan.twist, position, ar, ai);
  across_lanes(z, plan.twist, position + W, br, bi);
  if (IS_SPECIAL) exchange_special(ar, br), exchange_special(ai, bi);
  for (int slot = 0; slot < W; slot++) {
    Ends ends;
    load_ends<IS_SPECIAL>(plan, group, slot, d, ends.d);
    if (bias) load_ends<IS_SPECIAL>(plan, group, slot, bias, ends.bias);
    const int far = W - 1 - slot;
    apply_ends(plan.matrix + (group * W + slot) * 8 * W, ends, bias, ar[slot], ai[slot], br[far], bi[far]);
  }
  if (IS_SPECIAL) exchange_back(ar, br), exchange_back(ai, bi);
  back_across_lanes(z, plan.twist, position, ar, ai);
  back_across_lanes(z, plan.twist, position + W, br, bi);
}

template <class Index>
CK_INLINE V gather(const float* h, const Index* at) {
  V v;
#pragma GCC unroll 16
  for (int i = 0; i < W; i++) v[i] = h[at[i]];
  return v;
}

// h, permuted and scaled, into z: four neighbours are re, im of one number of the first half and im, re of one of the
// second half, which runs backwards.
template <class Get>
CK_INLINE void enter_row(const RowView& plan, const float* a, float* z, const Get& get) {
  for (int64_t i = 0; i < plan.n; i += 4 * W) {
    V v[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
      v[j] = get(i + j * W);
      if (a) v[j] *= loadu(a + i + j * W);
    }
    part_fours(v);
    const int64_t vector = i / (4 * W);
    float *low = z + 2 * W * vector, *high = z + 2 * W * (plan.length - 1 - vector);
    store(low, v[0]), store(low + W, v[2]);
    store(high, reverse(v[3])), store(high + W, reverse(v[1]));
  }
}

template <class Put>
CK_INLINE void leave_row(const RowView& plan, const float* z, const Put& put) {
  for (int64_t i = 0; i < plan.n; i += 4 * W) {
    const int64_t vector = i / (4 * W);
    const float *low = z + 2 * W * vector, *high = z + 2 * W * (plan.length - 1 - vector);
    V v[4] = {load(low), reverse(load(high + W)), load(low + W), reverse(load(high))};
    join_fours(v);
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) put(i + j * W, v[j]);
  }
}

// Between the vectors of a row that is `count` long: zeros beyond.
CK_INLINE V load_part(const float* x, int64_t count) {
  if (count >= W) return loadu(x);
  V v = zero();
  for (int64_t i = 0; i < count; i++) v[i] = x[i];
  return v;
}

static void enter_member(const AcdcRowCall& call, int64_t k, const float* x, const float* h, float* z) {
  const ck_acdc& c = *call.cascade;
  const int64_t fixed = c.flags & CK_ACDC_FIRST_FIXED ? 1 : 0;
  const float* a = k >= fixed ? c.a + (k - fixed) * c.n : nullptr;
  const int64_t first = (k - 1) * c.n;
  if (k == 0)
    enter_row(call.plan, a, z, [&](int64_t i) { return load_part(x + i, c.columns_in - i); });
  else if (!c.permutation)
    enter_row(call.plan, a, z, [&](int64_t i) { return load(h + i); });
  else if (c.flags & CK_ACDC_INDEX_16)
    enter_row(call.plan, a, z,
              [&](int64_t i) { return gather(h, static_cast<const uint16_t*>(c.permutation) + first + i); });
  else
    enter_row(call.plan, a, z,
              [&](int64_t i) { return gather(h, static_cast<const int32_t*>(c.permutation) + first + i); });
}

static void acdc_row_forward(const AcdcRowCall& call) {
  const ck_acdc& c = *call.cascade;
  const RowView& plan = call.plan;
  float *z = call.scratch, *h = z + plan.n + 2 * W;
  store(z + plan.n, zero()), store(z + plan.n + W, zero());  // the dummy
  for (int64_t row = 0; row < call.rows; row++) {
    const float* x = call.x + row * call.x_stride;
    float* y = call.y + row * call.y_stride;
    for (int64_t k = 0; k < c.k; k++) {
      enter_member(call, k, x, h, z);
      for (int64_t i = 0; i < plan.pass_count; i++) forward_pass(plan.passes[i], z, plan.length);
      const float *d = c.d + k * c.n, *bias = c.bias ? c.bias + k * c.n : nullptr;
      map_group<true>(plan, 0, z, d, bias);
      for (int64_t group = 1; group < plan.groups; group++) map_group<false>(plan, group, z, d, bias);
      for (int64_t i = plan.pass_count; i-- > 0;) backward_pass(plan.passes[i], z, plan.length);
      if (k + 1 < c.k && c.flags & CK_ACDC_RELU)
        leave_row(plan, z, [&](int64_t i, V v) { store(h + i, relu(v)); });
      else if (k + 1 < c.k)
        leave_row(plan, z, [&](int64_t i, V v) { store(h + i, v); });
      else
        leave_row(plan, z, [&](int64_t i, V v) {
          if (i + W <= c.columns_out) {
            storeu(y + i, v);
          } else {
            for (int64_t j = i; j < c.columns_out; j++) y[j] = v[j - i];
          }
        });
    }
  }
}

}  // namespace ck::CK_ISA
