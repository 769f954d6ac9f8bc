// A cascade with the separable transform C_n1 (x) C_n2, W rows at a time, one on each lane.
//
// A row is a matrix of n1 x n2. Each of its columns is transformed, then each of its rows goes through what a member of
// the cascade of length n2 is, transform, map, and back, and then the columns go back. Columns stand one after the other
// in h, each in Makhoul's order; the permutation, the diagonal a and the gathering of a column are one table of slots.
#pragma once

#include "dct.h"

namespace ck::CK_ISA {

static int64_t separable_member_floats(const SeparableView& plan) {
  return padded(plan.rows.n * plan.columns.quads * MAP) + 2 * padded(plan.n);
}

static int64_t separable_scratch(const ck_acdc& cascade, const SeparableView& plan) {
  const int64_t h = plan.columns.n * buffer_floats(plan.rows), t = plan.rows.n * buffer_floats(plan.columns);
  return h + t + buffer_floats(plan.rows) + buffer_floats(plan.columns) + cascade.k * separable_member_floats(plan);
}

// `rows` is the plan along a column (of length n1), `columns` that along a row.
static void pack_separable(const ck_acdc& c, const SeparableView& plan, int64_t k, float* memory) {
  const int64_t n = plan.n, n1 = plan.rows.n, n2 = plan.columns.n, fixed = c.flags & CK_ACDC_FIRST_FIXED ? 1 : 0;
  for (int64_t row = 0; row < n1; row++) {
    const int64_t at = k * n + row * n2;
    pack_maps(plan.columns, c.d + at, c.bias ? c.bias + at : nullptr, memory + row * plan.columns.quads * MAP);
  }
  float* a = memory + padded(n1 * plan.columns.quads * MAP);
  uint32_t* slot = reinterpret_cast<uint32_t*>(a + padded(n));
  for (int64_t column = 0; column < n2; column++) {
    in_first_order(plan.rows.passes[0], [&](int64_t at, int64_t s) {
      const int64_t entry = makhoul_source(s, n1) * n2 + column;
      a[column * n1 + at] = k >= fixed ? c.a[(k - fixed) * n + entry] : 1.0f;
      slot[column * n1 + at] = W * plan.slot[k && c.permutation ? permuted(c, (k - 1) * n + entry) : entry];
    });
  }
}

struct SeparableBuffers {
  float *h, *t, *z1, *z2;  // columns, rows between the transforms, and one of each while it is transformed
};

// The packed tables of one member.
struct SeparableMember {
  const float *maps, *a;
  const uint32_t* slot;
};

static SeparableMember separable_tables(const SeparableView& plan, const float* memory) {
  const float* a = memory + padded(plan.rows.n * plan.columns.quads * MAP);
  return {memory, a, reinterpret_cast<const uint32_t*>(a + padded(plan.n))};
}

// Where entering and leaving find the entries of a row.
static CosineView whole_row(const SeparableView& plan) {
  CosineView whole{};
  whole.n = plan.n, whole.slot = plan.slot;
  return whole;
}

// The columns of h, moved and scaled unless `slot` is NULL, transformed, into t.
static void columns_forward(const SeparableView& plan, const SeparableBuffers& b, const uint32_t* slot, const float* a) {
  const CosineView &p1 = plan.rows, &p2 = plan.columns;
  for (int64_t column = 0; column < p2.n; column++) {
    const int64_t at = column * p1.n;
    first_pass(slot ? Source{b.h, slot + at, a + at} : Source{b.h + column * buffer_floats(p1), nullptr, nullptr}, b.z1,
               p1.passes[0]);
    inner_forward(p1, b.z1);
    innermost(p1, b.z1, true);
    unpack_quads(p1, b.z1, b.t + W * int64_t{p2.slot[column]}, buffer_floats(p2) / W);
  }
}

// The columns of t transformed back, each into to(where it starts in h), and then done(column).
template <class To, class Done>
CK_INLINE void columns_backward(const SeparableView& plan, const SeparableBuffers& b, To to, Done done, bool is_relu) {
  const CosineView &p1 = plan.rows, &p2 = plan.columns;
  for (int64_t column = 0; column < p2.n; column++) {
    pack_quads(p1, b.t + W * int64_t{p2.slot[column]}, buffer_floats(p2) / W, b.z1);
    innermost(p1, b.z1, false);
    inner_backward(p1, b.z1);
    last_pass(b.z1, to(column * buffer_floats(p1)), p1.passes[0], is_relu);
    done(column);
  }
}

static void separable_member(const SeparableView& plan, const SeparableBuffers& b, const SeparableMember& member,
                             bool is_relu) {
  const CosineView& p2 = plan.columns;
  columns_forward(plan, b, member.slot, member.a);
  for (int64_t row = 0; row < plan.rows.n; row++) {
    float* line = b.t + row * buffer_floats(p2);
    first_pass({line, nullptr, nullptr}, b.z2, p2.passes[0]);
    (p2.fused ? middle : middle_unfused)(p2, member.maps + row * p2.quads * MAP, b.z2);
    last_pass(b.z2, line, p2.passes[0], false);
  }
  columns_backward(plan, b, [&b](int64_t at) { return b.h + at; }, [](int64_t) {}, is_relu);
}

static void separable_forward(const SeparableCall& call) {
  const ck_acdc& c = *call.cascade;
  const SeparableView& plan = call.plan;
  const int64_t size1 = buffer_floats(plan.rows), size2 = buffer_floats(plan.columns);
  float *h = call.scratch, *t = h + plan.columns.n * size1, *z1 = t + plan.rows.n * size2, *z2 = z1 + size1;
  const SeparableBuffers b{h, t, z1, z2};
  float* tables = z2 + size2;
  for (float* p = call.scratch; p < tables; p++) *p = 0.0f;
  for (int64_t k = 0; k < c.k; k++) pack_separable(c, plan, k, tables + k * separable_member_floats(plan));
  const CosineView whole = whole_row(plan);
  for (int64_t row = 0; row < call.rows; row += W) {
    const int64_t rows = call.rows - row < W ? call.rows - row : W;
    enter_rows(call.x + row * call.x_stride, rows, call.x_stride, c.columns_in, whole, h);
    for (int64_t k = 0; k < c.k; k++)
      separable_member(plan, b, separable_tables(plan, tables + k * separable_member_floats(plan)),
                       c.flags & CK_ACDC_RELU && k + 1 < c.k);
    leave_rows(h, whole, call.y + row * call.y_stride, rows, call.y_stride, c.columns_out);
  }
}

}  // namespace ck::CK_ISA
