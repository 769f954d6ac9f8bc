// A transform as a product with its matrix: for short or odd lengths, and as the plainest thing that can be right.
#pragma once

#include "simd.h"

namespace ck::CK_ISA {

CK_INLINE void matrix_columns(const float* x, float* y, const MatrixCall& c, int64_t column) {
  V total = zero();
  const float* m = c.matrix + column;
  for (int64_t block = 0; block < c.n; block += 16) {  // short sums first: their rounding errors do not pile up
    V part = zero();
    const int64_t last = block + 16 < c.n ? block + 16 : c.n;
    for (int64_t i = block; i < last; i++) part += splat(x[i]) * load(m + i * c.matrix_stride);
    total += part;
  }
  if (column + W <= c.n) {
    storeu(y + column, total);
  } else {
    float tail[W];
    storeu(tail, total);
    for (int64_t j = column; j < c.n; j++) y[j] = tail[j - column];
  }
}

static void matrix(const MatrixCall& c) {
  for (int64_t row = 0; row < c.rows; row++)
    for (int64_t column = 0; column < c.n; column += W)
      matrix_columns(c.x + row * c.x_stride, c.y + row * c.y_stride, c, column);
}

}  // namespace ck::CK_ISA
