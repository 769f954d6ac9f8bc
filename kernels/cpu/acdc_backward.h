// The gradient of a cascade, W rows at a time, one on each lane.
//
// The rows' way through the cascade is walked again and kept, members' inputs h and spectra z (before the innermost
// radix), in scratch that stays in the cache; nothing was kept from the forward call. With u = T z and g = T gz, where gz
// is the spectrum of the output's gradient: gd = u g, gbias = g, and T^t (d g) goes back the same way.
#pragma once

#include "acdc.h"

namespace ck::CK_ISA {

// Sums over the lanes of four vectors, added to four numbers.
CK_INLINE void add_sums(V a, V b, V c, V d, float* to) {
  const V p = unpack_low(a, b) + unpack_high(a, b), q = unpack_low(c, d) + unpack_high(c, d);
  const V parts = shuffle4<0, 1, 0, 1>(p, q) + shuffle4<2, 3, 2, 3>(p, q);
  Four part[W / 4], total;
  memcpy(part, &parts, sizeof parts);
  memcpy(&total, to, sizeof total);
  for (int i = 1; i < W / 4; i++) part[0] += part[i];
  total += part[0];
  memcpy(to, &total, sizeof total);
}

// Where the gradients of one member gather: for each quad four of d and four of the bias, and a in Makhoul's order.
struct Gradients {
  float *quads, *a;
};

static int64_t gradient_floats(const CosineView& plan) { return 8 * plan.quads + plan.n; }

struct QuadTables {
  const CosineView* plan;
  const float* d;
  float* gradients;
};

// One quad: the spectrum z, and its gradient, which is changed in place.
CK_INLINE void back_quad(const QuadTables& tables, int64_t quad, const float* z1, const float* z2, float* g1, float* g2) {
  const CosineView& plan = *tables.plan;
  const int32_t* index = plan.index + 4 * quad;
  V t[8], d[4];
  CK_UNROLL(8)
  for (int i = 0; i < 8; i++) t[i] = splat(plan.matrix[i * plan.quads + quad]);
  CK_UNROLL(4)
  for (int i = 0; i < 4; i++) d[i] = splat(index[i] < 0 ? 0.0f : tables.d[index[i]]);
  const auto unpacked = [&t](V zr, V zi, V yr, V yi, V x[4]) __attribute__((always_inline)) {
    x[0] = t[0] * zr - t[1] * zi + t[2] * yr + t[3] * yi;
    x[1] = t[2] * yi - t[1] * zr - t[0] * zi - t[3] * yr;
    x[2] = t[4] * zr - t[5] * zi + t[6] * yr + t[7] * yi;
    x[3] = t[5] * zr + t[4] * zi + t[7] * yr - t[6] * yi;
  };
  V u[4], g[4];
  unpacked(load(z1), load(z1 + W), load(z2), load(z2 + W), u);
  unpacked(load(g1), load(g1 + W), load(g2), load(g2 + W), g);
  add_sums(u[0] * g[0], u[1] * g[1], u[2] * g[2], u[3] * g[3], tables.gradients + 8 * quad);
  add_sums(g[0], g[1], g[2], g[3], tables.gradients + 8 * quad + 4);
  CK_UNROLL(4)
  for (int i = 0; i < 4; i++) g[i] *= d[i];
  store(g1, t[0] * g[0] - t[1] * g[1] + t[4] * g[2] + t[5] * g[3]);
  store(g1 + W, t[4] * g[3] - t[1] * g[0] - t[0] * g[1] - t[5] * g[2]);
  if (is_alone(plan, quad)) return;
  store(g2, t[2] * g[0] - t[3] * g[1] + t[6] * g[2] + t[7] * g[3]);
  store(g2 + W, t[3] * g[0] + t[2] * g[1] + t[7] * g[2] - t[6] * g[3]);
}

CK_INLINE void transform_group(const float* from, float* to, bool is_forward) {
  V re[4], im[4];
  CK_UNROLL(4)
  for (int i = 0; i < 4; i++) re[i] = load(from + 2 * W * i), im[i] = load(from + 2 * W * i + W);
  if (is_forward)
    bf<4>(re, im);
  else
    bf<4>(im, re);
  CK_UNROLL(4)
  for (int i = 0; i < 4; i++) store(to + 2 * W * i, re[i]), store(to + 2 * W * i + W, im[i]);
}

// The quads of two groups of the innermost radix; `number` is that of the first quad.
static void back_pair(const QuadTables& tables, int64_t pair, int64_t number, const float* z, float* g) {
  const int32_t* start = tables.plan->pairs + 2 * pair;
  const int sides = start[1] < 0 ? 1 : 2;
  alignas(64) float zt[16 * W], gt[16 * W];
  for (int side = 0; side < sides; side++) {
    transform_group(z + 2 * W * int64_t{start[side]}, zt + 8 * W * side, true);
    transform_group(g + 2 * W * int64_t{start[side]}, gt + 8 * W * side, true);
  }
  static constexpr int special[4][2] = {{0, 2}, {1, 3}, {4, 7}, {5, 6}};
  for (int i = 0; i < 2 * sides; i++) {
    const int p = 2 * W * (pair ? i : special[i][0]), q = 2 * W * (pair ? 7 - i : special[i][1]);
    back_quad(tables, number + i, zt + p, zt + q, gt + p, gt + q);
  }
  for (int side = 0; side < sides; side++)
    transform_group(gt + 8 * W * side, g + 2 * W * int64_t{start[side]}, false);
}

static void back_quads(const QuadTables& tables, const float* z, float* g) {
  const CosineView& plan = *tables.plan;
  if (!plan.fused) {
    for (int64_t quad = 0; quad < plan.quads; quad++) {
      const int64_t p = 2 * W * int64_t{plan.position[2 * quad]}, q = 2 * W * int64_t{plan.position[2 * quad + 1]};
      back_quad(tables, quad, z + p, z + q, g + p, g + q);
    }
    return;
  }
  const int64_t pairs = plan.families[plan.family_count - 1].last_pair;
  for (int64_t pair = 0, number = 0; pair < pairs; pair++) {
    back_pair(tables, pair, number, z, g);
    number += plan.pairs[2 * pair + 1] < 0 ? 2 : 4;
  }
}

// All passes but the outermost, over the whole buffer.
static void inner_forward(const CosineView& plan, float* z) {
  for (int64_t part = 0; part < plan.passes[0].radix; part++)
    for (int64_t i = 1; i < plan.pass_count; i++)
      forward_pass(plan.passes[i], z + 2 * W * plan.passes[0].stride * part, plan.passes[0].step);
}

static void inner_backward(const CosineView& plan, float* z) {
  for (int64_t part = 0; part < plan.passes[0].radix; part++)
    for (int64_t i = plan.pass_count - 1; i > 0; i--)
      backward_pass(plan.passes[i], z + 2 * W * plan.passes[0].stride * part, plan.passes[0].step);
}

static void map_all(const CosineView& plan, const float* maps, float* z) {
  if (plan.fused)
    map_pairs(plan, 0, plan.families[plan.family_count - 1].last_pair, z, maps);
  else
    map_quads(plan, z, maps);
}

static void copy_buffer(const CosineView& plan, const float* from, float* to) {
  for (int64_t i = 0; i < plan.vectors * W; i += W) store(to + i, load(from + i));
}

// Where the ReLU cut off, no gradient passes.
static void mask(int64_t floats, const float* h, float* g) {
  for (int64_t i = 0; i < floats; i += W) store(g + i, load(h + i) > zero() ? load(g + i) : zero());
}

// s, the gradient of a[i] h[slot[i]] in Makhoul's order: that of a, and of h into g.
template <bool IS_MOVED, bool IS_SCALED>
static void back_scale(const CosineView& plan, const Member& member, const float* h, const float* s, float* g, float* ga) {
  const Pass& outer = plan.passes[0];
  for (int64_t part = 0, i = 0; part < outer.radix; part++) {
    const auto back = [&](int64_t j, V product[2]) __attribute__((always_inline)) {
      CK_UNROLL(2)
      for (int c = 0; c < 2; c++) {
        const int64_t at = 2 * (outer.stride * part + j) + c, entry = 2 * (outer.radix * j + part) + c;
        const int64_t slot = IS_MOVED ? int64_t{member.slot[entry]} : W * at;
        const V v = load(s + W * at);
        product[c] = v * load(h + slot);
        store(g + slot, IS_SCALED ? v * splat(member.a[entry]) : v);
      }
    };
    V product[4];
    int64_t j = 0;
    for (; j + 2 <= outer.step; j += 2, i += 4) {
      back(j, product), back(j + 1, product + 2);
      if (IS_SCALED) add_sums(product[0], product[1], product[2], product[3], ga + i);
    }
    if (j == outer.step) continue;
    back(j, product);
    if (IS_SCALED) ga[i] += sum(product[0]), ga[i + 1] += sum(product[1]);
    i += 2;
  }
}

// The scratch: for each member h and z, beside them g and s, then the tables and the gradients of all members.
static int64_t acdc_backward_scratch(const ck_acdc& cascade, const CosineView& plan) {
  return (2 * cascade.k + 2) * buffer_floats(plan) + cascade.k * (member_floats(plan) + padded(gradient_floats(plan)));
}

static void back_member(const AcdcBackwardCall& call, const Member& member, int64_t k, const float* h, const float* z,
                        float* g, float* s, float* gradients) {
  const CosineView& plan = call.plan;
  const Pass& outer = plan.passes[0];
  first_pass({g, nullptr, nullptr}, s, outer);
  inner_forward(plan, s);
  back_quads({&plan, call.cascade->d + k * plan.n, gradients}, z, s);
  inner_backward(plan, s);
  last_pass(s, s, outer, false);
  float* ga = gradients + 8 * plan.quads;
  if (member.slot)
    back_scale<true, true>(plan, member, h, s, g, ga);
  else if (member.a)
    back_scale<false, true>(plan, member, h, s, g, ga);
  else
    back_scale<false, false>(plan, member, h, s, g, ga);
}

// From the kernels' order to that of the parameters; added to what is there.
static void unpack_gradients(const AcdcBackwardCall& call, int64_t k, const float* gradients) {
  const CosineView& plan = call.plan;
  const int64_t n = plan.n, fixed = call.cascade->flags & CK_ACDC_FIRST_FIXED ? 1 : 0;
  for (int64_t quad = 0; quad < plan.quads; quad++) {
    for (int i = 0; i < 4; i++) {
      const int64_t at = plan.index[4 * quad + i];
      if (at < 0) continue;
      call.gd[k * n + at] += gradients[8 * quad + i];
      call.gbias[k * n + at] += gradients[8 * quad + 4 + i];
    }
  }
  const float* ga = gradients + 8 * plan.quads;
  if (k >= fixed)
    for (int64_t s = 0; s < n; s++) call.ga[(k - fixed) * n + makhoul_source(s, n)] += ga[s];
}

static void acdc_backward(const AcdcBackwardCall& call) {
  const ck_acdc& c = *call.cascade;
  const CosineView& plan = call.plan;
  const int64_t size = buffer_floats(plan), gradient_size = padded(gradient_floats(plan));
  float *h = call.scratch, *z = h + c.k * size, *g = z + c.k * size, *s = g + size, *tables = s + size;
  float* gradients = tables + c.k * member_floats(plan);
  for (int64_t i = 0; i < (2 * c.k + 2) * size; i++) call.scratch[i] = 0.0f;  // and so all padding is
  for (int64_t i = 0; i < c.k * gradient_size; i++) gradients[i] = 0.0f;
  for (int64_t k = 0; k < c.k; k++) pack_member(c, plan, k, tables + k * member_floats(plan));
  const Pass& outer = plan.passes[0];
  const bool is_relu = c.flags & CK_ACDC_RELU;
  for (int64_t row = 0; row < call.rows; row += W) {
    const int64_t rows = call.rows - row < W ? call.rows - row : W;
    enter_rows(call.x + row * call.x_stride, rows, call.x_stride, c.columns_in, plan, h);
    for (int64_t k = 0; k < c.k; k++) {
      const Member member = packed_member(c, plan, k, tables);
      first_pass({h + k * size, member.slot, member.a}, z + k * size, outer);
      inner_forward(plan, z + k * size);
      if (k + 1 == c.k) break;
      copy_buffer(plan, z + k * size, s);
      map_all(plan, member.maps, s);
      inner_backward(plan, s);
      last_pass(s, h + (k + 1) * size, outer, is_relu);
    }
    enter_rows(call.gy + row * call.gy_stride, rows, call.gy_stride, c.columns_out, plan, g);
    for (int64_t k = c.k; k-- > 0;) {
      if (is_relu && k + 1 < c.k) mask(plan.vectors * W, h + (k + 1) * size, g);
      back_member(call, packed_member(c, plan, k, tables), k, h + k * size, z + k * size, g, s,
                  gradients + k * gradient_size);
    }
    leave_rows(g, plan, call.gx + row * call.gx_stride, rows, call.gx_stride, c.columns_in);
  }
  for (int64_t k = 0; k < c.k; k++) unpack_gradients(call, k, gradients + k * gradient_size);
}

}  // namespace ck::CK_ISA
