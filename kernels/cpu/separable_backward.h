// The gradient of a cascade with the separable transform, W rows at a time, one on each lane.
//
// As in acdc_backward.h the members' inputs h and spectra z are computed again and kept in scratch: z along each row of
// the matrix, before the innermost radix. The gradient goes the same way, columns, rows, and back.
#pragma once

#include "separable.h"

namespace ck::CK_ISA {

static int64_t separable_gradient_floats(const SeparableView& plan) {
  return padded(8 * plan.rows.n * plan.columns.quads) + padded(plan.n);
}

// The scratch: for each member h and z, then g, t and one column and row, then the members' tables and gradients.
static int64_t separable_backward_scratch(const ck_acdc& c, const SeparableView& plan) {
  const int64_t h = plan.columns.n * buffer_floats(plan.rows), t = plan.rows.n * buffer_floats(plan.columns);
  return (c.k + 1) * (h + t) + buffer_floats(plan.rows) + buffer_floats(plan.columns) +
         c.k * (separable_member_floats(plan) + separable_gradient_floats(plan));
}

// What a member does with h, its spectra kept in z; the next member's input, if there is one.
static void keep_member(const SeparableView& plan, const SeparableMember& member, const SeparableBuffers& b, float* z,
                        float* next, bool is_relu) {
  const CosineView& p2 = plan.columns;
  const int64_t size2 = buffer_floats(p2);
  columns_forward(plan, b, member.slot, member.a);
  for (int64_t row = 0; row < plan.rows.n; row++) {
    float* line = b.t + row * size2;
    first_pass({line, nullptr, nullptr}, z + row * size2, p2.passes[0]);
    inner_forward(p2, z + row * size2);
    if (!next) continue;
    copy_buffer(p2, z + row * size2, b.z2);
    map_all(p2, member.maps + row * p2.quads * MAP, b.z2);
    inner_backward(p2, b.z2);
    last_pass(b.z2, line, p2.passes[0], false);
  }
  if (next) columns_backward(plan, b, [&](int64_t at) { return next + at; }, [](int64_t) {}, is_relu);
}

// From the gradient of a member's output, in b.h, that of its input in the same place.
static void separable_back_member(const SeparableView& plan, const SeparableMember& member, const SeparableBuffers& b,
                                  const float* d, const float* h, const float* z, float* gradients) {
  const CosineView &p1 = plan.rows, &p2 = plan.columns;
  const int64_t size2 = buffer_floats(p2);
  columns_forward(plan, b, nullptr, nullptr);
  for (int64_t row = 0; row < p1.n; row++) {
    float* line = b.t + row * size2;
    first_pass({line, nullptr, nullptr}, b.z2, p2.passes[0]);
    inner_forward(p2, b.z2);
    back_quads({&p2, d + row * p2.n, gradients + 8 * row * p2.quads}, z + row * size2, b.z2);
    inner_backward(p2, b.z2);
    last_pass(b.z2, line, p2.passes[0], false);
  }
  float* ga = gradients + padded(8 * p1.n * p2.quads);
  const auto in_place = [&](int64_t) { return b.z1; };
  const auto scale = [&](int64_t column) {
    const int64_t at = column * p1.n;
    back_scale<true, true>(p1, {member.slot + at, member.a + at, nullptr}, h, b.z1, b.h, ga + at);
  };
  columns_backward(plan, b, in_place, scale, false);
}

// From the kernels' order to that of the parameters; added to what is there.
static void unpack_separable(const SeparableBackwardCall& call, int64_t k, const float* gradients) {
  const SeparableView& plan = call.plan;
  const int64_t n = plan.n, n1 = plan.rows.n, n2 = plan.columns.n, quads = plan.columns.quads;
  const int64_t fixed = call.cascade->flags & CK_ACDC_FIRST_FIXED ? 1 : 0;
  for (int64_t quad = 0; quad < n1 * quads; quad++) {
    for (int i = 0; i < 4; i++) {
      const int64_t index = plan.columns.index[4 * (quad % quads) + i];
      if (index < 0) continue;
      call.gd[k * n + quad / quads * n2 + index] += gradients[8 * quad + i];
      call.gbias[k * n + quad / quads * n2 + index] += gradients[8 * quad + 4 + i];
    }
  }
  if (k < fixed) return;
  const float* ga = gradients + padded(8 * n1 * quads);
  for (int64_t at = 0; at < n; at++)
    call.ga[(k - fixed) * n + makhoul_source(at % n1, n1) * n2 + at / n1] += ga[at];
}

static void separable_backward(const SeparableBackwardCall& call) {
  const ck_acdc& c = *call.cascade;
  const SeparableView& plan = call.plan;
  const int64_t size1 = buffer_floats(plan.rows), size2 = buffer_floats(plan.columns);
  const int64_t of_h = plan.columns.n * size1, of_z = plan.rows.n * size2, of_tables = separable_member_floats(plan);
  float *h = call.scratch, *z = h + c.k * of_h, *g = z + c.k * of_z, *t = g + of_h, *z1 = t + of_z, *z2 = z1 + size1;
  float *tables = z2 + size2, *gradients = tables + c.k * of_tables;
  for (float* p = call.scratch; p < tables; p++) *p = 0.0f;  // and so all padding is
  for (int64_t i = 0; i < c.k * separable_gradient_floats(plan); i++) gradients[i] = 0.0f;
  for (int64_t k = 0; k < c.k; k++) pack_separable(c, plan, k, tables + k * of_tables);
  const bool is_relu = c.flags & CK_ACDC_RELU;
  const CosineView whole = whole_row(plan);
  for (int64_t row = 0; row < call.rows; row += W) {
    const int64_t rows = call.rows - row < W ? call.rows - row : W;
    enter_rows(call.x + row * call.x_stride, rows, call.x_stride, c.columns_in, whole, h);
    for (int64_t k = 0; k < c.k; k++)
      keep_member(plan, separable_tables(plan, tables + k * of_tables), {h + k * of_h, t, z1, z2}, z + k * of_z,
                  k + 1 < c.k ? h + (k + 1) * of_h : nullptr, is_relu);
    enter_rows(call.gy + row * call.gy_stride, rows, call.gy_stride, c.columns_out, whole, g);
    for (int64_t k = c.k; k-- > 0;) {
      if (is_relu && k + 1 < c.k) mask(of_h, h + (k + 1) * of_h, g);
      separable_back_member(plan, separable_tables(plan, tables + k * of_tables), {g, t, z1, z2}, c.d + k * plan.n,
                            h + k * of_h, z + k * of_z, gradients + k * separable_gradient_floats(plan));
    }
    leave_rows(g, whole, call.gx + row * call.gx_stride, rows, call.gx_stride, c.columns_in);
  }
  for (int64_t k = 0; k < c.k; k++) unpack_separable(call, k, gradients + k * separable_gradient_floats(plan));
}

}  // namespace ck::CK_ISA
