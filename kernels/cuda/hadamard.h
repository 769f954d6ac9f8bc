// Walsh-Hadamard of a row in natural order: butterflies in registers on the bits of the index, in two or three layouts.
//
// A thread holds E = 2^e of the row's 2^p values; a layout is the set of index bits that run over a thread's registers.
//   A  bits 0 and 1 (a 16-byte access) and the top e - 2;
//   B  the next e bits from bit 2 on; what is missing to e is filled up from the top;
//   Z  (p > 2 e) the rest, filled up from the top: its threads lie side by side, so it reads and writes memory itself.
// Each layout does the butterflies of the bits that are new in it. Stages commute, so a transform may as well start in
// the layout where another one ended: `to_final` goes from A to Z (to A where there is no Z), `from_final` comes back.
#pragma once

#include "portable.h"
#include "rows.h"

namespace ck {

template <int p_>
struct HadamardPlan {
  static constexpr int p = p_, N = 1 << p;
  static constexpr int e = p >= 9 ? 5 : (p >= 7 ? 4 : 3), E = 1 << e;
  static constexpr int T = N / E;
  static constexpr int threads = T < 128 ? (T <= 32 ? 128 : T) : T;
  static constexpr int teams = threads / T;
  static constexpr int ranks = 1, block_threads = threads;  // no clusters
  static constexpr bool one_warp = T <= 32;
  static constexpr int pitch = (N + (T < 32 ? T : 0)) / 2;  // of rows in shared memory, in pairs of floats
  static constexpr int shared_bytes = teams * pitch * 8;
  static constexpr int blocks_for(int registers) { return ck::blocks_for(threads, registers); }
  static constexpr int fwht_blocks = blocks_for(p == 15 ? 64 : 72);
  static constexpr int fastfood_blocks = blocks_for(128), backward_blocks = blocks_for(p >= 13 ? 128 : 168);
  static_assert(p >= 6 && p <= 3 * e && p - e >= 2, "a size that three layouts cover");

  static constexpr uint32_t all = N - 1;
  static constexpr bool has_z = p > 2 * e;
  static constexpr int middle_bits = has_z ? e : p - e;
  static constexpr uint32_t new_a = 3u | (all & ~(all >> (e - 2)));
  static constexpr uint32_t new_b = ((1u << middle_bits) - 1) << 2;
  static constexpr uint32_t new_z = all & ~new_a & ~new_b;
  static constexpr uint32_t layout_a = new_a;

  static constexpr int count_bits(uint32_t mask) { return mask == 0 ? 0 : int(mask & 1) + count_bits(mask >> 1); }
  static constexpr uint32_t filled(uint32_t mask, int bit) {
    return count_bits(mask) == e ? mask : filled(mask | (1u << bit), bit - 1);
  }
  static constexpr uint32_t layout_b = filled(new_b, p - 1);
  static constexpr uint32_t layout_z = has_z ? filled(new_z, p - 1) : layout_a;

