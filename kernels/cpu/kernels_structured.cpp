// Fastfood, Monarch and sparse products for one instruction set; compiled like kernels.cpp.
#if LANES == 16 && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12's own headers of AVX-512 are meant
#endif
#include "fastfood_backward.h"
#include "monarch_backward.h"
#include "sparse.h"
#include "table.h"

namespace ck::CK_ISA {

const StructuredKernels& structured_table() {
  static constexpr StructuredKernels kernels = {
      .fwht = fwht,
      .fastfood = fastfood,
      .fastfood_backward = fastfood_backward,
      .monarch_pack = monarch_pack,
      .monarch = monarch,
      .monarch_backward = monarch_backward,
      .sparse = sparse,
      .sparse_fits = sparse_fits,
  };
  return kernels;
}

}  // namespace ck::CK_ISA
