// A cascade over one row at a time, the row lying across the lanes (row_plan.h).
//
// The tables of a member are read as they are, a, d, bias and permutation in their own order: nothing is packed and
// kept, so a change of a parameter is always seen, and a cold call reads little.
#pragma once

#include "gather.h"
#include "outer.h"
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

template <bool IS_SPECIAL, bool HAS_BIAS>
static void map_group(const RowView& plan, int64_t group, float* z, const float* d, const float* bias) {
  const int32_t* position = plan.position + 2 * W * group;
  const float* twist = plan.twist + 4 * W * W * group;
  alignas(64) float a[2 * W * W], b[2 * W * W];
  across_lanes(z, twist, position, a);
  across_lanes(z, twist + 2 * W * W, position + W, b);
  if (IS_SPECIAL) exchange_special(a, b, false);
  for (int slot = 0; slot < W; slot++) {
    Ends ends;
    load_ends<IS_SPECIAL>(plan, group, slot, d, ends.d);
    if (HAS_BIAS) load_ends<IS_SPECIAL>(plan, group, slot, bias, ends.bias);
    const float* t = plan.matrix + (group * W + slot) * 4 * W;
    float *near = a + 2 * W * slot, *far = b + 2 * W * (W - 1 - slot);
    V zr = load(near), zi = load(near + W), yr = load(far), yi = load(far + W);
    apply_ends<HAS_BIAS>(t, IS_SPECIAL && slot == 0 ? plan.second : t + 2 * W, ends, zr, zi, yr, yi);
    store(near, zr), store(near + W, zi), store(far, yr), store(far + W, yi);
  }
  if (IS_SPECIAL) exchange_special(a, b, true);
  back_across_lanes(z, twist, position, a);
  back_across_lanes(z, twist + 2 * W * W, position + W, b);
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
  store(z + plan.n, zero()), store(z + plan.n + W, zero());  // the dummy
  for (int64_t row = 0; row < call.rows; row++) {
    const float* x = call.x + row * call.x_stride;
    float* y = call.y + row * call.y_stride;
    for (int64_t k = 0; k < c.k; k++) {
      enter_member(call, k, x, h, z);
      for (int64_t i = 0; i < plan.pass_count; i++) forward_pass(plan.passes[i], z, plan.length);
      const float* d = c.d + k * c.n;
      if (c.bias)
        map_groups<true>(plan, z, d, c.bias + k * c.n);
      else
        map_groups<false>(plan, z, d, nullptr);
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
