// A cascade with the separable transform over one row at a time: its matrix of n1 x n2 in its natural order. Along its
// rows W of them are transformed together, as rows of a batch would be; then W columns together, which lie on the lanes
// as they are, there and back, with the diagonal and the bias between; then the rows go back.
//
// Nothing is packed: the tables of a member are read as they are.
#pragma once

#include "dct.h"
#include "gather.h"

namespace ck::CK_ISA {

// Two matrices, and what a transform of W rows or columns needs.
static int64_t separable_row_scratch(const SeparableView& plan) {
  const int64_t of_rows = dct_scratch(plan.columns), of_columns = 2 * buffer_floats(plan.rows);
  return 2 * padded(plan.n) + (of_rows > of_columns ? of_rows : of_columns);
}

static void map_columns(const SeparableView& plan, const float* d, const float* bias, float* matrix, float* scratch) {
  const CosineView& along = plan.rows;
  const Pass& outer = along.passes[0];
  const int64_t n1 = along.n, n2 = plan.columns.n, floats = buffer_floats(along);
  float *h = scratch, *z = h + floats;
  for (int64_t i = 0; i < 2 * floats; i++) scratch[i] = 0.0f;
  for (int64_t column = 0; column < n2; column += W) {
    for (int64_t s = 0; s < n1; s++) store(h + W * int64_t{along.slot[s]}, load(matrix + s * n2 + column));
    first_pass({h, nullptr, nullptr}, z, outer);
    inner_forward(along, z);
    innermost(along, z, true);
    unpack_quads(along, z, h, 1);
    for (int64_t s = 0; s < n1; s++) {
      const V v = load(h + W * s) * loadu(d + s * n2 + column);
      store(h + W * s, bias ? v + loadu(bias + s * n2 + column) : v);
    }
    pack_quads(along, h, 1, z);
    innermost(along, z, false);
    inner_backward(along, z);
    last_pass(z, h, outer, false);
    for (int64_t s = 0; s < n1; s++) store(matrix + s * n2 + column, load(h + W * int64_t{along.slot[s]}));
  }
}

// What member k is given, times its diagonal a: the row x, or what the member before left in `from`.
static void enter_matrix(const SeparableCall& call, int64_t k, const float* x, const float* from, float* to) {
  const ck_acdc& c = *call.cascade;
  const int64_t fixed = c.flags & CK_ACDC_FIRST_FIXED ? 1 : 0, first = (k - 1) * c.n;
  const float* a = k >= fixed ? c.a + (k - fixed) * c.n : nullptr;
  const auto get = [&](int64_t i) {
    if (k == 0) return load_part(x + i, c.columns_in - i);
    if (!c.permutation) return load(from + i);
    return c.flags & CK_ACDC_INDEX_16 ? numbers(from, static_cast<const uint16_t*>(c.permutation) + first + i)
                                      : numbers(from, static_cast<const int32_t*>(c.permutation) + first + i);
  };
  for (int64_t i = 0; i < c.n; i += W) {
    V v = get(i);
    if (k && c.flags & CK_ACDC_RELU) v = relu(v);
    store(to + i, a ? v * loadu(a + i) : v);
  }
}

static void separable_row_forward(const SeparableCall& call) {
  const ck_acdc& c = *call.cascade;
  const SeparableView& plan = call.plan;
  const int64_t n1 = plan.rows.n, n2 = plan.columns.n;
  float *matrix = call.scratch, *other = matrix + padded(c.n), *rest = other + padded(c.n);
  for (int64_t row = 0; row < call.rows; row++) {
    for (int64_t k = 0; k < c.k; k++) {
      enter_matrix(call, k, call.x + row * call.x_stride, other, matrix);
      dct({plan.columns, plan.natural, false, matrix, matrix, n1, n2, n2, rest});
      map_columns(plan, c.d + k * c.n, c.bias ? c.bias + k * c.n : nullptr, matrix, rest);
      dct({plan.columns, plan.natural, true, matrix, matrix, n1, n2, n2, rest});
      float* const left = matrix;
      matrix = other, other = left;
    }
    float* y = call.y + row * call.y_stride;
    for (int64_t i = 0; i < c.columns_out; i++) y[i] = other[i];
  }
}

}  // namespace ck::CK_ISA
