// The steps of an ACDC member in the registers of a thread, between exchanges; the same code on the device and emulated.
//
// `Block` runs `each(f)`, f(lane) for every thread, and `sync()`, the barrier between two steps; `lane.v` are a thread's
// points. `block.points(lane)` is the exchange memory of the lane's row, get(i) and put(i, value).
#pragma once

#include "acdc_plan.h"
#include "acdc_tables.h"
#include "rows.h"

namespace ck {

template <class P>
struct AcdcLane {
  int t;        // thread within its row
  int team;     // which row of the block's
  int64_t row;  // -1: no such row, the thread only keeps step
  Complex v[P::E];
};

// The row's groups of four entries that a thread holds: group index(t, i) is in two of its points.
template <class P>
struct Entries {
  static constexpr int count = P::R;

  static CK_HD int index(int t, int i) { return (i & 1 ? P::S - 1 - t : t) + (i >> 1) * P::S; }
  static CK_HD Complex& low(Complex* v, int i) { return v[(i & 1) * P::R + (i >> 1)]; }
  static CK_HD Complex& high(Complex* v, int i) { return v[(1 - (i & 1)) * P::R + P::R - 1 - (i >> 1)]; }

  static CK_HD Four get(Complex* v, int i) {
    const Complex a = low(v, i), b = high(v, i);
    return {{a.re, b.im, a.im, b.re}};
  }
  static CK_HD void put(Complex* v, int i, Four x) {
    low(v, i) = {x.x[0], x.x[2]};
    high(v, i) = {x.x[3], x.x[1]};
  }
};

template <class P, class Points>
CK_HD void pass_1(AcdcLane<P>& lane, Points points, const Complex* tables) {
  CK_UNROLL
  for (int side = 0; side < 2; ++side) {
    const int j = side ? P::S - 1 - lane.t : lane.t;
    Complex* v = lane.v + side * P::R;
    Dft<P::R, false>::run(v);
    TwiddleDigits<P::R>::template apply<false>(v, tables + AcdcTables<P>::first + j, P::S);
    CK_UNROLL
    for (int k1 = 0; k1 < P::R; ++k1) points.put(P::place(k1, j), v[k1]);
  }
}

template <class P, class Points>
CK_HD void pass_1_back(AcdcLane<P>& lane, Points points, const Complex* tables) {
  CK_UNROLL
  for (int side = 0; side < 2; ++side) {
    const int j = side ? P::S - 1 - lane.t : lane.t;
    Complex* v = lane.v + side * P::R;
    CK_UNROLL
    for (int k1 = 0; k1 < P::R; ++k1) v[k1] = points.get(P::place(k1, j));
    TwiddleDigits<P::R>::template apply<true>(v, tables + AcdcTables<P>::first + j, P::S);
    Dft<P::R, true>::run(v);
  }
}

// One step of pass 2: butterflies of `radix` within every `length` points of a row-block.
template <class P, int radix, int length, int tables_at, bool back, class Points>
CK_HD void step_2(AcdcLane<P>& lane, Points points, const Complex* tables) {
  constexpr int step = length / radix, parts = P::S / length;
  CK_UNROLL
  for (int i = 0; i < P::E / radix; ++i) {
    const int b = lane.t + P::T * i, part = b / step, inner = b % step;
    const int k1 = part / parts, within = part % parts * length + inner;
    Complex* v = lane.v + i * radix;
    CK_UNROLL
    for (int n = 0; n < radix; ++n) v[n] = points.get(P::place(k1, within + n * step));
    const Complex* table = tables + tables_at + inner;
    if (back) TwiddleDigits<radix>::template apply<true>(v, table, step);
    Dft<radix, back>::run(v);
    if (!back) TwiddleDigits<radix>::template apply<false>(v, table, step);
    CK_UNROLL
    for (int n = 0; n < radix; ++n) points.put(P::place(k1, within + n * step), v[n]);
  }
}

template <class P, bool back, class Block>
CK_HD void pass_2(Block& block, const Complex* tables) {
  const auto first = [&](auto& lane) {
    step_2<P, P::R2A, P::S, AcdcTables<P>::second, back>(lane, block.points(lane), tables);
  };
  const auto second = [&](auto& lane) {
    if constexpr (P::R2B > 1)
      step_2<P, P::R2B, P::R2B * P::R, AcdcTables<P>::third, back>(lane, block.points(lane), tables);
  };
  if constexpr (P::R2B > 1 && back) {
    block.each(second);
    block.sync();
  }
  if constexpr (P::R2 > 1) {
    block.each(first);
    block.sync();
  }
  if constexpr (P::R2B > 1 && !back) {
    block.each(second);
    block.sync();
  }
}

// Group of the lower and of the upper half of a thread's points: q and G - q; thread 0 has the two that mirror themselves.
template <class P>
CK_HD int group(int t, int side) {
  return side == 0 ? t : (t == 0 ? P::G / 2 : P::G - t);
}

// Thread 0's groups 0 and G/2 are each their own mirror. Sorted so that here too slot j of the lower half and slot R-1-j
// of the upper one are partners, all but slot 0: frequencies 0 and M/2, which stand alone.
template <class P, bool back>
CK_HD void sort_first(Complex* v) {
  constexpr int R = P::R, h = R / 2;
  Complex w[2 * R];
  CK_UNROLL
  for (int i = 0; i < h; ++i) {
    const int from[4] = {i, R + i, R + h + i, h + (i + 1) % h};
    const int to[4] = {i, h + i, R + i, R + h + i};
    CK_UNROLL
    for (int c = 0; c < 4; ++c) w[back ? from[c] : to[c]] = v[back ? to[c] : from[c]];
  }
  CK_UNROLL
  for (int i = 0; i < 2 * R; ++i) v[i] = w[i];
}

template <class P, class Points>
CK_HD void pass_3(AcdcLane<P>& lane, Points points) {
  CK_UNROLL
  for (int side = 0; side < 2; ++side) {
    const int q = group<P>(lane.t, side);
    Complex* v = lane.v + side * P::R;
    CK_UNROLL
    for (int n3 = 0; n3 < P::R; ++n3) v[n3] = points.get(P::place(q % P::R, P::second(q / P::R) * P::R + n3));
    Dft<P::R, false>::run(v);
  }
  if (lane.t == 0) sort_first<P, false>(lane.v);
}

template <class P, class Points>
CK_HD void pass_3_back(AcdcLane<P>& lane, Points points) {
  if (lane.t == 0) sort_first<P, true>(lane.v);
  CK_UNROLL
  for (int side = 0; side < 2; ++side) {
    const int q = group<P>(lane.t, side);
    Complex* v = lane.v + side * P::R;
    Dft<P::R, true>::run(v);
    CK_UNROLL
    for (int n3 = 0; n3 < P::R; ++n3) points.put(P::place(q % P::R, P::second(q / P::R) * P::R + n3), v[n3]);
  }
}

// Four outputs of the DCT: those of a pair of points. True values are scale[i] * u[i]; they stand at index[i].
// square[i] is scale[i] squared, exact: the square of the rounded one would be an error of all outputs alike.
struct Quad {
  int index[4];
  float scale[4], square[4];
  float u[4];
};

// Calls body(slot, quad) for each of a thread's R pairs, which changes quad.u to the gradient with respect to it (or to
// what goes back in its stead), and puts the adjoint of the map points -> quad.u of that in the place of the points.
template <class P, class Body>
CK_HD void middle(AcdcLane<P>& lane, const Complex* tables, Body body) {
  constexpr int N = P::N, M = P::M, R = P::R;
  constexpr float s = P::scale, s_half = P::scale_half, square = P::square;
  CK_UNROLL
  for (int j = 0; j < R; ++j) {
    const bool upper = j >= R / 2;
    const int at = upper && lane.t == 0 ? P::T : lane.t;
    const int k = P::G * j + (upper && lane.t == 0 ? P::upper_of_first : lane.t);
    Complex& a = lane.v[j];
    Complex& b = lane.v[2 * R - 1 - j];
    if (j == 0 && lane.t == 0) {
      const Complex w = root<8 * 2>(1);  // exp(-i pi / 8)
      const Complex c = w * conj(b);
      Quad x = {{0, M, M / 2, N - M / 2},
                {s_half, s_half, s, s},
                {square / 2, square / 2, square, square},
                {a.re + a.im, a.re - a.im, c.re, -c.im}};
      body(j, x);
      a = {x.u[0] + x.u[1], x.u[0] - x.u[1]};
      b = w * Complex{x.u[2], x.u[3]};
    } else {
      const Complex w = rotate<8 * R, false>(fetch(tables + AcdcTables<P>::omega + at), j);
      const Complex w5 = rotate<8 * R, false>(fetch(tables + AcdcTables<P>::omega5 + at), 5 * j);
      const Complex p = w * (a + conj(b)), d = a - conj(b), q = w5 * Complex{d.im, -d.re};
      const Complex sum = p + q, difference = p - q;
      Quad x = {{k, N - k, M - k, M + k},
                {s / 2, s / 2, s_half / 2, s_half / 2},
                {square / 4, square / 4, square / 8, square / 8},
                {sum.re, -sum.im, difference.re - difference.im, difference.re + difference.im}};
      body(j, x);
      const Complex from_sum = {x.u[0], -x.u[1]}, from_difference = {x.u[2] + x.u[3], x.u[3] - x.u[2]};
      const Complex e = conj(w) * (from_sum + from_difference), o = times_i(conj(w5) * (from_sum - from_difference));
      a = e + o;
      b = conj(e - o);
    }
  }
}

template <class P, class Block>
CK_HD void to_spectrum(Block& block, const Complex* tables) {
  block.each([&](auto& lane) { pass_1<P>(lane, block.points(lane), tables); });
  block.sync();
  pass_2<P, false>(block, tables);
}

template <class P, class Block>
CK_HD void from_spectrum(Block& block, const Complex* tables) {
  block.sync();
  pass_2<P, true>(block, tables);
  block.each([&](auto& lane) { pass_1_back<P>(lane, block.points(lane), tables); });
}

}  // namespace ck
