// A plan of cosine transforms as the kernels see it, without a class of the standard library.
#pragma once

#include <stdint.h>

namespace ck {

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

// A CosinePlan's tables (cosine.h tells what they mean).
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

}  // namespace ck
