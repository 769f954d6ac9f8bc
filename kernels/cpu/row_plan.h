// What the cosine transform of one single row needs, the row itself lying across the lanes.
//
// z as a matrix of `length` vectors of W: a Fourier transform of each column (the passes, as with rows on lanes), the
// factors `twist`, and one of W across the lanes, for which W vectors at a time are turned around. Afterwards lanes are
// neighbouring k below `length`, and vector number j holds k + length j.
#pragma once

#include <cstdint>
#include <vector>

#include "table.h"
#include "tables.h"

namespace ck {

struct RowPlan {
  int64_t n, m, lanes, length;
  std::vector<Pass> passes;
  Floats twiddles, twist;         // twist: (length, 2, lanes) by position
  int64_t groups;
  std::vector<int32_t> position;  // (groups, 2, lanes): of k and of its mirror; `length`: a dummy
  Floats matrix;                  // (groups, lanes, 8, lanes), T as in CosineView
  std::vector<int32_t> special;   // (lanes, 4): CosineView::index for lane 0 of group 0

  struct Key {
    int64_t n, lanes;
    bool operator<(const Key& other) const { return n != other.n ? n < other.n : lanes < other.lanes; }
  };
  explicit RowPlan(const Key& key);
  RowView view() const;
  static bool supports(int64_t n, int64_t lanes);

 private:
  void choose_radices();
  void fill_twiddles();
  void fill_groups();
  int64_t position_of(int64_t k) const;
};

}  // namespace ck
