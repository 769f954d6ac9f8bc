// The outermost pass, from one buffer into another: what comes in is permuted and scaled, what goes out has its ReLU.
#pragma once

#include "butterfly.h"

namespace ck::CK_ISA {

template <int Q>
CK_INLINE void twiddle(V& re, V& im, const float* twiddles) {
  if constexpr (Q > 0) {
    const V c = splat(twiddles[2 * Q - 2]), s = splat(twiddles[2 * Q - 1]);
    const V r = re * c - im * s;
    im = re * s + im * c;
    re = r;
  }
}

template <int Q>
CK_INLINE void untwiddle(V& re, V& im, const float* twiddles) {
  if constexpr (Q > 0) {
    const V c = splat(twiddles[2 * Q - 2]), s = splat(twiddles[2 * Q - 1]);
    const V r = re * c + im * s;
    im = im * c - re * s;
    re = r;
  }
}

// Eight complex vectors and their twiddle factors do not fit in 16 registers: the sums t_i + t_{i+4} are finished first,
// the differences kept in memory meanwhile. The barrier keeps the compiler from doing both at once and spilling.
template <bool HAS_TWIDDLES = true, class Get, class Put>
CK_INLINE void forward_eight_by_halves(const Get& get, const Put& put, const float* t) {
  V re[4], im[4], yr, yi;
  alignas(64) float kept[8 * W];
  CK_UNROLL(4)
  for (int i = 0; i < 4; i++) {
    get(i, re[i], im[i]), get(i + 4, yr, yi);
    store(kept + 2 * W * i, re[i] - yr), store(kept + 2 * W * i + W, im[i] - yi);
    re[i] += yr, im[i] += yi;
  }
  bf<4>(re, im);
  if (HAS_TWIDDLES) twiddle<2>(re[1], im[1], t), twiddle<4>(re[2], im[2], t), twiddle<6>(re[3], im[3], t);
  CK_UNROLL(4)
  for (int i = 0; i < 4; i++) put(2 * i, re[i], im[i]);
  asm volatile("" : : "r"(kept) : "memory");
  CK_UNROLL(4)
  for (int i = 0; i < 4; i++) re[i] = load(kept + 2 * W * i), im[i] = load(kept + 2 * W * i + W);
  const float half = 0.707106781186547524f;
  const V r1 = half * (re[1] + im[1]), i1 = half * (im[1] - re[1]);  // times exp(-i pi / 4)
  const V r2 = im[2], i2 = -re[2];                                   // times -i
  const V r3 = half * (im[3] - re[3]), i3 = -half * (re[3] + im[3]);
  re[1] = r1, im[1] = i1, re[2] = r2, im[2] = i2, re[3] = r3, im[3] = i3;
  bf<4>(re, im);
  if (HAS_TWIDDLES) {
    twiddle<1>(re[0], im[0], t), twiddle<3>(re[1], im[1], t);
    twiddle<5>(re[2], im[2], t), twiddle<7>(re[3], im[3], t);
  }
  CK_UNROLL(4)
  for (int i = 0; i < 4; i++) put(2 * i + 1, re[i], im[i]);
}

template <bool HAS_TWIDDLES = true, class Get, class Put>
CK_INLINE void backward_eight_by_halves(const Get& get, const Put& put, const float* t) {
  V re[4], im[4];
  alignas(64) float kept[8 * W];
  get(0, re[0], im[0]), get(2, re[1], im[1]), get(4, re[2], im[2]), get(6, re[3], im[3]);
  if (HAS_TWIDDLES) untwiddle<2>(re[1], im[1], t), untwiddle<4>(re[2], im[2], t), untwiddle<6>(re[3], im[3], t);
  bf<4>(im, re);
  CK_UNROLL(4)
  for (int i = 0; i < 4; i++) store(kept + 2 * W * i, re[i]), store(kept + 2 * W * i + W, im[i]);
  asm volatile("" : : "r"(kept) : "memory");
  get(1, re[0], im[0]), get(3, re[1], im[1]), get(5, re[2], im[2]), get(7, re[3], im[3]);
  if (HAS_TWIDDLES) {
    untwiddle<1>(re[0], im[0], t), untwiddle<3>(re[1], im[1], t);
    untwiddle<5>(re[2], im[2], t), untwiddle<7>(re[3], im[3], t);
  }
  bf<4>(im, re);
  const float half = 0.707106781186547524f;
  const V r1 = half * (re[1] - im[1]), i1 = half * (im[1] + re[1]);  // times exp(+i pi / 4)
  const V r2 = -im[2], i2 = re[2];                                   // times i
  const V r3 = -half * (im[3] + re[3]), i3 = half * (re[3] - im[3]);
  re[1] = r1, im[1] = i1, re[2] = r2, im[2] = i2, re[3] = r3, im[3] = i3;
  CK_UNROLL(4)
  for (int i = 0; i < 4; i++) {
    const V er = load_once(kept + 2 * W * i), ei = load_once(kept + 2 * W * i + W);
    put(i, er + re[i], ei + im[i]), put(i + 4, er - re[i], ei - im[i]);
  }
}

// Where the first pass finds its vectors, and by what they are multiplied: v[s] = a[s] h[slot[s] ...]. Both tables stand
// in the order in which the pass reads them.
struct Source {
  const float* h;
  const uint32_t* slot;  // in floats from h on; NULL: in order
  const float* a;        // NULL: 1
};

// Calls each(place in the tables of a Source, s).
template <class Each>
CK_INLINE void in_first_order(const Pass& pass, const Each& each) {
  int64_t at = 0;
  for (int64_t j = 0; j < pass.step; j++)
    for (int64_t i = 0; i < pass.radix; i++, at += 2) each(at, 2 * (j + i * pass.step)), each(at + 1, 2 * (j + i * pass.step) + 1);
}

// The outermost pass: its blocks lie `stride` complex numbers apart, a little more than their length (pad in table.h).
template <int R, bool IS_MOVED, bool IS_SCALED>
static void first_pass(const Source& source, float* z, const Pass& pass) {
  const float *twiddles = pass.twiddles, *h = source.h, *a = source.a;  // the barriers would have them fetched again
  const uint32_t* slot = source.slot;
  const int64_t step = pass.step, stride = pass.stride;
  for (int64_t j = 0; j < step; j++, z += 2 * W, twiddles += 2 * (R - 1)) {
    const auto get = [&](int i, V& re, V& im) __attribute__((always_inline)) {
      const float* from = h + 2 * W * (j + i * stride);
      re = (IS_SCALED ? load : load_once)(IS_MOVED ? h + int64_t{slot[2 * i]} : from);
      im = (IS_SCALED ? load : load_once)(IS_MOVED ? h + int64_t{slot[2 * i + 1]} : from + W);
      if (IS_SCALED) re *= splat(a[2 * i]), im *= splat(a[2 * i + 1]);
    };
    const auto put = [&](int i, V re, V im) __attribute__((always_inline)) {
      store(z + 2 * W * stride * i, re), store(z + 2 * W * stride * i + W, im);
    };
    if constexpr (R == 8 && FEW_REGISTERS) {
      forward_eight_by_halves(get, put, twiddles);
    } else {
      V re[R], im[R];
      CK_UNROLL(8)
      for (int i = 0; i < R; i++) get(i, re[i], im[i]);
      forward_column<R>(re, im, twiddles);
      CK_UNROLL(8)
      for (int i = 0; i < R; i++) put(i, re[i], im[i]);
    }
    if (IS_MOVED) slot += 2 * R;
    if (IS_SCALED) a += 2 * R;
  }
}

template <int R, bool IS_RELU>
static void last_pass(const float* z, float* h, const Pass& pass) {
  const float* twiddles = pass.twiddles;
  const int64_t step = pass.step, stride = pass.stride;
  for (int64_t j = 0; j < step; j++, z += 2 * W, h += 2 * W, twiddles += 2 * (R - 1)) {
    const auto get = [&](int i, V& re, V& im) __attribute__((always_inline)) {
      re = load_once(z + 2 * W * stride * i), im = load_once(z + 2 * W * stride * i + W);
    };
    const auto put = [&](int i, V re, V im) __attribute__((always_inline)) {
      store(h + 2 * W * stride * i, IS_RELU ? relu(re) : re);
      store(h + 2 * W * stride * i + W, IS_RELU ? relu(im) : im);
    };
    if constexpr (R == 8 && FEW_REGISTERS) {
      backward_eight_by_halves(get, put, twiddles);
    } else {
      V re[R], im[R];
      CK_UNROLL(8)
      for (int i = 0; i < R; i++) get(i, re[i], im[i]);
      backward_column<R>(re, im, twiddles);
      CK_UNROLL(8)
      for (int i = 0; i < R; i++) put(i, re[i], im[i]);
    }
  }
}

CK_INLINE void first_pass(const Source& source, float* z, const Pass& pass) {
  if (source.slot) {
    CK_EACH_RADIX(pass.radix, (first_pass<R, true, true>(source, z, pass)))
  } else if (source.a) {
    CK_EACH_RADIX(pass.radix, (first_pass<R, false, true>(source, z, pass)))
  } else {
    CK_EACH_RADIX(pass.radix, (first_pass<R, false, false>(source, z, pass)))
  }
}

CK_INLINE void last_pass(const float* z, float* h, const Pass& pass, bool is_relu) {
  if (is_relu) {
    CK_EACH_RADIX(pass.radix, (last_pass<R, true>(z, h, pass)))
  } else {
    CK_EACH_RADIX(pass.radix, (last_pass<R, false>(z, h, pass)))
  }
}

}  // namespace ck::CK_ISA
