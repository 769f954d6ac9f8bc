// All kernels for one instruction set. CMake compiles this file once for each, with -DCK_ISA=name -DLANES=floats.
#include "table.h"

#include "simd.h"

#include "acdc.h"
#include "matrix.h"

namespace ck::CK_ISA {

#define CK_TEXT_OF(name) #name
#define CK_TEXT(name) CK_TEXT_OF(name)

const Kernels& table() {
  static constexpr Kernels kernels = {
      .name = CK_TEXT(CK_ISA),
      .lanes = LANES,
      .radix = FEW_REGISTERS ? 4 : 8,
      .matrix = matrix,
      .acdc_scratch = acdc_scratch,
      .acdc_forward = acdc_forward,
  };
  return kernels;
}

}  // namespace ck::CK_ISA
