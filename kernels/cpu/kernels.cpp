// All kernels for one instruction set. CMake compiles this file once for each, with -DCK_ISA=name -DLANES=floats.
#include "table.h"

#include "simd.h"

#include "acdc.h"
#include "acdc_backward.h"
#include "acdc_row.h"
#include "fourier.h"
#include "fourier_row.h"
#include "matrix.h"
#include "peak.h"
#include "separable_backward.h"
#include "separable_row.h"

namespace ck::CK_ISA {

#define CK_TEXT_OF(name) #name
#define CK_TEXT(name) CK_TEXT_OF(name)

const Kernels& table() {
  static constexpr Kernels kernels = {
      .name = CK_TEXT(CK_ISA),
      .lanes = LANES,
      .radix = FEW_REGISTERS ? 4 : 8,
      .fma_rounds = fma_rounds,
      .matrix = matrix,
      .dct_scratch = dct_scratch,
      .dct = dct,
      .acdc_scratch = acdc_scratch,
      .acdc_forward = acdc_forward,
      .acdc_backward_scratch = acdc_backward_scratch,
      .acdc_backward = acdc_backward,
      .separable_scratch = separable_scratch,
      .separable_forward = separable_forward,
      .separable_row_scratch = separable_row_scratch,
      .separable_row_forward = separable_row_forward,
      .separable_backward_scratch = separable_backward_scratch,
      .separable_backward = separable_backward,
      .acdc_row_forward = acdc_row_forward,
      .circulant = {circulant_pack, circulant_forward, circulant_row_scratch, circulant_row_forward},
      .toeplitz = {toeplitz_pack, toeplitz_forward, toeplitz_row_scratch, toeplitz_row_forward},
      .afdf = {afdf_pack, afdf_forward, afdf_row_scratch, afdf_row_forward},
      .structured = structured_table,
  };
  return kernels;
}

}  // namespace ck::CK_ISA
