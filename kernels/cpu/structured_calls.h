// What the kernels of the structured layers but the cosine cascades are called with.
#pragma once

#include <stdint.h>

#include "compressor_kernels.h"

namespace ck {

// y (rows, d) = x (rows, d) H, d a power of two; x and y may be the same.
struct FwhtCall {
  const float* x;
  float* y;
  int64_t rows, d, x_stride, y_stride;
};

// A Fastfood stack over some rows. Forward: x -> y. Backward: x and grad_y -> grad_x; the gradients of the diagonals
// are added to.
struct FastfoodCall {
  const ck_fastfood* stack;
  const float* x;
  float* y;
  int64_t rows, x_stride, y_stride;
  const float* grad_y;  // with y_stride
  float* grad_x;        // (rows, columns_in), dense
  float *grad_b, *grad_g, *grad_s;
  float* scratch;   // fastfood_floats(d)
  int32_t* places;  // fastfood_places(d)
};

// Whether four rows go at a time: where their two buffers do not fall out of the caches.
inline bool takes_four_rows(int64_t d, int64_t rows) { return rows >= 4 && d <= 4096; }

// Three buffers of four rows and one of one row; forward two of four rows, with gaps between their parts.
inline int64_t fastfood_floats(int64_t d) { return 13 * d + 256; }
inline int64_t fastfood_places(int64_t d) { return d; }

// Monarch over some rows. Forward: x -> y. `first` and `second` are the packed weights, NULL to take them as they are
// stored. Backward: x and grad_y -> grad_x, which may be NULL; the gradients of the weights are added to.
struct MonarchCall {
  const ck_monarch* stack;
  const float* x;
  float* y;
  int64_t rows, x_stride, y_stride;
  const float *first, *second;
  float* scratch;       // monarch_floats; backward monarch_backward_floats, aligned to 64 bytes
  const float* grad_y;  // with y_stride
  float* grad_x;        // (rows, columns_in), dense
  float *grad_first, *grad_second;
};

// Of packed weights, at most so many floats with lanes of `lanes` floats.
inline int64_t monarch_packed(const ck_monarch& m, int64_t side, int64_t lanes) {
  return m.blocks * m.rank * side * ((m.blocks + lanes - 1) / lanes * lanes);
}

// Six rows of hidden numbers, or one row of them and of outputs.
inline int64_t monarch_floats(const ck_monarch& m, int64_t lanes) {
  const int64_t classes = (m.blocks + lanes - 1) / lanes * lanes;
  return 6 * (m.blocks * m.rank * classes + 16) + m.blocks * 16 + m.blocks * m.q;
}

// Rows whose gradients are computed together, and the room for them: x, the gradients of y and h, and h or that of x.
inline int64_t chunk_rows(int64_t lanes) { return 8 * lanes; }
inline int64_t monarch_backward_floats(const ck_monarch& m, int64_t lanes) {
  const int64_t hidden = m.blocks * m.rank, last = hidden < m.p ? m.p : hidden;
  return chunk_rows(lanes) * m.blocks * (m.p + m.q + hidden + last);
}

// A sparse matrix over some rows. With y: forward. Else from grad_y: grad_x (rows, columns_in), dense, is overwritten,
// grad_values is added to; either may be NULL.
struct SparseCall {
  const ck_csr* matrix;
  const float* x;
  float* y;
  int64_t rows, x_stride, y_stride;
  const float* grad_y;  // with y_stride
  float *grad_x, *grad_values;
  float* scratch;  // sparse_floats, aligned to 64 bytes
};

inline int64_t sparse_floats(const ck_csr& m) { return 32 * (m.columns_in + m.columns_out); }

}  // namespace ck
