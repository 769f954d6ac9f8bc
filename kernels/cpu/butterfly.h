// Fourier transforms of 2, 3, 4, 5, 7, 8 and 16 complex vectors in registers, and passes made of them.
//
// A complex number is two neighbouring vectors, re and im. bf<R>(re, im) is the forward transform; with the arguments
// exchanged, bf<R>(im, re), it is the backward one.
#pragma once

#include "simd.h"
#include "table.h"

namespace ck::CK_ISA {

// Sixteen vectors and what is done with them do not fit in 16 registers.
#if LANES == 16 || defined(__aarch64__)
constexpr bool FEW_REGISTERS = false;
#else
constexpr bool FEW_REGISTERS = true;
#endif

template <int R>
struct Roots;  // cos and sin of 2 pi i / R
template <>
struct Roots<3> {
  static constexpr float cos[2] = {-0.5f}, sin[2] = {0.866025403784438647f};
};
template <>
struct Roots<5> {
  static constexpr float cos[2] = {0.309016994374947424f, -0.809016994374947424f};
  static constexpr float sin[2] = {0.951056516295153572f, 0.587785252292473129f};
};
template <>
struct Roots<7> {
  static constexpr float cos[3] = {0.623489801858733531f, -0.222520933956314404f, -0.900968867902419126f};
  static constexpr float sin[3] = {0.781831482468029809f, 0.974927912181823607f, 0.433883739117558120f};
};

template <int R>
CK_INLINE float root_cos(int i) {
  return i % R == 0 ? 1.0f : Roots<R>::cos[(i % R <= R / 2 ? i % R : R - i % R) - 1];
}
template <int R>
CK_INLINE float root_sin(int i) {
  return i % R == 0 ? 0.0f : i % R <= R / 2 ? Roots<R>::sin[i % R - 1] : -Roots<R>::sin[R - i % R - 1];
}

template <int R>
CK_INLINE void bf_odd(V* re, V* im) {
  constexpr int H = R / 2;
  V sr[H], si[H], dr[H], di[H];
  V tr = re[0], ti = im[0];
  CK_UNROLL(8)
  for (int i = 0; i < H; i++) {
    sr[i] = re[i + 1] + re[R - 1 - i], si[i] = im[i + 1] + im[R - 1 - i];
    dr[i] = re[i + 1] - re[R - 1 - i], di[i] = im[i + 1] - im[R - 1 - i];
    tr += sr[i], ti += si[i];
  }
  const V zr = re[0], zi = im[0];
  re[0] = tr, im[0] = ti;
  CK_UNROLL(8)
  for (int q = 1; q <= H; q++) {
    V ar = zr, ai = zi, br = root_sin<R>(q) * dr[0], bi = root_sin<R>(q) * di[0];
    CK_UNROLL(8)
    for (int i = 0; i < H; i++) {
      ar += root_cos<R>(q * (i + 1)) * sr[i], ai += root_cos<R>(q * (i + 1)) * si[i];
      if (i) br += root_sin<R>(q * (i + 1)) * dr[i], bi += root_sin<R>(q * (i + 1)) * di[i];
    }
    re[q] = ar + bi, im[q] = ai - br;
    re[R - q] = ar - bi, im[R - q] = ai + br;
  }
}

CK_INLINE void bf_2(V& ar, V& ai, V& br, V& bi) {
  const V r = ar - br, i = ai - bi;
  ar += br, ai += bi;
  br = r, bi = i;
}

CK_INLINE void bf_4(V& ar, V& ai, V& br, V& bi, V& cr, V& ci, V& dr, V& di) {
  bf_2(ar, ai, cr, ci);
  bf_2(br, bi, dr, di);
  bf_2(ar, ai, br, bi);  // 0 and 2
  const V r = cr - di, i = ci + dr;
  cr += di, ci -= dr;  // 1; and 3 is (r, i)
  const V twor = br, twoi = bi;
  br = cr, bi = ci, cr = twor, ci = twoi, dr = r, di = i;
}

template <int R>
CK_INLINE void bf(V* re, V* im);

// Four by four: numbers j, j + 4, ... are transformed, turned by exp(-2 pi i j q / 16), and transformed again.
CK_INLINE void bf_sixteen(V* re, V* im) {
  static constexpr float cos[10] = {1, 0.923879532511286756f, 0.707106781186547524f, 0.382683432365089772f, 0,
                                    0, -0.707106781186547524f, 0, 0, -0.923879532511286756f};
  static constexpr float sin[10] = {0, 0.382683432365089772f, 0.707106781186547524f, 0.923879532511286756f, 1,
                                    0, 0.707106781186547524f, 0, 0, -0.382683432365089772f};
  V r[16], m[16];
  CK_UNROLL(4)
  for (int j = 0; j < 4; j++) {
    V cr[4] = {re[j], re[j + 4], re[j + 8], re[j + 12]}, ci[4] = {im[j], im[j + 4], im[j + 8], im[j + 12]};
    bf<4>(cr, ci);
    CK_UNROLL(4)
    for (int q = 0; q < 4; q++) {
      const V c = splat(cos[j * q]), s = splat(sin[j * q]);
      r[4 * q + j] = j && q ? cr[q] * c + ci[q] * s : cr[q];
      m[4 * q + j] = j && q ? ci[q] * c - cr[q] * s : ci[q];
    }
  }
  CK_UNROLL(4)
  for (int q = 0; q < 4; q++) {
    bf<4>(r + 4 * q, m + 4 * q);
    CK_UNROLL(4)
    for (int j = 0; j < 4; j++) re[4 * j + q] = r[4 * q + j], im[4 * j + q] = m[4 * q + j];
  }
}

template <int R>
CK_INLINE void bf(V* re, V* im) {
  if constexpr (R == 2) {
    bf_2(re[0], im[0], re[1], im[1]);
  } else if constexpr (R == 4) {
    bf_4(re[0], im[0], re[1], im[1], re[2], im[2], re[3], im[3]);
  } else if constexpr (R == 8) {
    const float half = 0.707106781186547524f;
    CK_UNROLL(4)
    for (int i = 0; i < 4; i++) bf_2(re[i], im[i], re[i + 4], im[i + 4]);
    const V r5 = half * (re[5] + im[5]), i5 = half * (im[5] - re[5]);  // times exp(-i pi / 4)
    const V r6 = im[6], i6 = -re[6];                                   // times -i
    const V r7 = half * (im[7] - re[7]), i7 = -half * (re[7] + im[7]);
    re[5] = r5, im[5] = i5, re[6] = r6, im[6] = i6, re[7] = r7, im[7] = i7;
    bf_4(re[0], im[0], re[1], im[1], re[2], im[2], re[3], im[3]);
    bf_4(re[4], im[4], re[5], im[5], re[6], im[6], re[7], im[7]);
    V r[8], i[8];
    CK_UNROLL(4)
    for (int q = 0; q < 4; q++)
      r[2 * q] = re[q], i[2 * q] = im[q], r[2 * q + 1] = re[q + 4], i[2 * q + 1] = im[q + 4];
    CK_UNROLL(8)
    for (int q = 0; q < 8; q++) re[q] = r[q], im[q] = i[q];
  } else if constexpr (R == 16) {
    bf_sixteen(re, im);
  } else if constexpr (R > 1) {
    bf_odd<R>(re, im);
  }
}

// One column of a pass, decimation in frequency: the transform and then the twiddle factors.
template <int R>
CK_INLINE void forward_column(V* re, V* im, const float* twiddles) {
  bf<R>(re, im);
  CK_UNROLL(8)
  for (int q = 1; q < R; q++) {
    const V c = splat(twiddles[2 * q - 2]), s = splat(twiddles[2 * q - 1]);
    const V r = re[q] * c - im[q] * s;
    im[q] = re[q] * s + im[q] * c;
    re[q] = r;
  }
}

// Its adjoint, decimation in time.
template <int R>
CK_INLINE void backward_column(V* re, V* im, const float* twiddles) {
  CK_UNROLL(8)
  for (int q = 1; q < R; q++) {
    const V c = splat(twiddles[2 * q - 2]), s = splat(twiddles[2 * q - 1]);
    const V r = re[q] * c + im[q] * s;
    im[q] = im[q] * c - re[q] * s;
    re[q] = r;
  }
  bf<R>(im, re);
}

template <int R>
static void forward_pass(float* z, int64_t length, int64_t step, const float* twiddles) {
  for (const float* end = z + 2 * W * length; z < end; z += 2 * W * (R - 1) * step) {
    const float* t = twiddles;
    for (int64_t j = 0; j < step; j++, z += 2 * W, t += 2 * (R - 1)) {
      V re[R], im[R];
      CK_UNROLL(8)
      for (int i = 0; i < R; i++) re[i] = load_once(z + 2 * W * step * i), im[i] = load_once(z + 2 * W * step * i + W);
      forward_column<R>(re, im, t);
      CK_UNROLL(8)
      for (int i = 0; i < R; i++) store(z + 2 * W * step * i, re[i]), store(z + 2 * W * step * i + W, im[i]);
    }
  }
}

template <int R>
static void backward_pass(float* z, int64_t length, int64_t step, const float* twiddles) {
  for (const float* end = z + 2 * W * length; z < end; z += 2 * W * (R - 1) * step) {
    const float* t = twiddles;
    for (int64_t j = 0; j < step; j++, z += 2 * W, t += 2 * (R - 1)) {
      V re[R], im[R];
      CK_UNROLL(8)
      for (int i = 0; i < R; i++) re[i] = load_once(z + 2 * W * step * i), im[i] = load_once(z + 2 * W * step * i + W);
      backward_column<R>(re, im, t);
      CK_UNROLL(8)
      for (int i = 0; i < R; i++) store(z + 2 * W * step * i, re[i]), store(z + 2 * W * step * i + W, im[i]);
    }
  }
}

#define CK_EACH_RADIX(radix, call)             \
  switch (radix) {                             \
    case 2: { constexpr int R = 2; call; } break; \
    case 3: { constexpr int R = 3; call; } break; \
    case 4: { constexpr int R = 4; call; } break; \
    case 5: { constexpr int R = 5; call; } break; \
    case 7: { constexpr int R = 7; call; } break; \
    case 8: { constexpr int R = 8; call; } break; \
    default: { constexpr int R = 1; call; } break; \
  }

// All blocks of a pass but the outermost, side by side in `length` numbers.
CK_INLINE void forward_pass(const Pass& pass, float* z, int64_t length) {
  CK_EACH_RADIX(pass.radix, forward_pass<R>(z, length, pass.step, pass.twiddles))
}

// All blocks of a pass but the outermost, side by side in `length` numbers.
CK_INLINE void backward_pass(const Pass& pass, float* z, int64_t length) {
  CK_EACH_RADIX(pass.radix, backward_pass<R>(z, length, pass.step, pass.twiddles))
}

}  // namespace ck::CK_ISA
