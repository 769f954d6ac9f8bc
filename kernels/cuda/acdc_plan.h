// How one row of an ACDC cascade is spread over a block's threads, for a transform of N = 2 M real points.
//
// The DCT-II is Makhoul's: v = the even entries, then the odd ones backwards; z_m = v_2m + i v_2m+1; Z = FFT_M z.
// A group of four entries x_4m ... x_4m+3 is z_m = (x_0, x_2) and z_(M-1-m) = (x_3, x_1): one 16-byte access.
//
// M = R * R2 * R, index n = (n1 R2 + n2) R + n3, decimation in frequency in three passes of radix R, R2, R, so that place
// (k1, k2, k3) ends with frequency k = k1 + R k2 + R R2 k3. A thread holds E = 2 R points:
//   pass 1  butterflies j and S-1-j over n1 (S = R2 R): closed under m -> M-1-m, so it is loaded straight from memory;
//   pass 2  E / R2 butterflies over n2 (in two steps of radix R2A and R2B where a thread does not hold R2 points);
//   pass 3  groups q and G-q over n3 (G = R R2, q = k1 + R k2): closed under k -> M-k, so the spectrum of the real row,
//           the diagonal, the bias and the way back are in registers.
// The inverse transform is the adjoint of each step in the opposite order (decimation in time): nothing is un-permuted,
// and there are two exchanges through shared memory a transform (one where R2 = 1, three where pass 2 has two steps).
//
// A row that is too long for one block is one of a cluster of `ranks` blocks, which read each other's shared memory:
// each holds the row-blocks k1 of its share.
#pragma once

#include "portable.h"

namespace ck {

// sqrt(2 / n) for a power of two.
constexpr double orthonormal_scale(int n) {
  return n == 2 ? 1. : (n == 4 ? 0.70710678118654752440 : orthonormal_scale(n / 4) / 2);
}

template <int N_>
struct AcdcPlan {
  static constexpr int N = N_, M = N / 2;
  static constexpr int R = (N == 512 || N >= 4096) ? 16 : 8;
  static constexpr int E = 2 * R;
  static constexpr int R2 = M / (R * R);
  static constexpr int S = R2 * R, G = R * R2;
  static constexpr int R2A = R2 <= E ? R2 : 8, R2B = R2 / R2A;
  static constexpr int T = M / E;  // threads a row
  static constexpr int ranks = T <= 256 ? 1 : T / 256;
  static constexpr int threads = T < 128 ? (T <= 32 ? 128 : T) : T;  // of all ranks
  static constexpr int block_threads = threads / ranks;
  static constexpr int teams = threads / T;  // rows of a block at a time
  static constexpr bool one_warp = T <= 32;  // a row lies in one warp: no barrier of the block is needed
  static constexpr int pitch = M + (T < 16 ? T : 0);  // of rows in shared memory, in complex numbers
  static constexpr int shared_bytes = teams * pitch * 8 / ranks;
  static constexpr int blocks_for(int registers) { return ck::blocks_for(block_threads, registers); }
  static constexpr int forward_blocks = blocks_for(E == 32 ? 168 : 128);
  static constexpr int backward_blocks = blocks_for(E == 32 ? 255 : 144);
  static constexpr float scale = static_cast<float>(orthonormal_scale(N));  // sqrt(2 / N)
  static constexpr float scale_half = static_cast<float>(orthonormal_scale(2 * N));
  static constexpr float square = 2.f / N;
  // Thread 0's upper slots hold frequencies G/2 + G (j - R/2) where the others hold q + G j.
  static constexpr int upper_of_first = G / 2 - G * (R / 2);
  static_assert(M == R * R2 * R && M == E * T && R2A >= 1 && R2B <= E, "a size that the three passes cover");
  static_assert(ranks <= 8 && R % ranks == 0, "what every device with clusters allows, and whole row-blocks a rank");

  // Where place p of row-block k1 lies in shared memory: each half warp of every pass meets 16 different banks of 8 bytes.
  static CK_HD int swizzle(int k1, int p) {
    if constexpr (R == 16 || R2 == 1) return p ^ (k1 & (R - 1));
    return p ^ (k1 & 7) ^ ((k1 & 1) << 3);
  }
  static CK_HD int place(int k1, int within) { return swizzle(k1, k1 * S + within); }
  // Which group of R points of its row-block has frequency k2 after pass 2.
  static CK_HD int second(int k2) { return R2B == 1 ? k2 : k2 % R2A * R2B + k2 / R2A; }
};

constexpr int acdc_smallest = 128, acdc_largest = 65536;

inline bool acdc_has_plan(int64_t n) { return n >= acdc_smallest && n <= acdc_largest && (n & (n - 1)) == 0; }

}  // namespace ck
