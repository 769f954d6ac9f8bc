// The most that a core can do: nothing but fused multiply-adds, for benchmarks to compare with.
#pragma once

#include "simd.h"

namespace ck::CK_ISA {

constexpr int CHAINS = 10;  // enough to hide the latency of an FMA on two units

// `count` rounds of CHAINS; how many operations a round has.
static int fma_rounds(int64_t count) {
  V sum[CHAINS], factor = splat(0.999f), term = splat(1e-6f);
  CK_UNROLL(10)
  for (int i = 0; i < CHAINS; i++) sum[i] = splat(1.0f);
  for (int64_t round = 0; round < count; round++) {
    CK_UNROLL(10)
    for (int i = 0; i < CHAINS; i++) sum[i] = sum[i] * factor + term;
    CK_UNROLL(10)
    for (int i = 0; i < CHAINS; i++) hide(sum[i]);
  }
  return 2 * CHAINS * W;
}

}  // namespace ck::CK_ISA
