// Small Fourier transforms in registers, natural order in and out, and the twiddles between two of them.
#pragma once

#include "portable.h"

namespace ck {

// v * exp(-2 pi i k / n), or its conjugate; a constant k costs what it must.
template <int n, bool inverse>
CK_HD Complex rotate(Complex v, int k) {
  k = ((inverse ? -k : k) % n + n) % n;
  if (k == 0) return v;
  if (2 * k == n) return {-v.re, -v.im};
  if (4 * k == n) return {v.im, -v.re};
  if (4 * k == 3 * n) return {-v.im, v.re};
  return v * root<n>(k);
}

template <int n, bool inverse>
struct Dft {
  static constexpr int A = n == 8 ? 2 : 4, B = n / A;  // n = n_a B + n_b -> k = k_a + A k_b

  static CK_HD void run(Complex* v) {
    Complex w[n];
    CK_UNROLL
    for (int b = 0; b < B; ++b) {
      Complex u[A];
      CK_UNROLL
      for (int a = 0; a < A; ++a) u[a] = v[a * B + b];
      Dft<A, inverse>::run(u);
      CK_UNROLL
      for (int a = 0; a < A; ++a) w[a * B + b] = rotate<n, inverse>(u[a], a * b);
    }
    CK_UNROLL
    for (int a = 0; a < A; ++a) {
      Dft<B, inverse>::run(w + a * B);
      CK_UNROLL
      for (int b = 0; b < B; ++b) v[a + A * b] = w[a * B + b];
    }
  }
};

template <bool inverse>
struct Dft<2, inverse> {
  static CK_HD void run(Complex* v) {
    const Complex a = v[0], b = v[1];
    v[0] = a + b;
    v[1] = a - b;
  }
};

template <bool inverse>
struct Dft<4, inverse> {
  static CK_HD void run(Complex* v) {
    const Complex s02 = v[0] + v[2], d02 = v[0] - v[2], s13 = v[1] + v[3], d13 = v[1] - v[3];
    const Complex turned = inverse ? times_i(d13) : Complex{d13.im, -d13.re};
    v[0] = s02 + s13;
    v[2] = s02 - s13;
    v[1] = d02 + turned;
    v[3] = d02 - turned;
  }
};

// The twiddles w^0 ... w^(n-1) of one butterfly are kept as two digits, w^low and w^(LOW high): few numbers to load and
// to hold, at most one product away from an exact one. `count` tables: w^1 ... w^(LOW-1), w^LOW, w^(2 LOW), ...
template <int n>
struct TwiddleDigits {
  static constexpr int LOW = n >= 32 ? 8 : (n >= 4 ? 4 : n), HIGH = n / LOW;
  static constexpr int count = (LOW - 1) + (HIGH - 1);

  static constexpr int exponent(int entry) { return entry < LOW - 1 ? entry + 1 : LOW * (entry - LOW + 2); }

  // v[k] *= w^k, or its conjugate; `table` holds entry e at table[e * stride].
  template <bool inverse>
  static CK_HD void apply(Complex* v, const Complex* table, int stride) {
    Complex w[count];
    CK_UNROLL
    for (int e = 0; e < count; ++e) {
      w[e] = fetch(table + e * stride);
      if (inverse) w[e] = conj(w[e]);
    }
    CK_UNROLL
    for (int k = 1; k < n; ++k) {
      const int low = k % LOW, high = k / LOW;
      if (low) v[k] = v[k] * w[low - 1];
      if (high) v[k] = v[k] * w[LOW - 2 + high];
    }
  }
};

}  // namespace ck
