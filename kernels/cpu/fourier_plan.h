// What Fourier transforms of real rows need beside a CosinePlan, whose passes they take.
//
// With M = n / 2 and Z = FFT(z), of length M, in the order of reversed digits:
// - pairs: z[m] = x[2m] + i x[2m+1]. With E = Z_k + conj(Z_{M-k}), D = Z_k - conj(Z_{M-k}) and w = exp(-2 pi i k / n),
//   the spectrum of x is X_k = (E - i w D) / 2 and conj(X_{M-k}) = (E + i w D) / 2.
// - halves: z[m] = x[m] + i x[m+M], times exp(i pi m / n) (`twist`): polynomials modulo u^n + 1 are complex ones modulo
//   u^M - i, so that a product of Zs, number by number, is one of skew-circulant matrices.
// - complex numbers of length M: re where halves has x[m], im where it has x[m+M].
#pragma once

#include <cstdint>
#include <vector>

#include "cosine.h"
#include "row_plan.h"

namespace ck {

// Whether each of so few rows is quicker across the lanes than all on them.
inline bool goes_across_lanes(int64_t n, int64_t rows, int64_t lanes) {
  return RowPlan::supports(n, lanes) && 2 * rows <= lanes;
}

struct FourierPlan {
  const CosinePlan& cosine;
  std::vector<uint32_t> pairs, halves;
  std::vector<int32_t> frequency;  // of the m-th number of a transform, not counting the padding
  Floats turns;                    // -w^2 of the first number of each quad
  Floats twist;

  explicit FourierPlan(const CosinePlan::Key& key);
  FourierView view() const;
};

}  // namespace ck
