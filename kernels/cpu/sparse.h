// Products with a matrix in compressed sparse rows of vectors, and their gradients.
//
// Groups of T * W rows of x are put side by side, so that an entry of the matrix takes whole vectors: x as (columns,
// rows), outputs W at a time. A few rows are taken one by one, W outputs of a vector of the matrix at a time.
#pragma once

#include "gather.h"
#include "granule.h"
#include "structured_calls.h"

namespace ck::CK_ISA {

// Rows side by side at most; of vectors' products half as many, which at 4,096 columns still fit in a cache of 512 kB.
constexpr int sparse_group = 32;

// Rows of x, `count` of up to T * W, to lanes (columns, T * W); the other lanes become 0.
template <int T>
static __attribute__((noinline)) void to_lanes(const float* x, int64_t stride, int64_t count, int64_t columns, float* to) {
  for (int t = 0; t < T; t++) {
    const int64_t here = count - t * W;
    int64_t c = 0;
    if (here >= W)
      for (; c + W <= columns; c += W) {
        V v[W];
        CK_UNROLL(16)
        for (int i = 0; i < W; i++) v[i] = loadu(x + (t * W + i) * stride + c);
        turn_square(v);
        CK_UNROLL(16)
        for (int i = 0; i < W; i++) storeu(to + ((c + i) * T + t) * W, v[i]);
      }
    for (; c < columns; c++)
      for (int i = 0; i < W; i++) to[(c * T + t) * W + i] = i < here ? x[(t * W + i) * stride + c] : 0.0f;
  }
}

// Back: `columns` columns from column `from` on.
template <int T>
static __attribute__((noinline)) void from_lanes(const float* lanes, float* y, int64_t stride, int64_t count,
                                                 int64_t columns) {
  for (int t = 0; t < T; t++) {
    const int64_t here = count - t * W;
    int64_t c = 0;
    if (here >= W)
      for (; c + W <= columns; c += W) {
        V v[W];
        CK_UNROLL(16)
        for (int i = 0; i < W; i++) v[i] = loadu(lanes + ((c + i) * T + t) * W);
        turn_square(v);
        CK_UNROLL(16)
        for (int i = 0; i < W; i++) storeu(y + (t * W + i) * stride + c, v[i]);
      }
    for (; c < columns; c++)
      for (int i = 0; i < W && i < here; i++) y[(t * W + i) * stride + c] = lanes[(c * T + t) * W + i];
  }
}

CK_INLINE int64_t length_of(const ck_csr& m, int64_t row) {
  if (m.length_bytes == 1) return static_cast<const uint8_t*>(m.lengths)[row];
  return m.length_bytes == 2 ? static_cast<const uint16_t*>(m.lengths)[row] : static_cast<const int32_t*>(m.lengths)[row];
}

template <int N>
struct Count {
  static constexpr int value = N;
};

// Calls some(Count<Q>, value, column, length, o) for outputs o ... o + Q - 1 of one row of vectors: all outputs, as many at
// a time as the first Q that fits. `value` is that of output o in the first vector, `block` on that in the next.
template <int... Q, class Column, class Some>
CK_INLINE void over_outputs(const ck_csr& m, const Column* column, const Some& some) {
  const float* value = m.values;
  int64_t row = 0;
  for (int64_t first = 0; first < m.columns_out; first += m.block) {
    const int64_t length = length_of(m, row++);
    const int64_t end = first + m.block < m.columns_out ? first + m.block : m.columns_out;
    int64_t o = first;
    const auto take = [&](auto outputs) {
      constexpr int step = decltype(outputs)::value;
      for (; o + step <= end; o += step) some(outputs, value + (o - first), column, length, o);
    };
    (take(Count<Q>{}), ...);
    value += length * m.block, column += length;
  }
}

// One output of one row of x, from weights `stride` apart; single weights, side by side, as vectors as far as they go.
template <bool IS_SINGLE, class Column>
CK_INLINE float sparse_output(const float* value, int64_t stride, const Column* column, int64_t length, const float* x) {
  float total[4] = {};
  int64_t e = 0;
  if constexpr (IS_SINGLE) {
    V wide[2] = {};
    for (; e + 2 * W <= length; e += 2 * W) {
      CK_UNROLL(2)
      for (int i = 0; i < 2; i++) wide[i] += loadu(value + e + i * W) * numbers(x, column + e + i * W);
    }
    alignas(64) float lane[W];
    store(lane, wide[0] + wide[1]);
    CK_UNROLL(16)
    for (int i = 0; i < W; i++) total[i % 4] += lane[i];
  }
  for (; e + 4 <= length; e += 4)
    for (int i = 0; i < 4; i++) total[i] += value[(e + i) * stride] * x[column[e + i]];
  for (; e < length; e++) total[0] += value[e * stride] * x[column[e]];
  return (total[0] + total[1]) + (total[2] + total[3]);
}

// One row of x.
template <bool IS_SINGLE, class Column>
static __attribute__((noinline)) void sparse_row(const ck_csr& m, const Column* matrix_columns, const float* x, float* y) {
  const int64_t block = IS_SINGLE ? 1 : m.block;
  const auto some = [&](auto outputs, const float* value, const Column* column, int64_t length, int64_t o) {
    constexpr int Q = decltype(outputs)::value;
    if constexpr (Q == 1) {
      y[o] = sparse_output<IS_SINGLE>(value, block, column, length, x) + (m.bias ? m.bias[o] : 0.0f);
    } else {
      constexpr int T = Q / W, sums = 8 / T;  // enough of them to hide what an addition takes
      int64_t e = 0;
      V total[sums][T] = {};
      const auto add = [&](V* to, int64_t entry) {
        const V a = splat(x[column[entry]]);
        CK_UNROLL(4)
        for (int t = 0; t < T; t++) to[t] += a * loadu(value + entry * block + t * W);
      };
      for (; e + sums <= length; e += sums) {
        CK_UNROLL(8)
        for (int i = 0; i < sums; i++) add(total[i], e + i);
      }
      for (; e < length; e++) add(total[0], e);
      CK_UNROLL(4)
      for (int t = 0; t < T; t++) {
        V all = m.bias ? loadu(m.bias + o + t * W) : zero();
        CK_UNROLL(8)
        for (int i = 0; i < sums; i++) all += total[i][t];
        storeu(y + o + t * W, all);
      }
    }
  };
  if constexpr (IS_SINGLE)
    over_outputs<1>(m, matrix_columns, some);
  else
    over_outputs<4 * W, 2 * W, W, 1>(m, matrix_columns, some);
}

// Outputs of a vector that are taken together with T vectors of rows: as many as there are registers for.
template <int T>
constexpr int outputs_at_once = (W == 8 ? 8 : 16) / T;

template <int T, class Column>
static __attribute__((noinline)) void sparse_lanes(const ck_csr& m, const Column* matrix_columns, const float* x, float* y) {
  const auto some = [&](auto outputs, const float* value, const Column* column, int64_t length, int64_t o) {
    constexpr int Q = decltype(outputs)::value;
    V total[Q][T];
    CK_UNROLL(16)
    for (int q = 0; q < Q; q++) {
      CK_UNROLL(8)
      for (int t = 0; t < T; t++) total[q][t] = splat(m.bias ? m.bias[o + q] : 0.0f);
    }
    for (int64_t e = 0; e < length; e++) {
      const float* at = x + static_cast<int64_t>(column[e]) * (T * W);
      CK_UNROLL(16)
      for (int q = 0; q < Q; q++) {
        const V a = splat(value[e * m.block + q]);
        CK_UNROLL(8)
        for (int t = 0; t < T; t++) total[q][t] += a * load(at + t * W);
      }
    }
    CK_UNROLL(16)
    for (int q = 0; q < Q; q++) {
      CK_UNROLL(8)
      for (int t = 0; t < T; t++) store(y + ((o + q) * T + t) * W, total[q][t]);
    }
  };
  over_outputs<outputs_at_once<T>, 1>(m, matrix_columns, some);
}

// grad_x (columns, T * W) += values times grad_y (outputs, T * W).
template <int T, class Column>
static __attribute__((noinline)) void sparse_back_x(const ck_csr& m, const Column* matrix_columns, const float* grad_y,
                                                    float* grad_x) {
  const auto some = [&](auto outputs, const float* value, const Column* column, int64_t length, int64_t o) {
    constexpr int Q = decltype(outputs)::value;
    V g[Q][T];
    CK_UNROLL(16)
    for (int q = 0; q < Q; q++) {
      CK_UNROLL(8)
      for (int t = 0; t < T; t++) g[q][t] = load(grad_y + ((o + q) * T + t) * W);
    }
    for (int64_t e = 0; e < length; e++) {
      float* at = grad_x + static_cast<int64_t>(column[e]) * (T * W);
      V total[T];
      CK_UNROLL(8)
      for (int t = 0; t < T; t++) total[t] = load(at + t * W);
      CK_UNROLL(16)
      for (int q = 0; q < Q; q++) {
        const V a = splat(value[e * m.block + q]);
        CK_UNROLL(8)
        for (int t = 0; t < T; t++) total[t] += a * g[q][t];
      }
      CK_UNROLL(8)
      for (int t = 0; t < T; t++) store(at + t * W, total[t]);
    }
  };
  over_outputs<outputs_at_once<T>, 1>(m, matrix_columns, some);
}

// grad_values += for each of them the sum over the lanes of grad_y times x.
template <int T, class Column>
static __attribute__((noinline)) void sparse_back_values(const ck_csr& m, const Column* matrix_columns, const float* x,
                                                         const float* grad_y, float* grad_values) {
  const int64_t block = m.block;
  const auto some = [&](auto outputs, const float* value, const Column* column, int64_t length, int64_t o) {
    float* grad = grad_values + (value - m.values);
    const auto product = [&](int64_t e, int64_t q) {
      const float *at = x + static_cast<int64_t>(column[e]) * (T * W), *g = grad_y + (o + q) * (T * W);
      V total = load(g) * load(at);
      CK_UNROLL(8)
      for (int t = 1; t < T; t++) total += load(g + t * W) * load(at + t * W);
      return total;
    };
    constexpr bool is_whole = decltype(outputs)::value == W;  // W outputs of a vector, else one
    int64_t e = 0;
    const auto add = [&](int64_t entries) {
      V v[W];
      CK_UNROLL(16)
      for (int i = 0; i < W; i++) v[i] = is_whole ? product(e, i) : product(e + i, 0);
      storeu(grad + e * block, loadu(grad + e * block) + sums(v));
      e += entries;
    };
    if (is_whole)
      while (e < length) add(1);
    else if (block == 1)
      while (e + W <= length) add(W);
    for (; e < length; e++) grad[e * block] += sum(product(e, 0));
  };
  over_outputs<W, 1>(m, matrix_columns, some);
}

template <int T, class Column>
CK_INLINE void sparse_some(const SparseCall& c, int64_t row, int64_t count) {
  const ck_csr& m = *c.matrix;
  const Column* column = static_cast<const Column*>(m.columns);
  float *x = c.scratch, *y = x + m.columns_in * T * W;
  if (c.y) {
    to_lanes<T>(c.x + row * c.x_stride, c.x_stride, count, m.columns_in, x);
    sparse_lanes<T>(m, column, x, y);
    from_lanes<T>(y, c.y + row * c.y_stride, c.y_stride, count, m.columns_out);
    return;
  }
  to_lanes<T>(c.grad_y + row * c.y_stride, c.y_stride, count, m.columns_out, y);
  if (c.grad_values) {
    to_lanes<T>(c.x + row * c.x_stride, c.x_stride, count, m.columns_in, x);
    sparse_back_values<T>(m, column, x, y, c.grad_values);
  }
  if (c.grad_x) {
    memset(x, 0, sizeof(float) * static_cast<size_t>(m.columns_in * T * W));
    sparse_back_x<T>(m, column, y, x);
    from_lanes<T>(x, c.grad_x + row * m.columns_in, m.columns_in, count, m.columns_in);
  }
}

template <class Column>
static void sparse_rows(const SparseCall& c) {
  constexpr int most = sparse_group / W, half = most / 2 > 0 ? most / 2 : 1;
  int64_t row = 0;
  if (c.y && c.rows < 4) {
    const auto run = c.matrix->block == 1 ? sparse_row<true, Column> : sparse_row<false, Column>;
    for (; row < c.rows; row++)
      run(*c.matrix, static_cast<const Column*>(c.matrix->columns), c.x + row * c.x_stride, c.y + row * c.y_stride);
    return;
  }
  if (c.y && c.matrix->block > 1)
    for (; row + half * W <= c.rows; row += half * W) sparse_some<half, Column>(c, row, half * W);
  for (; row + sparse_group <= c.rows; row += sparse_group) sparse_some<most, Column>(c, row, sparse_group);
  for (; row < c.rows; row += W) sparse_some<1, Column>(c, row, c.rows - row < W ? c.rows - row : W);
}

static void sparse(const SparseCall& c) {
  if (c.matrix->column_bytes == 1) sparse_rows<uint8_t>(c);
  else if (c.matrix->column_bytes == 2) sparse_rows<uint16_t>(c);
  else sparse_rows<int32_t>(c);
}

template <class Column>
CK_INLINE bool are_below(const Column* column, int64_t count, int64_t limit) {
  Column largest = 0, least = 0;
  for (int64_t e = 0; e < count; e++) {
    largest = column[e] > largest ? column[e] : largest;
    least = column[e] < least ? column[e] : least;
  }
  return largest < limit && least >= 0;
}

// Whether all columns are there: they may come from a file.
static bool sparse_fits(const ck_csr& m) {
  if (m.column_bytes == 1) return are_below(static_cast<const uint8_t*>(m.columns), m.count, m.columns_in);
  if (m.column_bytes == 2) return are_below(static_cast<const uint16_t*>(m.columns), m.count, m.columns_in);
  return are_below(static_cast<const int32_t*>(m.columns), m.count, m.columns_in);
}

}  // namespace ck::CK_ISA
