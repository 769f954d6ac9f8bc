// What the cosine transform of an even length needs beside the data, for all instruction sets.
//
// Makhoul (1980): v[s] = h[source(s)], the even entries and then the odd ones backwards, and two neighbours of v as one
// complex number, z[m] = v[2m] + i v[2m+1]. Z = FFT(z), of length M = N/2, decimated in frequency, so that it comes out
// in the order of reversed digits and nothing is ever put back in order. The four numbers Z_k and Z_{M-k} give four
// coefficients of the DCT by a 4 x 4 matrix T, one for each k: a "quad". As T and the FFT are orthogonal up to scale,
// the inverse is the transpose: z = FFT^H (T^t X), unnormalised.
#pragma once

#include <complex>
#include <cstdint>
#include <vector>

#include "table.h"
#include "tables.h"

namespace ck {

// exp(-2 pi i part / whole)
std::complex<double> turn(int64_t part, int64_t whole);

// The twiddle factors of a pass from `at` on; where they end.
float* write_twiddles(const Pass& pass, float* at);

// T for k < N/4: alpha, beta, alpha', beta', each re and im; and which coefficients come out (-1: none). Quad 0 takes
// Z_0 and Z_{M/2}, or something that does not matter where M is odd.
struct Quad {
  float matrix[8];
  int32_t index[4];
  Quad(int64_t k, int64_t n);
};

struct CosinePlan {
  int64_t n, m;
  bool fused;  // the innermost pass has radix 4 and stands in `pairs`, not in `passes`
  std::vector<Pass> passes;
  int64_t quads;
  std::vector<int32_t> position, index, pairs;  // as in CosineView
  std::vector<uint32_t> slot, natural;
  int64_t vectors;
  Floats matrix;
  std::vector<Family> families;

  struct Key {
    int64_t n, radix;  // radix: the largest power of two inside, 4 or 8
    bool operator<(const Key& other) const { return n != other.n ? n < other.n : radix < other.radix; }
  };
  explicit CosinePlan(const Key& key);

  CosineView view() const;

  static bool supports(int64_t n);  // even, and n/2 without a prime factor above 7

  int64_t frequency(int64_t position) const;  // of the number that the transform leaves at `position`
  int64_t padded(int64_t position) const { return position < 0 ? position : position + PAD * (position / passes[0].step); }

 private:
  void choose_passes(int64_t radix);
  void fill_twiddles();
  void fill_quads();
  void add_quad(int64_t first, int64_t second);
  int64_t position_of(int64_t frequency) const;
  void fill_matrix();
  void pad();

  std::vector<int64_t> radices_;  // with the fused one
  Floats twiddle_memory_;
};

}  // namespace ck