  // Spreads the threads of B, which lie far apart, over the banks: no access of any layout meets a bank twice. Groups of
  // four stay whole.
  static CK_HD int place(int index) { return index ^ (((index >> (2 + middle_bits)) & 7) << 2); }
};


template <class P>
struct HadamardLane {
  int t, team;
  int64_t row;
  int part;  // Fastfood: which block of the stack
  float v[P::E];
};

// The bits of `v`, in their order, at the places of `mask`.
template <uint32_t mask>
CK_HD constexpr int deposit(int v) {
  int found = 0, from = 0;
  CK_UNROLL
  for (int bit = 0; bit < 16; ++bit) {
    if (mask >> bit & 1) {
      found |= (v >> from & 1) << bit;
      ++from;
    }
  }
  return found;
}

// Index of register `slot` of thread t.
template <class P, uint32_t layout>
CK_HD int index_in(int t, int slot) {
  return deposit<layout>(slot) + deposit<P::all & ~layout>(t);
}

// Where it lies in the exchange memory. The two parts have no bit in common, so each is placed by itself: that of the
// slot is a constant.
template <class P, uint32_t layout>
CK_HD int place_in(int t, int slot) {
  return P::place(deposit<P::all & ~layout>(t)) ^ P::place(deposit<layout>(slot));
}

template <class P>
CK_HD int four_of(int t, int group) {
  return t + P::T * group;  // layout A: registers 4 group ... 4 group + 3 are one group of four
}

template <class P, uint32_t layout, uint32_t fresh>
CK_HD void butterflies(float* v) {
  int rank = 0;
  CK_UNROLL
  for (int bit = 0; bit < P::p; ++bit) {
    if (!(layout >> bit & 1)) continue;
    if (fresh >> bit & 1) {
      CK_UNROLL
      for (int s = 0; s < P::E; ++s) {
        if (s >> rank & 1) continue;
        const float a = v[s], b = v[s | 1 << rank];
        v[s] = a + b;
        v[s | 1 << rank] = a - b;
      }
    }
    ++rank;
  }
}

template <class P, uint32_t layout, class Block, class Lane>
CK_HD void put_in(Block& block, Lane& lane) {
  if constexpr (layout == P::layout_a) {
    CK_UNROLL
    for (int g = 0; g < P::E / 4; ++g) {
      const Four four = {{lane.v[4 * g], lane.v[4 * g + 1], lane.v[4 * g + 2], lane.v[4 * g + 3]}};
      block.fours(lane).put(P::place(4 * four_of<P>(lane.t, g)) / 4, four);
    }
  } else {
    CK_UNROLL
    for (int s = 0; s < P::E; ++s) block.floats(lane).put(place_in<P, layout>(lane.t, s), lane.v[s]);
  }
}

template <class P, uint32_t layout, class Block, class Lane>
CK_HD void get_in(Block& block, Lane& lane) {
  if constexpr (layout == P::layout_a) {
    CK_UNROLL
    for (int g = 0; g < P::E / 4; ++g) {
      const Four four = block.fours(lane).get(P::place(4 * four_of<P>(lane.t, g)) / 4);
      CK_UNROLL
      for (int j = 0; j < 4; ++j) lane.v[4 * g + j] = four.x[j];
    }
  } else {
    CK_UNROLL
    for (int s = 0; s < P::E; ++s) lane.v[s] = block.floats(lane).get(place_in<P, layout>(lane.t, s));
  }
}

template <class P, uint32_t from, uint32_t to, class Block>
CK_HD void exchange(Block& block) {
  block.each([&](auto& lane) { put_in<P, from>(block, lane); });
  block.sync();
  block.each([&](auto& lane) { get_in<P, to>(block, lane); });
}

template <class P, class Block>
CK_HD void to_final(Block& block) {
  block.each([&](auto& lane) { butterflies<P, P::layout_a, P::new_a>(lane.v); });
  exchange<P, P::layout_a, P::layout_b>(block);
  block.each([&](auto& lane) { butterflies<P, P::layout_b, P::new_b>(lane.v); });
  exchange<P, P::layout_b, P::layout_z>(block);
  if constexpr (P::has_z) block.each([&](auto& lane) { butterflies<P, P::layout_z, P::new_z>(lane.v); });
}

template <class P, class Block>
CK_HD void from_final(Block& block) {
  if constexpr (P::has_z) block.each([&](auto& lane) { butterflies<P, P::layout_z, P::new_z>(lane.v); });
  exchange<P, P::layout_z, P::layout_b>(block);
  block.each([&](auto& lane) { butterflies<P, P::layout_b, P::new_b>(lane.v); });
  exchange<P, P::layout_b, P::layout_a>(block);
  block.each([&](auto& lane) { butterflies<P, P::layout_a, P::new_a>(lane.v); });
}

// A row in layout A, from memory and to memory; `first` is where it begins, in groups of four.
template <class P, class Lane>
CK_HD void read_start(Lane& lane, const Rows& x, int first) {
  read_row<P::E / 4>(
      x, lane.row, lane.row >= 0, [&](int g) { return first + four_of<P>(lane.t, g); },
      [&](int g, Four value) {
        CK_UNROLL
        for (int j = 0; j < 4; ++j) lane.v[4 * g + j] = value.x[j];
      });
}

template <class P, class Lane>
CK_HD void write_start(Lane& lane, const Rows& y, int first) {
  write_row<P::E / 4>(
      y, lane.row, lane.row >= 0, [&](int g) { return first + four_of<P>(lane.t, g); },
      [&](int g) { return Four{{lane.v[4 * g], lane.v[4 * g + 1], lane.v[4 * g + 2], lane.v[4 * g + 3]}}; });
}

// A row in the final layout, to memory.
template <class P, class Lane>
CK_HD void write_final(Lane& lane, const Rows& y, int first) {
  if constexpr (P::has_z) {
    write_elements<P::E>(
        y, lane.row, lane.row >= 0, [&](int s) { return 4 * first + index_in<P, P::layout_z>(lane.t, s); },
        [&](int s) { return lane.v[s]; });
  } else {
    write_start<P>(lane, y, first);
  }
}

template <class P, class Block>
CK_HD void fwht(Block& block, int64_t rows, const Rows& x, const Rows& y) {
  for (int64_t base = block.first() * P::teams; base < rows; base += block.count() * P::teams) {
    block.each([&](auto& lane) {
      lane.row = base + lane.team < rows ? base + lane.team : -1;
      read_start<P>(lane, x, 0);
    });
    to_final<P>(block);
    block.each([&](auto& lane) { write_final<P>(lane, y, 0); });
    if constexpr (P::has_z) block.sync();  // the next row enters in another layout than this one left
  }
}

}  // namespace ck
