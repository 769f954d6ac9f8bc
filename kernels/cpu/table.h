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

struct Kernels {
  const char* name;
  int lanes;
  void (*matrix)(const MatrixCall&);
  void (*fwht)(const FwhtCall&);
  void (*fastfood)(const FastfoodCall&);
  void (*fastfood_backward)(const FastfoodCall&);
  void (*monarch_pack)(const ck_monarch&, float* first, float* second);
  void (*monarch)(const MonarchCall&);
};

namespace sse4 {
const Kernels& table();
}
namespace avx2 {
const Kernels& table();
}
namespace avx512 {
const Kernels& table();
}
namespace neon {
const Kernels& table();
}

// The best build that this machine runs; COMPRESSOR_KERNELS_ISA names a lesser one (read once).
const Kernels& kernels();

}  // namespace ck
