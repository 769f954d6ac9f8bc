// Fastfood, y = S H G P H B x for each of `blocks` stacked blocks, and its gradients.
#pragma once

#include "hadamard.h"

namespace ck {

struct FastfoodTask {
  int64_t rows;
  int blocks, width;            // `width` outputs of the blocks * N
  const float *B, *G, *S;       // (blocks, N), (blocks, N), (width,)
  const void* permutation;      // (blocks, N)
  bool index_16;
};

struct FastfoodBackward {
  Rows x, grad_y, grad_x;
  float* workspace;
  int64_t teams;
};

// Floats of a team: sums of the gradients of B, G and S (blocks, N) each; then what is permuted, and the gradient of x.
CK_HD constexpr int64_t fastfood_team_sums(int64_t n, int64_t blocks) { return 3 * blocks * n; }
CK_HD constexpr int64_t fastfood_team_floats(int64_t n, int64_t blocks) { return fastfood_team_sums(n, blocks) + 2 * n; }

CK_HD void add_to(Four& sum, Four term, bool first) {
  if (!first) {
    CK_UNROLL
    for (int j = 0; j < 4; ++j) term.x[j] += sum.x[j];
  }
  sum = term;
}

template <class Lane>
CK_HD Four four_at(const Lane& lane, int group) {
  return {{lane.v[4 * group], lane.v[4 * group + 1], lane.v[4 * group + 2], lane.v[4 * group + 3]}};
}

// Layout A times a table.
template <class P, class Lane>
CK_HD void scale_start(Lane& lane, const float* table) {
  CK_UNROLL
  for (int g = 0; g < P::E / 4; ++g) {
    const Four factor = fetch(reinterpret_cast<const Four*>(table) + four_of<P>(lane.t, g));
    CK_UNROLL
    for (int j = 0; j < 4; ++j) lane.v[4 * g + j] *= factor.x[j];
  }
}

// Where the registers of group `g` in layout A come from.
template <class P>
CK_HD FourIndices sources_of(const FastfoodTask& task, int block, int t, int g) {
  return fetch_indices(task.permutation, task.index_16, block * (P::N / 4) + four_of<P>(t, g));
}

// From the final layout to layout A, h[i] = h[permutation[i]]; `part` gives a thread's block of the stack.
template <class P, class Block, class Part>
CK_HD void permute_to_start(Block& block, const FastfoodTask& task, Part part) {
  block.each([&](auto& lane) { put_in<P, P::layout_z>(block, lane); });
  block.sync();
  block.each([&](auto& lane) {
    CK_UNROLL
    for (int g = 0; g < P::E / 4; ++g) {
      const FourIndices from = sources_of<P>(task, part(lane), lane.t, g);
      CK_UNROLL
      for (int j = 0; j < 4; ++j) lane.v[4 * g + j] = block.floats(lane).get(P::place(from.at[j]));
    }
  });
  block.sync();
}

// Its transpose, from layout A to the final layout.
template <class P, class Block>
CK_HD void permute_to_final(Block& block, const FastfoodTask& task, int m) {
  block.sync();
  block.each([&](auto& lane) {
    CK_UNROLL
    for (int g = 0; g < P::E / 4; ++g) {
      const FourIndices to = sources_of<P>(task, m, lane.t, g);
      CK_UNROLL
      for (int j = 0; j < 4; ++j) block.floats(lane).put(P::place(to.at[j]), lane.v[4 * g + j]);
    }
  });
  block.sync();
  block.each([&](auto& lane) { get_in<P, P::layout_z>(block, lane); });
}

template <class P>
CK_HD float s_at(const FastfoodTask& task, int block, int index) {
  const int at = block * P::N + index;
  return at < task.width ? fetch(task.S + at) : 0.f;
}

template <class P, class Block>
CK_HD void fastfood_forward(Block& block, const FastfoodTask& task, const Rows& x, const Rows& y) {
  const int64_t items = task.rows * task.blocks;
  for (int64_t base = block.first() * P::teams; base < items; base += block.count() * P::teams) {
    block.each([&](auto& lane) {
      const int64_t item = base + lane.team, row = item / task.blocks;
      lane.row = item < items ? row : -1;
      lane.part = item < items ? static_cast<int>(item - row * task.blocks) : 0;
      read_start<P>(lane, x, 0);
      scale_start<P>(lane, task.B + lane.part * P::N);
    });
    to_final<P>(block);
    permute_to_start<P>(block, task, [](const auto& lane) { return lane.part; });
    block.each([&](auto& lane) { scale_start<P>(lane, task.G + lane.part * P::N); });
    to_final<P>(block);
    block.each([&](auto& lane) {
      CK_UNROLL
      for (int s = 0; s < P::E; ++s) lane.v[s] *= s_at<P>(task, lane.part, index_in<P, P::layout_z>(lane.t, s));
      write_final<P>(lane, y, lane.part * (P::N / 4));
    });
    if constexpr (P::has_z) block.sync();
  }
}

struct FastfoodMemory {
  float *sum_b, *sum_g, *sum_s;
  Four *permuted, *grad_x;
};

template <class P>
CK_HD FastfoodMemory fastfood_memory(const FastfoodBackward& task, int blocks, int64_t team, int block) {
  constexpr int64_t N = P::N;
  float* sums = task.workspace + team * fastfood_team_sums(N, blocks) + block * N;
  Four* own =
      reinterpret_cast<Four*>(task.workspace + task.teams * fastfood_team_sums(N, blocks) + team * 2 * N);
  return {sums, sums + blocks * N, sums + 2 * blocks * N, own, own + N / 4};
}

// Forward once more to what S multiplies; the gradient of y then goes back through S.
template <class P, class Block>
CK_HD void fastfood_through_s(Block& block, const FastfoodTask& task, const FastfoodBackward& back, int m, bool first) {
  block.each([&](auto& lane) {
    read_start<P>(lane, back.x, 0);
    scale_start<P>(lane, task.B + m * P::N);
  });
  to_final<P>(block);
  permute_to_start<P>(block, task, [&](const auto&) { return m; });
  block.each([&](auto& lane) {
    const FastfoodMemory memory = fastfood_memory<P>(back, task.blocks, block.team(lane), m);
    CK_UNROLL
    for (int g = 0; g < P::E / 4; ++g) memory.permuted[four_of<P>(lane.t, g)] = four_at(lane, g);
    scale_start<P>(lane, task.G + m * P::N);
  });
  to_final<P>(block);
  block.each([&](auto& lane) {
    const FastfoodMemory memory = fastfood_memory<P>(back, task.blocks, block.team(lane), m);
    read_elements<P::E>(
        back.grad_y, lane.row, lane.row >= 0,
        [&](int s) { return m * P::N + index_in<P, P::layout_z>(lane.t, s); },
        [&](int s, float grad) {
          const int i = index_in<P, P::layout_z>(lane.t, s);
          memory.sum_s[i] = first ? grad * lane.v[s] : memory.sum_s[i] + grad * lane.v[s];
          lane.v[s] = grad * s_at<P>(task, m, i);
        });
  });
}

template <class P, class Block>
CK_HD void fastfood_through_b(Block& block, const FastfoodTask& task, const FastfoodBackward& back, int m, bool first) {
  block.each([&](auto& lane) {
    const FastfoodMemory memory = fastfood_memory<P>(back, task.blocks, block.team(lane), m);
    read_row<P::E / 4>(
        back.x, lane.row, lane.row >= 0, [&](int g) { return four_of<P>(lane.t, g); },
        [&](int g, Four x) {
          const int at = four_of<P>(lane.t, g);
          const Four b = fetch(reinterpret_cast<const Four*>(task.B + m * P::N) + at);
          Four gradient, sum;
          CK_UNROLL
          for (int j = 0; j < 4; ++j) {
            gradient.x[j] = lane.v[4 * g + j] * b.x[j];
            sum.x[j] = lane.v[4 * g + j] * x.x[j];
          }
          add_to(reinterpret_cast<Four*>(memory.sum_b)[at], sum, first);
          add_to(memory.grad_x[at], gradient, m == 0);
        });
  });
}

template <class P, class Block>
CK_HD void fastfood_block_backward(Block& block, const FastfoodTask& task, const FastfoodBackward& back, int m,
                                   bool first) {
  fastfood_through_s<P>(block, task, back, m, first);
  from_final<P>(block);
  block.each([&](auto& lane) {
    const FastfoodMemory memory = fastfood_memory<P>(back, task.blocks, block.team(lane), m);
    CK_UNROLL
    for (int g = 0; g < P::E / 4; ++g) {
      const int at = four_of<P>(lane.t, g);
      const Four h = memory.permuted[at];
      Four sum = four_at(lane, g);
      CK_UNROLL
      for (int j = 0; j < 4; ++j) sum.x[j] *= h.x[j];
      add_to(reinterpret_cast<Four*>(memory.sum_g)[at], sum, first);
    }
    scale_start<P>(lane, task.G + m * P::N);
  });
  permute_to_final<P>(block, task, m);
  from_final<P>(block);
  fastfood_through_b<P>(block, task, back, m, first);
}

template <class P, class Block>
CK_HD void fastfood_backward(Block& block, const FastfoodTask& task, const FastfoodBackward& back) {
  bool first = true;
  for (int64_t base = block.first() * P::teams; base < task.rows; base += block.count() * P::teams) {
    block.each([&](auto& lane) { lane.row = base + lane.team < task.rows ? base + lane.team : -1; });
    for (int m = 0; m < task.blocks; ++m) fastfood_block_backward<P>(block, task, back, m, first);
    block.each([&](auto& lane) {
      const FastfoodMemory memory = fastfood_memory<P>(back, task.blocks, block.team(lane), 0);
      CK_UNROLL
      for (int g = 0; g < P::E / 4; ++g) {
        const Four gradient = memory.grad_x[four_of<P>(lane.t, g)];
        CK_UNROLL
        for (int j = 0; j < 4; ++j) lane.v[4 * g + j] = gradient.x[j];
      }
      write_start<P>(lane, back.grad_x, 0);
    });
    first = false;
  }
}

}  // namespace ck
