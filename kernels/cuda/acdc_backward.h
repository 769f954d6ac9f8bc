// Gradients of an ACDC cascade: from x and the gradient of y those of x, a, d and the bias.
//
// Only x was kept. The forward way is gone once more; each member leaves its input h and its spectrum u = (h * a) C in
// memory of the row's own, which stays in the cache. With g the gradient behind a member, back through it:
//   g C = gradient of the bias; g C * u = that of d; w = (g C * d) C^T; w * h = that of a; w * a goes on to the member before.
// The sums over rows are taken team by team (a team is the threads of one row), always in one order, each number by one
// thread; a second kernel adds the teams. Nothing depends on which block was quicker.
#pragma once

#include "acdc_forward.h"

namespace ck {

// Floats of a team: sums of the gradients of a, d and the bias (k, n) each, then spectra (k, n), then inputs (k - 1, n).
CK_HD constexpr int64_t acdc_team_sums(int64_t n, int64_t k) { return 3 * k * n; }
CK_HD constexpr int64_t acdc_team_floats(int64_t n, int64_t k) { return (3 * k + k + (k - 1)) * n; }

struct AcdcBackward {
  Rows x, grad_y, grad_x;
  float* workspace;  // sums of all teams, (teams, 3, k, n), then their spectra and inputs
  int64_t teams;
};

// A team's part of the workspace, for one member.
struct TeamMemory {
  float* sums;  // of a; those of d and of the bias lie `stride` and twice that further
  int stride;
  Four *spectrum, *input;  // `input` is that of the member, not of the first
};

template <class P>
CK_HD TeamMemory team_memory(const AcdcBackward& task, int k, int64_t team, int member) {
  constexpr int64_t N = P::N;
  float* sums = task.workspace + team * acdc_team_sums(N, k) + member * N;
  const int64_t kept = acdc_team_floats(N, k) - acdc_team_sums(N, k);
  float* own = task.workspace + task.teams * acdc_team_sums(N, k) + team * kept;
  return {sums, k * P::N, reinterpret_cast<Four*>(own + member * N),
          reinterpret_cast<Four*>(own + (k + member - 1) * N)};
}

CK_HD void accumulate(float& sum, float term, bool first) { sum = first ? term : sum + term; }

// The spectrum of a member is kept, then goes on through d and the bias.
template <class P>
CK_HD void keep_spectrum(AcdcLane<P>& lane, const AcdcTask& task, int member, Four* spectrum) {
  const float* d = row_of(task.d, member, P::N);
  const float* bias = row_of(task.bias, member, P::N);
  middle<P>(lane, task.tables, [&](int slot, Quad& x) {
    Four u;
    CK_UNROLL
    for (int i = 0; i < 4; ++i) {
      u.x[i] = x.u[i] * x.scale[i];
      x.u[i] *= d[x.index[i]] * x.square[i];
      if (bias != nullptr) x.u[i] += bias[x.index[i]] * x.scale[i];
    }
    spectrum[slot * P::T + lane.t] = u;
  });
}

// The gradient's spectrum: added to the sums of d and the bias, then on through d.
template <class P>
CK_HD void spend_spectrum(AcdcLane<P>& lane, const AcdcTask& task, int member, const TeamMemory& memory, bool first) {
  const float* d = row_of(task.d, member, P::N);
  middle<P>(lane, task.tables, [&](int slot, Quad& x) {
    const Four u = memory.spectrum[slot * P::T + lane.t];
    CK_UNROLL
    for (int i = 0; i < 4; ++i) {
      const float g = x.u[i] * x.scale[i];
      accumulate(memory.sums[2 * memory.stride + x.index[i]], g, first);
      accumulate(memory.sums[memory.stride + x.index[i]], g * u.x[i], first);
      x.u[i] *= d[x.index[i]] * x.square[i];
    }
  });
}

// From the gradient behind a member's a to that before it, for one group of entries; `h` is the member's input there.
template <class P>
CK_HD void spend_entry(AcdcLane<P>& lane, int i, Four h, const float* a, bool mask, float* sum_a, bool first) {
  const int m = Entries<P>::index(lane.t, i);
  Four g = Entries<P>::get(lane.v, i);
  if (a != nullptr) {
    Four sum = times(g, h);
    Four& to = reinterpret_cast<Four*>(sum_a)[m];
    if (!first) sum = {{sum.x[0] + to.x[0], sum.x[1] + to.x[1], sum.x[2] + to.x[2], sum.x[3] + to.x[3]}};
    to = sum;
    g = times(g, fetch(reinterpret_cast<const Four*>(a) + m));
  }
  CK_UNROLL
  for (int j = 0; j < 4; ++j) g.x[j] = mask && h.x[j] <= 0.f ? 0.f : g.x[j];
  Entries<P>::put(lane.v, i, g);
}

// The transposed permutation: h[permutation[i]] = h[i].
template <class P, class Block>
CK_HD void permute_back(Block& block, const AcdcTask& task, int member) {
  block.sync();
  block.each([&](auto& lane) {
    CK_UNROLL
    for (int i = 0; i < Entries<P>::count; ++i) {
      const FourIndices to = permuted(task, member, P::N, Entries<P>::index(lane.t, i));
      const Four g = Entries<P>::get(lane.v, i);
      CK_UNROLL
      for (int j = 0; j < 4; ++j) block.floats(lane).put(to.at[j], g.x[j]);
    }
  });
  block.sync();
  block.each([&](auto& lane) {
    CK_UNROLL
    for (int i = 0; i < Entries<P>::count; ++i)
      Entries<P>::put(lane.v, i, block.fours(lane).get(Entries<P>::index(lane.t, i)));
  });
  block.sync();
}

// Forward once more, to the spectrum of the last member; every member leaves its spectrum and the next one's input.
template <class P, class Block>
CK_HD void recompute(Block& block, const AcdcTask& task, const AcdcBackward& back) {
  block.each([&](auto& lane) { read_entries<P>(lane, back.x); });
  for (int member = 0; member < task.k; ++member) {
    const bool last = member == task.k - 1;
    block.each([&](auto& lane) { scale_entries<P>(lane, a_of(task, member, P::N)); });
    to_spectrum<P>(block, task.tables);
    block.each([&](auto& lane) { pass_3<P>(lane, block.points(lane)); });
    block.each([&](auto& lane) {
      keep_spectrum<P>(lane, task, member, team_memory<P>(back, task.k, block.team(lane), member).spectrum);
    });
    if (last) break;
    block.each([&](auto& lane) { pass_3_back<P>(lane, block.points(lane)); });
    from_spectrum<P>(block, task.tables);
    between<P>(block, task, member + 1);
    block.each([&](auto& lane) {
      Four* input = team_memory<P>(back, task.k, block.team(lane), member + 1).input;
      CK_UNROLL
      for (int i = 0; i < Entries<P>::count; ++i) input[i * P::T + lane.t] = Entries<P>::get(lane.v, i);
    });
  }
}

template <class P, class Block>
CK_HD void member_backward(Block& block, const AcdcTask& task, const AcdcBackward& back, int member, bool first) {
  to_spectrum<P>(block, task.tables);
  block.each([&](auto& lane) { pass_3<P>(lane, block.points(lane)); });
  block.each([&](auto& lane) {
    spend_spectrum<P>(lane, task, member, team_memory<P>(back, task.k, block.team(lane), member), first);
  });
  block.each([&](auto& lane) { pass_3_back<P>(lane, block.points(lane)); });
  from_spectrum<P>(block, task.tables);
  block.each([&](auto& lane) {
    const TeamMemory memory = team_memory<P>(back, task.k, block.team(lane), member);
    const float* a = a_of(task, member, P::N);
    if (member > 0) {
      CK_UNROLL
      for (int i = 0; i < Entries<P>::count; ++i)
        spend_entry<P>(lane, i, memory.input[i * P::T + lane.t], a, task.relu, memory.sums, first);
    } else if (a != nullptr) {
      read_row<Entries<P>::count>(
          back.x, lane.row, lane.row >= 0, [&](int i) { return Entries<P>::index(lane.t, i); },
          [&](int i, Four h) { spend_entry<P>(lane, i, h, a, false, memory.sums, first); });
    }
  });
}

template <class P, class Block>
CK_HD void acdc_backward(Block& block, const AcdcTask& task, const AcdcBackward& back) {
  bool first = true;
  for (int64_t base = block.first() * P::teams; base < task.rows; base += block.count() * P::teams) {
    block.each([&](auto& lane) { lane.row = base + lane.team < task.rows ? base + lane.team : -1; });
    recompute<P>(block, task, back);
    block.sync();
    block.each([&](auto& lane) { read_entries<P>(lane, back.grad_y); });
    for (int member = task.k - 1; member >= 0; --member) {
      member_backward<P>(block, task, back, member, first);
      if (member > 0 && task.permutation != nullptr) permute_back<P>(block, task, member);
    }
    block.each([&](auto& lane) { write_entries<P>(lane, back.grad_x); });
    first = false;
  }
}

}  // namespace ck
