// What each instruction set's build of the kernels offers, as plain functions, and the choice among the builds.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "compressor_kernels.h"
#include "cosine_view.h"
#include "fourier_calls.h"
#include "structured_calls.h"

namespace ck {

// y (rows, n) = x (rows, n) times `matrix` (n, n), both with row strides; `matrix` is 64-byte aligned, its stride a
// multiple of 16 and its padding zero.
struct MatrixCall {
  const float* x;
  float* y;
  int64_t rows, n, x_stride, y_stride;
  const float* matrix;
  int64_t matrix_stride;
};

// A SeparablePlan's tables (separable_plan.h).
struct SeparableView {
  int64_t n;
  CosineView rows, columns;
  const uint32_t *slot, *natural;  // natural: 0 ... n2 - 1
};

// The index of h that stands at v[s], s not counting the padding.
inline int64_t makhoul_source(int64_t s, int64_t n) { return 2 * s < n ? 2 * s : 2 * (n - s) - 1; }

// DCT-II of some rows, or its inverse. `natural` are 0 ... n - 1; `scratch` has `dct_scratch` floats, aligned.
struct DctCall {
  CosineView plan;
  const uint32_t* natural;
  bool is_inverse;
  const float* x;
  float* y;
  int64_t rows, x_stride, y_stride;
  float* scratch;
};

// A cascade over some rows. `scratch` has `acdc_scratch` floats, aligned to 64 bytes.
struct AcdcCall {
  const ck_acdc* cascade;
  CosineView plan;
  const float* x;
  float* y;
  int64_t rows, x_stride, y_stride;
  float* scratch;
};

// A cascade with the separable transform. `scratch` has `separable_scratch` floats, or `separable_row_scratch` where it
// goes row by row, aligned to 64 bytes.
struct SeparableCall {
  const ck_acdc* cascade;
  SeparableView plan;
  const float* x;
  float* y;
  int64_t rows, x_stride, y_stride;
  float* scratch;
};

// A cascade over rows one by one. `scratch` has 2 n + 2 lanes floats, aligned to 64 bytes.
struct AcdcRowCall {
  const ck_acdc* cascade;
  RowView plan;
  const float* x;
  float* y;
  int64_t rows, x_stride, y_stride;
  float* scratch;
};

// Those of the layers but the cosine cascades; a compilation of their own.
struct StructuredKernels {
  void (*fwht)(const FwhtCall&);
  void (*fastfood)(const FastfoodCall&);
  void (*fastfood_backward)(const FastfoodCall&);
  void (*monarch_pack)(const ck_monarch&, float* first, float* second);
  void (*monarch)(const MonarchCall&);
  void (*monarch_backward)(const MonarchCall&);
  void (*sparse)(const SparseCall&);
  bool (*sparse_fits)(const ck_csr&);
};

// The gradients of a cascade over some rows; those of the parameters are added to ga, gd and gbias.
struct AcdcBackwardCall {
  const ck_acdc* cascade;
  CosineView plan;
  const float *x, *gy;
  float* gx;
  int64_t rows, x_stride, gy_stride, gx_stride;
  float *ga, *gd, *gbias;
  float* scratch;  // `acdc_backward_scratch` floats, aligned to 64 bytes
};

struct SeparableBackwardCall {
  const ck_acdc* cascade;
  SeparableView plan;
  const float *x, *gy;
  float* gx;
  int64_t rows, x_stride, gy_stride, gx_stride;
  float *ga, *gd, *gbias;
  float* scratch;  // `separable_backward_scratch` floats, aligned to 64 bytes
};

struct Kernels {
  const char* name;
  int lanes;
  int radix;  // the largest power of two of a pass for which the registers suffice
  int (*fma_rounds)(int64_t count);
  void (*matrix)(const MatrixCall&);
  int64_t (*dct_scratch)(const CosineView&);
  void (*dct)(const DctCall&);
  int64_t (*acdc_scratch)(const ck_acdc&, const CosineView&);
  void (*acdc_forward)(const AcdcCall&);
  int64_t (*acdc_backward_scratch)(const ck_acdc&, const CosineView&);
  void (*acdc_backward)(const AcdcBackwardCall&);
  int64_t (*separable_scratch)(const ck_acdc&, const SeparableView&);
  void (*separable_forward)(const SeparableCall&);
  int64_t (*separable_row_scratch)(const SeparableView&);
  void (*separable_row_forward)(const SeparableCall&);
  int64_t (*separable_backward_scratch)(const ck_acdc&, const SeparableView&);
  void (*separable_backward)(const SeparableBackwardCall&);
  void (*acdc_row_forward)(const AcdcRowCall&);
  FourierKernel<ck_circulant> circulant;
  FourierKernel<ck_toeplitz> toeplitz;
  FourierKernel<ck_afdf> afdf;
  const StructuredKernels& (*structured)();
};

namespace sse4 {
const Kernels& table();
const StructuredKernels& structured_table();
}
namespace avx2 {
const Kernels& table();
const StructuredKernels& structured_table();
}
namespace avx512 {
const Kernels& table();
const StructuredKernels& structured_table();
}
namespace wide {
const Kernels& table();
const StructuredKernels& structured_table();
}
namespace neon {
const Kernels& table();
const StructuredKernels& structured_table();
}

// The best build that this machine runs; COMPRESSOR_KERNELS_ISA names a lesser one (read once).
const Kernels& kernels();

}  // namespace ck
