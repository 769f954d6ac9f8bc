// What each instruction set's build of the kernels offers, as plain functions, and the choice among the builds.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "compressor_kernels.h"
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

// One pass over blocks of radix * step complex numbers, the parts of a block `stride` apart. Only in the outermost pass
// is that not `step`: its parts lie PAD further apart, as eight lines at a power of two fall on one set of the cache. Its twiddle factors: for each j < step, radix - 1 of (cos, sin).
struct Pass {
  int64_t radix, step, stride;
  const float* twiddles;
};

// After the first pass, one or two blocks that share quads and are finished together; the second is -1 for one alone.
struct Family {
  int64_t blocks[2];
  int64_t first_pair, last_pair;
};

constexpr int64_t PAD = 2;

// A CosinePlan's tables (cosine.h tells what they mean), without a class of the standard library.
struct CosineView {
  int64_t n, m;
  int64_t vectors;  // of a buffer, with all padding
  bool fused;  // the innermost pass has radix 4 and stands in `pairs`, not in `passes`
  const Pass* passes;
  int64_t pass_count;
  int64_t quads;            // in the order in which they are visited
  const int32_t* position;  // (quads, 2): of Z_k and Z_{M-k} in the transformed data
  const int32_t* index;     // (quads, 4): which coefficients of the DCT they give; -1: none
  const float* matrix;      // (8, quads): alpha, beta, alpha', beta', each re and im
  const int32_t* pairs;     // (., 2): the first numbers of two groups of 4 with 4 quads; -1 second: one group with 2
  const uint32_t* slot;     // (n): at which vector of the buffer entry i stands, in Makhoul's order
  const Family* families;
  int64_t family_count;
};

// A RowPlan's tables (row_plan.h).
struct RowView {
  int64_t n, m, length;
  const Pass* passes;
  int64_t pass_count;
  const float* twist;
  const int32_t* position;
  int64_t groups;
  const float *matrix, *second;
  const int32_t* special;
};

// A buffer is as many vectors long, whatever their width: a multiple of 64 bytes.
inline int64_t buffer_vectors(int64_t vectors) { return (vectors + 3) / 4 * 4; }

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
