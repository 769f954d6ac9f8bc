// Cosine and sine of a vector: to a rounding or two below 8192 in size, the C library's above.
#pragma once

#include <math.h>

#include "simd.h"

namespace ck::CK_ISA {

CK_INLINE V with_bits(VI bits) {
  V v;
  memcpy(&v, &bits, sizeof v);
  return v;
}

CK_INLINE VI bits_of(V v) {
  VI bits;
  memcpy(&bits, &v, sizeof v);
  return bits;
}

// Whether all of them are numbers that the quick way below takes.
static __attribute__((noinline)) bool are_small(const float* x, int64_t count) {
  const V limit = splat(8192.0f);
  VI found = {};
  int64_t i = 0;
  for (; i + W <= count; i += W) found |= ~(with_bits(bits_of(loadu(x + i)) & 0x7fffffff) < limit);  // NaN too
  int32_t lane[W], any = 0;
  memcpy(lane, &found, sizeof lane);
  for (int j = 0; j < W; j++) any |= lane[j];
  for (; i < count; i++) any |= !(fabsf(x[i]) < 8192.0f);
  return !any;
}

CK_INLINE void library_sincos(V x, V& c, V& s) {
  float in[W], cosines[W], sines[W];
  storeu(in, x);
  for (int i = 0; i < W; i++) cosines[i] = cosf(in[i]), sines[i] = sinf(in[i]);
  c = loadu(cosines), s = loadu(sines);
}

CK_INLINE void small_sincos(V x, V& c, V& s) {
  const V magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to a whole number, found in the low bits
  const V shifted = x * splat(0.636619772f) + magic;
  const V turns = shifted - magic;
  const VI quadrant = bits_of(shifted);
  V r = x - turns * splat(1.5703125f);  // pi / 2 in three parts, so that the products are exact
  r = r - turns * splat(4.837512969970703125e-4f);
  r = r - turns * splat(7.54978995489188216e-8f);
  const V z = r * r;
  const V sine = r + r * z * (splat(-1.6666654611e-1f) + z * (splat(8.3321608736e-3f) - z * splat(1.9515295891e-4f)));
  const V high = splat(4.166664568298827e-2f) + z * (splat(-1.388731625493765e-3f) + z * splat(2.443315711809948e-5f));
  const V cosine = splat(1.0f) - z * splat(0.5f) + z * z * high;
  const VI swapped = (quadrant & 1) != 0;
  const VI one = bits_of(cosine), other = bits_of(sine);
  const VI sine_sign = (quadrant & 2) << 30, cosine_sign = ((quadrant + 1) & 2) << 30;
  s = with_bits(((swapped & one) | (~swapped & other)) ^ sine_sign);
  c = with_bits(((swapped & other) | (~swapped & one)) ^ cosine_sign);
}

}  // namespace ck::CK_ISA
