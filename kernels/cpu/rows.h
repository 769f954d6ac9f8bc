// W rows of a matrix on the lanes of vectors, and back. Entry i of all rows is one vector.
#pragma once

#include "simd.h"
#include "table.h"

namespace ck::CK_ISA {

// `rows` <= W rows of `columns` entries into the slots of the plan's buffer; what is missing is zero.
static void enter_rows(const float* x, int64_t rows, int64_t stride, int64_t columns, const CosineView& plan, float* v) {
  int64_t i = 0;
  if (rows == W) {
    for (; i + W <= columns; i += W) {
      V r[W];
      load_transposed([&](int64_t j) { return x + i + j * stride; }, r);
      CK_UNROLL(16)
      for (int j = 0; j < W; j++) store(v + W * int64_t{plan.slot[i + j]}, r[j]);
    }
  }
  for (; i < plan.n; i++) {
    float* to = v + W * int64_t{plan.slot[i]};
    store(to, zero());
    if (i < columns)
      for (int64_t j = 0; j < rows; j++) to[j] = x[j * stride + i];
  }
}

static void leave_rows(const float* v, const CosineView& plan, float* y, int64_t rows, int64_t stride, int64_t columns) {
  int64_t i = 0;
  if (rows == W) {
    for (; i + W <= columns; i += W) {
      V r[W];
      load_transposed([&](int64_t j) { return v + W * int64_t{plan.slot[i + j]}; }, r);
      CK_UNROLL(16)
      for (int j = 0; j < W; j++) storeu(y + j * stride + i, r[j]);
    }
  }
  for (; i < columns; i++) {
    const float* from = v + W * int64_t{plan.slot[i]};
    for (int64_t j = 0; j < rows; j++) y[j * stride + i] = from[j];
  }
}

}  // namespace ck::CK_ISA
