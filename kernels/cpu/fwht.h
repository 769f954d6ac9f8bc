// y = x H, Walsh-Hadamard in natural order, not normalised, d = 2^p.
#pragma once

#include "granule.h"
#include "structured_calls.h"

namespace ck::CK_ISA {

CK_INLINE void short_fwht(const float* x, float* y, int64_t d) {
  for (int64_t i = 0; i < d; i++) y[i] = x[i];
  for (int64_t step = 1; step < d; step *= 2)
    for (int64_t i = 0; i < d; i++)
      if (!(i & step)) {
        const float a = y[i], b = y[i + step];
        y[i] = a + b;
        y[i + step] = a - b;
      }
}

template <int C>
CK_INLINE void fwht_row(const float* x, float* y, int64_t d) {
  for (int64_t e = 0; e < d; e += C * W) {
    V v[C];
    CK_UNROLL(16)
    for (int i = 0; i < C; i++) v[i] = loadu(x + e + i * W);
    near<1, C>(v);
    CK_UNROLL(16)
    for (int i = 0; i < C; i++) storeu(y + e + i * W, v[i]);
  }
  distant(y, C, d / W);
}

// x and y may be the same.
static void fwht(const FwhtCall& c) {
  for (int64_t row = 0; row < c.rows; row++) {
    const float* x = c.x + row * c.x_stride;
    float* y = c.y + row * c.y_stride;
    if (c.d < W) short_fwht(x, y, c.d);
    else with_groups<1>(c.d, [&](auto groups) { fwht_row<decltype(groups)::value>(x, y, c.d); });
  }
}

}  // namespace ck::CK_ISA
