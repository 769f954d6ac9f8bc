// The gradients of a Monarch product. h is computed again, not kept from the forward pass; with gh[i, j] = second[j, i]^T
// gy[j]: by second gy h^T, by first gh x^T, by x first^T gh, each summed over the rows.
//
// A chunk of rows stands on the lanes, all numbers of an entry side by side, so that the weights are read as they are
// stored, one number for all rows, and each gradient of a weight is a dot product.
#pragma once

#include "monarch.h"

namespace ck::CK_ISA {

// Where the products of a block go: number m to entry `base + m / run * step + m % run`.
struct Places {
  int64_t base, run, step;
};

// Column c of `rows` rows becomes entry `c % classes * step + c / classes`, of `width` numbers; zeros in rows that are
// missing and for the columns from `columns` to `total`.
static __attribute__((noinline)) void turn_in(const float* from, int64_t rows, int64_t stride, int64_t columns,
                                              int64_t total, int64_t classes, int64_t step, int64_t width, float* to) {
  for (int64_t row = 0; row < width; row += W) {
    int64_t c = 0, place = 0, j = 0;
    const auto next = [&]() __attribute__((always_inline)) {
      float* const at = to + place * width + row;
      place += step;
      if (++j == classes) j = 0, place -= classes * step - 1;
      return at;
    };
    if (row + W <= rows)
      for (; c + W <= columns; c += W) {
        V v[W];
        load_transposed([&](int64_t i) { return from + (row + i) * stride + c; }, v);
        CK_UNROLL(16)
        for (int i = 0; i < W; i++) store(next(), v[i]);
      }
    for (; c < total; c++) {
      float* const at = next();
      for (int64_t i = 0; i < W; i++) at[i] = c < columns && row + i < rows ? from[(row + i) * stride + c] : 0.0f;
    }
  }
}

// And back: row r of `columns` entries.
static __attribute__((noinline)) void turn_out(const float* from, int64_t width, float* to, int64_t rows,
                                               int64_t columns) {
  for (int64_t row = 0; row < rows; row += W) {
    int64_t c = 0;
    if (row + W <= rows)
      for (; c + W <= columns; c += W) {
        V v[W];
        load_transposed([&](int64_t i) { return from + (c + i) * width + row; }, v);
        CK_UNROLL(16)
        for (int i = 0; i < W; i++) storeu(to + (row + i) * columns + c, v[i]);
      }
    for (; c < columns; c++)
      for (int64_t i = 0; i < W && row + i < rows; i++) to[(row + i) * columns + c] = from[c * width + row + i];
  }
}

// A block of weights, number (m, e) at weights[m * down + e * along].
struct Weights {
  const float* at;
  int64_t down, along;
};

template <int M, int N>
CK_INLINE void product_tile(const Weights& a, int64_t count, const float* from, int64_t width, float* const* to) {
  V total[M][N];
  CK_UNROLL(8)
  for (int m = 0; m < M; m++)
    CK_UNROLL(4)
    for (int n = 0; n < N; n++) total[m][n] = zero();
  for (int64_t e = 0; e < count; e++) {
    V v[N];
    CK_UNROLL(4)
    for (int n = 0; n < N; n++) v[n] = load(from + e * width + n * W);
    CK_UNROLL(8)
    for (int m = 0; m < M; m++) {
      const V w = splat(a.at[m * a.down + e * a.along]);
      CK_UNROLL(4)
      for (int n = 0; n < N; n++) total[m][n] += w * v[n];
    }
  }
  CK_UNROLL(8)
  for (int m = 0; m < M; m++)
    CK_UNROLL(4)
    for (int n = 0; n < N; n++) store(to[m] + n * W, total[m][n]);
}

template <int M>
CK_INLINE void product_rows(const Weights& a, int64_t count, const float* from, int64_t width, float** to) {
  int64_t v = 0;
  for (; v + tile_vectors * W <= width; v += tile_vectors * W) {
    product_tile<M, tile_vectors>(a, count, from + v, width, to);
    for (int m = 0; m < M; m++) to[m] += tile_vectors * W;
  }
  for (; v < width; v += W) {
    product_tile<M, 1>(a, count, from + v, width, to);
    for (int m = 0; m < M; m++) to[m] += W;
  }
}

// Entry m of the product, for m < rows, goes to its place: the sum over e < count of weight (m, e) times entry e of `from`.
static __attribute__((noinline)) void products(Weights a, int64_t rows, int64_t count, const float* from, int64_t width,
                                               float* to, const Places& places) {
  int64_t place = places.base, inside = 0;
  for (int64_t m = 0; m < rows;) {
    const int64_t left = rows - m, taken = left >= tile_rows ? tile_rows : left >= 4 ? 4 : left >= 2 ? 2 : 1;
    float* at[tile_rows];
    for (int64_t i = 0; i < taken; i++) {
      at[i] = to + place * width;
      place++;
      if (++inside == places.run) inside = 0, place += places.step - places.run;
    }
    if (taken == tile_rows) product_rows<tile_rows>(a, count, from, width, at);
    else if (taken == 4) product_rows<4>(a, count, from, width, at);
    else if (taken == 2) product_rows<2>(a, count, from, width, at);
    else product_rows<1>(a, count, from, width, at);
    a.at += taken * a.down;
    m += taken;
  }
}

// to[m * count + n] += the sum over `width` numbers of a[m] * b[n], for m < rows and n < count.
static __attribute__((noinline)) void add_dots(const float* a, int64_t rows, const float* b, int64_t count,
                                               int64_t width, float* to) {
  constexpr int M = W / 4, N = 4;  // as many sums as a vector has lanes
  for (int64_t m = 0; m < rows; m += M)
    for (int64_t n = 0; n < count; n += N) {
      const float *left[M], *right[N];
      for (int i = 0; i < M; i++) left[i] = a + (m + i < rows ? m + i : m) * width;  // what is beyond is not kept
      for (int i = 0; i < N; i++) right[i] = b + (n + i < count ? n + i : n) * width;
      V total[W];
      CK_UNROLL(16)
      for (int i = 0; i < W; i++) total[i] = zero();
      for (int64_t v = 0; v < width; v += W) {
        V y[N];
        CK_UNROLL(4)
        for (int j = 0; j < N; j++) y[j] = load(right[j] + v);
        CK_UNROLL(4)
        for (int i = 0; i < M; i++) {
          const V x = load_once(left[i] + v);
          CK_UNROLL(4)
          for (int j = 0; j < N; j++) total[N * i + j] += x * y[j];
        }
      }
      float sum[W];
      storeu(sum, sums(total));
      for (int i = 0; i < M && m + i < rows; i++)
        for (int j = 0; j < N && n + j < count; j++) to[(m + i) * count + n + j] += sum[N * i + j];
    }
}

static void monarch_backward(const MonarchCall& c) {
  const ck_monarch& m = *c.stack;
  const int64_t k = m.blocks, s = m.rank, p = m.p, q = m.q, hidden = k * s;
  for (int64_t row = 0; row < c.rows; row += chunk_rows(W)) {
    const int64_t rows = c.rows - row < chunk_rows(W) ? c.rows - row : chunk_rows(W), width = (rows + W - 1) / W * W;
    float *x = c.scratch, *gy = x + k * p * width, *gh = gy + k * q * width, *h = gh + k * hidden * width;
    turn_in(c.x + row * c.x_stride, rows, c.x_stride, m.columns_in, k * p, 1, 1, width, x);
    turn_in(c.grad_y + row * c.y_stride, rows, c.y_stride, m.columns_out, k * q, k, q, width, gy);
    for (int64_t i = 0; i < k; i++)
      products({m.first + i * hidden * p, p, 1}, hidden, p, x + i * p * width, width, h, {i * s, s, hidden});
    for (int64_t j = 0; j < k; j++) {
      products({m.second + j * q * hidden, 1, hidden}, hidden, q, gy + j * q * width, width, gh, {j * s, s, hidden});
      add_dots(gy + j * q * width, q, h + j * hidden * width, hidden, width, c.grad_second + j * q * hidden);
    }
    for (int64_t i = 0; i < k; i++) {
      add_dots(gh + i * hidden * width, hidden, x + i * p * width, p, width, c.grad_first + i * hidden * p);
      if (c.grad_x)  // h is free
        products({m.first + i * hidden * p, 1, p}, p, hidden, gh + i * hidden * width, width, h, {i * p, p, 0});
    }
    if (c.grad_x) turn_out(h, width, c.grad_x + row * m.columns_in, rows, m.columns_in);
  }
}

}  // namespace ck::CK_ISA
