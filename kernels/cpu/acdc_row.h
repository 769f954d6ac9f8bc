// A cascade over one row at a time, the row lying across the lanes (row_plan.h).
//
// The tables of a member are read as they are, a, d, bias and permutation in their own order: nothing is packed and
// kept, so a change of a parameter is always seen, and a cold call reads little.
#pragma once

#include "gather.h"
#include "row_lanes.h"

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

// z' = T^t (d T z + bias) for W quads at once, T as row_plan.h takes it apart: iw, nu, and nu of the second half.
template <bool HAS_BIAS>
CK_INLINE void apply_ends(const float* t, const float* second, const Ends& ends, V& zr, V& zi, V& yr, V& yi) {
  const V half = splat(0.707106781186547524f);
  const V wr = load(t), wi = load(t + W), nr = load(t + 2 * W), ni = load(t + 3 * W);
  const V mr = load(second), mi = load(second + W);
  const V er = zr + yr, ei = zi - yi, gr = zr - yr, gi = zi + yi;
  const V or_ = wr * gr - wi * gi, oi = wr * gi + wi * gr;
  const V pr = er - or_, pi = ei - oi, qr = er + or_, qi = ei + oi;
  const V rr = mr * qr - mi * qi, ri = mr * qi + mi * qr;
  V x0 = nr * pr - ni * pi, x1 = nr * pi + ni * pr, x2 = (rr - ri) * half, x3 = (rr + ri) * half;
  if constexpr (HAS_BIAS)  // x1 has the other sign
    x0 = x0 * ends.d[0] + ends.bias[0], x1 = x1 * ends.d[1] - ends.bias[1], x2 = x2 * ends.d[2] + ends.bias[2],
    x3 = x3 * ends.d[3] + ends.bias[3];
  else
    x0 *= ends.d[0], x1 *= ends.d[1], x2 *= ends.d[2], x3 *= ends.d[3];
  const V s = (x2 + x3) * half, u = (x3 - x2) * half;
  const V ar = nr * x0 + ni * x1, ai = nr * x1 - ni * x0, br = mr * s + mi * u, bi = mr * u - mi * s;
  const V cr = ar + br, ci = ai + bi, dr = br - ar, di = bi - ai;
  const V fr = wr * dr + wi * di, fi = wr * di - wi * dr;
  zr = cr + fr, zi = ci + fi, yr = cr - fr, yi = fi - ci;
}

template <bool IS_SPECIAL, bool HAS_BIAS>
static void map_group(const RowView& plan, int64_t group, float* z, const float* d, const float* bias) {
  RowGroup both;
  enter_group<IS_SPECIAL>(plan, group, z, both);
  for (int slot = 0; slot < W; slot++) {
    Ends ends;
    load_ends<IS_SPECIAL>(plan, group, slot, d, ends.d);
    if (HAS_BIAS) load_ends<IS_SPECIAL>(plan, group, slot, bias, ends.bias);
    const float* t = plan.matrix + (group * W + slot) * 4 * W;
    float *near = both.near_at(slot), *far = both.far_at(slot);
    V zr = load(near), zi = load(near + W), yr = load(far), yi = load(far + W);
    apply_ends<HAS_BIAS>(t, IS_SPECIAL && slot == 0 ? plan.second : t + 2 * W, ends, zr, zi, yr, yi);
    store(near, zr), store(near + W, zi), store(far, yr), store(far + W, yi);
  }
  leave_group<IS_SPECIAL>(plan, group, z, both);
}

template <bool HAS_BIAS>
static void map_groups(const RowView& plan, float* z, const float* d, const float* bias) {
  map_group<true, HAS_BIAS>(plan, 0, z, d, bias);
  for (int64_t group = 1; group < plan.groups; group++) map_group<false, HAS_BIAS>(plan, group, z, d, bias);
}

// h, permuted and scaled, into z: four neighbours are re, im of one number of the first half and im, re of one of the
// second half, which runs backwards. Meanwhile the diagonal and the bias, `soon`, are fetched unless they are NULL: they
// will be read in more places at once than the processor would foresee.
template <class Get>
CK_INLINE void enter_row(const RowView& plan, const float* a, const float* const soon[2], float* z, const Get& get) {
  for (int64_t i = 0; i < plan.n; i += 4 * W) {
    V v[4];
    if (soon[0])
      for (int64_t line = 0; line < 4 * W; line += 16) fetch(soon[0] + i + line), fetch(soon[1] + i + line);
    CK_UNROLL(4)
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
    CK_UNROLL(4)
    for (int j = 0; j < 4; j++) put(i + j * W, v[j]);
  }
}

// A permutation that moves its first eight numbers as a block is taken for one of blocks; a random one does without asking.
template <class Index>
CK_INLINE void enter_permuted(const RowView& plan, const float* a, const float* const soon[2], float* z, const float* h,
                              const Index* at) {
  if (is_block(at))
    enter_row(plan, a, soon, z, [&](int64_t i) { return numbers_or_blocks(h, at + i); });
  else
    enter_row(plan, a, soon, z, [&](int64_t i) { return numbers(h, at + i); });
}

static void enter_member(const AcdcRowCall& call, int64_t k, const float* x, const float* h, float* z) {
  const ck_acdc& c = *call.cascade;
  const int64_t fixed = c.flags & CK_ACDC_FIRST_FIXED ? 1 : 0;
  const float* a = k >= fixed ? c.a + (k - fixed) * c.n : nullptr;
  const int64_t first = (k - 1) * c.n;
  const float *d = c.d + k * c.n, *bias = c.bias ? c.bias + k * c.n : d;
  const bool fetches = k || c.n > 1024;  // a short first member waits no longer than asking takes
  const float* const soon[] = {fetches ? d : nullptr, bias};
  if (k == 0)
    enter_row(call.plan, a, soon, z, [&](int64_t i) { return load_part(x + i, c.columns_in - i); });
  else if (!c.permutation)
    enter_row(call.plan, a, soon, z, [&](int64_t i) { return load(h + i); });
  else if (c.flags & CK_ACDC_INDEX_16)
    enter_permuted(call.plan, a, soon, z, h, static_cast<const uint16_t*>(c.permutation) + first);
  else
    enter_permuted(call.plan, a, soon, z, h, static_cast<const int32_t*>(c.permutation) + first);
}

static void acdc_row_forward(const AcdcRowCall& call) {
  const ck_acdc& c = *call.cascade;
  const RowView& plan = call.plan;
  float *z = call.scratch, *h = z + plan.n + 2 * W;
  clear_dummy(plan, z);
  for (int64_t row = 0; row < call.rows; row++) {
    const float* x = call.x + row * call.x_stride;
    float* y = call.y + row * call.y_stride;
    for (int64_t k = 0; k < c.k; k++) {
      enter_member(call, k, x, h, z);
      columns_forward(plan, z);
      const float* d = c.d + k * c.n;
      if (c.bias)
        map_groups<true>(plan, z, d, c.bias + k * c.n);
      else
        map_groups<false>(plan, z, d, nullptr);
      columns_backward(plan, z);
      if (k + 1 < c.k && c.flags & CK_ACDC_RELU)
        leave_row(plan, z, [&](int64_t i, V v) { store(h + i, relu(v)); });
      else if (k + 1 < c.k)
        leave_row(plan, z, [&](int64_t i, V v) { store(h + i, v); });
      else
        leave_row(plan, z, [&](int64_t i, V v) { store_part(y + i, v, c.columns_out - i); });
    }
  }
}

}  // namespace ck::CK_ISA
