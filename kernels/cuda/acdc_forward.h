// y = ((x * a) C * d + bias) C^T, k times, one row at a time: what is between x and y stays on the chip.
#pragma once

#include "acdc_transform.h"

namespace ck {

struct AcdcTask {
  int64_t rows;
  int k;
  bool relu, index_16;
  const float *a, *d, *bias;  // (k, n); the first row of `a` is absent where a_rows = k - 1
  int a_rows;
  const void* permutation;  // (k - 1, n) or NULL
  const Complex* tables;
};

// The row of `a` for a member, NULL where it is 1.
CK_HD const float* a_of(const AcdcTask& task, int member, int n) {
  const int row = member - task.k + task.a_rows;
  return row < 0 ? nullptr : task.a + static_cast<int64_t>(row) * n;
}

CK_HD const float* row_of(const float* table, int member, int n) {
  return table == nullptr ? nullptr : table + static_cast<int64_t>(member) * n;
}

CK_HD FourIndices permuted(const AcdcTask& task, int member, int n, int m) {
  return fetch_indices(task.permutation, task.index_16, static_cast<int64_t>(member - 1) * (n / 4) + m);
}

// NaN stays NaN, as in torch.
CK_HD float relu(float v) { return v < 0.f ? 0.f : v; }

CK_HD Four times(Four v, Four w) { return {{v.x[0] * w.x[0], v.x[1] * w.x[1], v.x[2] * w.x[2], v.x[3] * w.x[3]}}; }

template <class P>
CK_HD void scale_entries(AcdcLane<P>& lane, const float* a) {
  if (a == nullptr) return;
  CK_UNROLL
  for (int i = 0; i < Entries<P>::count; ++i) {
    const Four factor = fetch(reinterpret_cast<const Four*>(a) + Entries<P>::index(lane.t, i));
    Entries<P>::put(lane.v, i, times(Entries<P>::get(lane.v, i), factor));
  }
}

template <class P>
CK_HD void read_entries(AcdcLane<P>& lane, const Rows& x) {
  read_row<Entries<P>::count>(
      x, lane.row, lane.row >= 0, [&](int i) { return Entries<P>::index(lane.t, i); },
      [&](int i, Four value) { Entries<P>::put(lane.v, i, value); });
}

template <class P>
CK_HD void write_entries(AcdcLane<P>& lane, const Rows& y) {
  write_row<Entries<P>::count>(
      y, lane.row, lane.row >= 0, [&](int i) { return Entries<P>::index(lane.t, i); },
      [&](int i) { return Entries<P>::get(lane.v, i); });
}

// d and the bias between the transforms. They are read as memory that might change, here and in the gradient, not with
// `fetch`: else the compiler loads them for all slots ahead of the first, and has too few registers for the points.
template <class P>
CK_HD void multiply_spectrum(AcdcLane<P>& lane, const Complex* tables, const float* d, const float* bias) {
  middle<P>(lane, tables, [&](int, Quad& x) {
    CK_UNROLL
    for (int i = 0; i < 4; ++i) {
      const float factor = d[x.index[i]] * x.square[i];
      x.u[i] = bias == nullptr ? x.u[i] * factor : x.u[i] * factor + bias[x.index[i]] * x.scale[i];
    }
  });
}

// One member, from entries (already times a) to entries.
template <class P, class Block>
CK_HD void member_forward(Block& block, const AcdcTask& task, int member) {
  to_spectrum<P>(block, task.tables);
  block.each([&](auto& lane) { pass_3<P>(lane, block.points(lane)); });
  block.each([&](auto& lane) {
    multiply_spectrum<P>(lane, task.tables, row_of(task.d, member, P::N), row_of(task.bias, member, P::N));
  });
  block.each([&](auto& lane) { pass_3_back<P>(lane, block.points(lane)); });
  from_spectrum<P>(block, task.tables);
}

// h[i] = h[permutation[i]], through the exchange memory.
template <class P, class Block>
CK_HD void permute(Block& block, const AcdcTask& task, int member) {
  block.sync();
  block.each([&](auto& lane) {
    CK_UNROLL
    for (int i = 0; i < Entries<P>::count; ++i)
      block.fours(lane).put(Entries<P>::index(lane.t, i), Entries<P>::get(lane.v, i));
  });
  block.sync();
  block.each([&](auto& lane) {
    CK_UNROLL
    for (int i = 0; i < Entries<P>::count; ++i) {
      const FourIndices from = permuted(task, member, P::N, Entries<P>::index(lane.t, i));
      Four h;
      CK_UNROLL
      for (int j = 0; j < 4; ++j) h.x[j] = block.floats(lane).get(from.at[j]);
      Entries<P>::put(lane.v, i, h);
    }
  });
  block.sync();
}

// Between two members: ReLU and permutation; the entries are then those of the next member, not yet times its a.
template <class P, class Block>
CK_HD void between(Block& block, const AcdcTask& task, int member) {
  if (task.relu) {
    block.each([&](auto& lane) {
      CK_UNROLL
      for (int i = 0; i < P::E; ++i) lane.v[i] = {relu(lane.v[i].re), relu(lane.v[i].im)};
    });
  }
  if (task.permutation != nullptr) permute<P>(block, task, member);
}

template <class P, class Block>
CK_HD void acdc_forward(Block& block, const AcdcTask& task, const Rows& x, const Rows& y) {
  for (int64_t base = block.first() * P::teams; base < task.rows; base += block.count() * P::teams) {
    block.each([&](auto& lane) {
      lane.row = base + lane.team < task.rows ? base + lane.team : -1;
      read_entries<P>(lane, x);
    });
    for (int member = 0; member < task.k; ++member) {
      if (member > 0) between<P>(block, task, member);
      block.each([&](auto& lane) { scale_entries<P>(lane, a_of(task, member, P::N)); });
      member_forward<P>(block, task, member);
    }
    block.each([&](auto& lane) { write_entries<P>(lane, y); });
  }
}

}  // namespace ck
