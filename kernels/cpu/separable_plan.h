// The plan of C_n1 (x) C_n2: one along each side, and where the entries of a row stand.
#pragma once

#include <vector>

#include "cosine.h"

namespace ck {

struct SeparablePlan {
  int64_t n;
  const CosinePlan &rows, &columns;  // of length n1 and n2
  std::vector<uint32_t> slot;        // (n): in columns one after the other, each in Makhoul's order

  explicit SeparablePlan(const CosinePlan::Key& key);
  SeparableView view() const { return {n, rows.view(), columns.view(), slot.data(), columns.natural.data()}; }
  static int64_t short_side(int64_t n);  // n1, the largest divisor of n up to its root
  static bool supports(int64_t n);
  static int64_t single_rows(int64_t n, int64_t rows, int64_t lanes);  // how many of the rows, the last, go one by one
};

}  // namespace ck
