// What the kernels of the layers between Fourier transforms are called with.
#pragma once

#include <stdint.h>

#include "compressor_kernels.h"
#include "cosine_view.h"

namespace ck {

// A FourierPlan's tables (fourier_plan.h).
struct FourierView {
  CosineView cosine;                // the passes; its `slot` is of no use here
  const uint32_t *pairs, *halves;   // (n): at which vector entry i stands, with neighbours in a number, or halves
  const float* turns;               // (quads, 2)
  const float* twist;               // (m, 2)
  const int32_t* frequency;         // (m)
};

// A layer over some rows. `tables` has `fourier_tables` floats, once filled by the kernel's `pack` for all threads;
// `scratch` has `fourier_scratch`. Both are aligned to 64 bytes.
template <class Layer>
struct FourierCall {
  const Layer* layer;
  FourierView plan;
  float* tables;
  const float* x;
  float* y;
  int64_t rows, x_stride, y_stride;
  float* scratch;
};

// A layer over rows one by one. `scratch` has `row_scratch` floats, aligned to 64 bytes.
template <class Layer>
struct FourierRowCall {
  const Layer* layer;
  RowView plan;
  const float* twist;  // (m, 2), of a FourierPlan
  const float* x;
  float* y;
  int64_t rows, x_stride, y_stride;
  float* scratch;
};

template <class Layer>
struct FourierKernel {
  void (*pack)(const FourierCall<Layer>&);
  void (*forward)(const FourierCall<Layer>&);
  int64_t (*row_scratch)(const Layer&, const RowView&);
  void (*row_forward)(const FourierRowCall<Layer>&);
};

// Of one filter: two complex numbers and a product of theirs for each quad (fourier.h).
constexpr int64_t FILTER = 6;

inline int64_t fourier_tables(const ck_circulant& c, const FourierView& plan) {
  return c.terms * (FILTER * plan.cosine.quads + c.n);
}
inline int64_t fourier_tables(const ck_toeplitz& t, const FourierView& plan) {
  return t.rank * (FILTER * plan.cosine.quads + t.n) + 2 * t.n;
}
inline int64_t fourier_tables(const ck_afdf& a, const FourierView&) { return 4 * a.k * a.n; }

inline int64_t fourier_scratch(const FourierView& plan, int64_t lanes) {
  return 4 * lanes * buffer_vectors(plan.cosine.vectors);
}

}  // namespace ck
