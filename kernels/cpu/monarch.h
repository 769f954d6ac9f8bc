// Monarch: h[i] = first[i] x[i], y[j] = second[j] h[., j]; output u * k + j is y[j][u] (compressor/layers/monarch.py).
//
// Many rows: the lanes are classes j, so that neither stage moves data: stage one broadcasts x and reads `first` packed
// as (block, p, classes / W, s, W) into h (classes / W, k s, W), stage two multiplies vectors of h and of `second` packed
// as (classes / W, q, k s, W).
// Few rows: no packing; dot products along the stored rows of both.
#pragma once

#include "granule.h"
#include "structured_calls.h"

namespace ck::CK_ISA {

constexpr int tile_rows = 6, tile_vectors = W == 16 ? 4 : 2;  // accumulators of a product: what the registers hold

CK_INLINE int64_t padded_classes(int64_t k) { return (k + W - 1) / W * W; }

// to[c][lane] = from[lane * stride + c] for `lanes` <= W lanes and `count` columns; the other lanes become 0.
static __attribute__((noinline)) void pack_lanes(const float* from, int64_t stride, int64_t lanes, int64_t count,
                                                 float* to, int64_t to_stride) {
  int64_t c = 0;
  if (lanes == W)
    for (; c + W <= count; c += W) {
      V v[W];
      CK_UNROLL(16)
      for (int i = 0; i < W; i++) v[i] = loadu(from + i * stride + c);
      turn_square(v);
      CK_UNROLL(16)
      for (int i = 0; i < W; i++) storeu(to + (c + i) * to_stride, v[i]);
    }
  for (; c < count; c++)
    for (int64_t i = 0; i < W; i++) to[c * to_stride + i] = i < lanes ? from[i * stride + c] : 0.0f;
}

// first (k, k s, p) -> (block, p, classes / W, s, W); second (k, q, k s) -> (classes / W, q, k s, W).
static void monarch_pack(const ck_monarch& m, float* first, float* second) {
  const int64_t k = m.blocks, s = m.rank, p = m.p, q = m.q, classes = padded_classes(k);
  for (int64_t i = 0; i < k; i++)
    for (int64_t j = 0; j < k; j += W)
      for (int64_t r = 0; r < s; r++)
        pack_lanes(m.first + ((i * k + j) * s + r) * p, s * p, k - j < W ? k - j : W, p,
                   first + i * p * s * classes + j * s + r * W, s * classes);
  for (int64_t j = 0; j < k; j += W)
    for (int64_t u = 0; u < q; u++)
      pack_lanes(m.second + (j * q + u) * k * s, q * k * s, k - j < W ? k - j : W, k * s, second + (j * q + u * W) * k * s, W);
}

// R rows of one block: h[r][vector] = sum over c of x[r][c] * first[c][vector], N vectors at a time.
template <int R, int N>
CK_INLINE void first_tile(const float* x, int64_t x_stride, int64_t columns, const float* first, int64_t step, const int64_t* to, float* h, int64_t h_stride) {
  V total[R][N];
  CK_UNROLL(8)
  for (int r = 0; r < R; r++)
    CK_UNROLL(4)
    for (int n = 0; n < N; n++) total[r][n] = zero();
  for (int64_t c = 0; c < columns; c++) {
    V w[N];
    CK_UNROLL(4)
    for (int n = 0; n < N; n++) w[n] = loadu(first + c * step + n * W);
    CK_UNROLL(8)
    for (int r = 0; r < R; r++) {
      const V a = splat(x[r * x_stride + c]);
      CK_UNROLL(4)
      for (int n = 0; n < N; n++) total[r][n] += a * w[n];
    }
  }
  CK_UNROLL(8)
  for (int r = 0; r < R; r++)
    CK_UNROLL(4)
    for (int n = 0; n < N; n++) storeu(h + r * h_stride + to[n], total[r][n]);
}

template <int R>
static __attribute__((noinline)) void first_stage(const ck_monarch& m, const float* x, int64_t x_stride,
                                                  const float* first, float* h, int64_t h_stride) {
  const int64_t width = m.rank * padded_classes(m.blocks), next = m.blocks * m.rank * W;
  for (int64_t i = 0; i < m.blocks; i++) {
    const int64_t left = m.columns_in - i * m.p, columns = left < 0 ? 0 : left < m.p ? left : m.p;
    const float *from = x + i * m.p, *weights = first + i * m.p * width;
    int64_t v = 0, rank = 0, place = i * m.rank * W;  // of vector v: the classes' group, the block, the rank
    const auto take = [&]() __attribute__((always_inline)) {
      const int64_t at = place + rank * W;
      if (++rank == m.rank) rank = 0, place += next;
      return at;
    };
    for (; v + tile_vectors <= width / W; v += tile_vectors) {
      int64_t to[tile_vectors];
      for (int n = 0; n < tile_vectors; n++) to[n] = take();
      first_tile<R, tile_vectors>(from, x_stride, columns, weights + v * W, width, to, h, h_stride);
    }
    for (; v < width / W; v++) {
      const int64_t to = take();
      first_tile<R, 1>(from, x_stride, columns, weights + v * W, width, &to, h, h_stride);
    }
  }
}

// R rows and U outputs of W classes: y[u * k + lane] = sum over e of second[u][e][lane] * h[e][lane].
template <int R, int U>
CK_INLINE void second_tile(const float* h, int64_t h_stride, int64_t count, const float* second,
                           V total[R][U]) {
  CK_UNROLL(8)
  for (int r = 0; r < R; r++)
    CK_UNROLL(4)
    for (int u = 0; u < U; u++) total[r][u] = zero();
  for (int64_t e = 0; e < count; e++) {
    V w[U];
    CK_UNROLL(4)
    for (int u = 0; u < U; u++) w[u] = loadu(second + (u * count + e) * W);
    CK_UNROLL(8)
    for (int r = 0; r < R; r++) {
      V a = loadu(h + r * h_stride + e * W);
      hide(a);  // one load for all outputs
      CK_UNROLL(4)
      for (int u = 0; u < U; u++) total[r][u] += a * w[u];
    }
  }
}

// Lanes of output u are columns u * k + j ...; those of other outputs and beyond the last column are left alone.
CK_INLINE void put_classes(const ck_monarch& m, float* y, int64_t u, int64_t j, V v) {
  const int64_t at = u * m.blocks + j;
  int64_t count = m.blocks - j < W ? m.blocks - j : W;
  if (m.columns_out - at < count) count = m.columns_out - at;
  if (count == W) {
    storeu(y + at, m.bias ? v + loadu(m.bias + at) : v);
    return;
  }
  float lane[W];
  storeu(lane, v);
  for (int64_t i = 0; i < count; i++) y[at + i] = lane[i] + (m.bias ? m.bias[at + i] : 0.0f);
}

template <int R, int U>
CK_INLINE void second_outputs(const ck_monarch& m, const float* h, int64_t h_stride, const float* second, float* y,
                              int64_t y_stride, int64_t j, int64_t u) {
  V total[R][U];
  const int64_t count = m.blocks * m.rank;
  second_tile<R, U>(h + j * count, h_stride, count, second + (j * m.q + u * W) * count, total);
  if (__builtin_expect(m.blocks - j >= W && m.columns_out - (u + U - 1) * m.blocks - j >= W, 1)) {  // whole vectors
    CK_UNROLL(4)
    for (int n = 0; n < U; n++) {
      const int64_t at = (u + n) * m.blocks + j;
      const V bias = m.bias ? loadu(m.bias + at) : zero();
      CK_UNROLL(8)
      for (int r = 0; r < R; r++) storeu(y + r * y_stride + at, total[r][n] + bias);
    }
    return;
  }
  CK_UNROLL(8)
  for (int r = 0; r < R; r++)
    CK_UNROLL(4)
    for (int n = 0; n < U; n++) put_classes(m, y + r * y_stride, u + n, j, total[r][n]);
}

template <int R>
static __attribute__((noinline)) void second_stage(const ck_monarch& m, const float* h, int64_t h_stride,
                                                   const float* second, float* y, int64_t y_stride) {
  for (int64_t j = 0; j < m.blocks; j += W) {
    int64_t u = 0;
    for (; u + tile_vectors <= m.q; u += tile_vectors)
      second_outputs<R, tile_vectors>(m, h, h_stride, second, y, y_stride, j, u);
    for (; u < m.q; u++) second_outputs<R, 1>(m, h, h_stride, second, y, y_stride, j, u);
  }
}

template <int R>
CK_INLINE void monarch_rows(const MonarchCall& c, int64_t row) {
  const int64_t h_stride = c.stack->blocks * c.stack->rank * padded_classes(c.stack->blocks) + 16;
  first_stage<R>(*c.stack, c.x + row * c.x_stride, c.x_stride, c.first, c.scratch, h_stride);
  second_stage<R>(*c.stack, c.scratch, h_stride, c.second, c.y + row * c.y_stride, c.y_stride);
}

// The sum over `count` of a * b, for W rows of a, `stride` apart, at once.
CK_INLINE V dots(const float* a, int64_t stride, const float* b, int64_t count) {
  V total[W];
  CK_UNROLL(16)
  for (int i = 0; i < W; i++) total[i] = zero();
  int64_t c = 0;
  for (; c + W <= count; c += W) {
    const V v = loadu(b + c);
    CK_UNROLL(16)
    for (int i = 0; i < W; i++) total[i] += loadu(a + i * stride + c) * v;
  }
  const V sum = sums(total);
  float lane[W];
  storeu(lane, sum);
  for (; c < count; c++)
    for (int i = 0; i < W; i++) lane[i] += a[i * stride + c] * b[c];
  return loadu(lane);
}

CK_INLINE float dot(const float* a, const float* b, int64_t count) {
  float total = 0;
  for (int64_t c = 0; c < count; c++) total += a[c] * b[c];
  return total;
}

// to[i * to_stride] = the sum over c of a[i][c] * b[c]
static __attribute__((noinline)) void matrix_vector(const float* a, int64_t rows, int64_t stride, const float* b,
                                                    int64_t count, float* to, int64_t to_stride) {
  int64_t i = 0;
  for (; i + W <= rows; i += W) {
    float lane[W];
    storeu(lane, dots(a + i * stride, stride, b, count));
    for (int n = 0; n < W; n++) to[(i + n) * to_stride] = lane[n];
  }
  for (; i < rows; i++) to[i * to_stride] = dot(a + i * stride, b, count);
}

// One row, the weights as they are stored. Scratch: h (k, k s) by class, and its outputs.
static void monarch_row(const ck_monarch& m, const float* x, float* y, float* scratch) {
  const int64_t k = m.blocks, s = m.rank, hidden = k * s + 16;
  float* h = scratch;
  float* out = scratch + k * hidden;
  for (int64_t i = 0; i < k; i++) {
    const int64_t left = m.columns_in - i * m.p, columns = left < 0 ? 0 : left < m.p ? left : m.p;
    for (int64_t r = 0; r < s; r++)
      matrix_vector(m.first + (i * k * s + r) * m.p, k, s * m.p, x + i * m.p, columns, h + i * s + r, hidden);
  }
  for (int64_t j = 0; j < k; j++) matrix_vector(m.second + j * m.q * k * s, m.q, k * s, h + j * hidden, k * s, out + j, k);
  for (int64_t i = 0; i < m.columns_out; i++) y[i] = out[i] + (m.bias ? m.bias[i] : 0.0f);
}

static void monarch(const MonarchCall& c) {
  int64_t row = 0;
  if (c.first)
    for (; row + tile_rows <= c.rows && c.rows - row != 8; row += tile_rows) monarch_rows<tile_rows>(c, row);  // 4 + 4 > 6 + 2
  for (; c.first && row + 4 <= c.rows; row += 4) monarch_rows<4>(c, row);
  for (; c.first && row + 2 <= c.rows; row += 2) monarch_rows<2>(c, row);
  for (; row < c.rows; row++) {
    if (c.first) monarch_rows<1>(c, row);
    else monarch_row(*c.stack, c.x + row * c.x_stride, c.y + row * c.y_stride, c.scratch);
  }
}

}  // namespace ck::CK_ISA
