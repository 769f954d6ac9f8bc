// What the cosine transform of one single row needs, the row itself lying across the lanes.
//
// z as a matrix of `length` vectors of W: a Fourier transform of each column (the passes, as with rows on lanes), the
// factors `twist`, and one of W across the lanes, for which W vectors at a time are turned around. Afterwards lanes are
// neighbouring k below `length`, and vector number j holds k + length j.
//
// T of a quad (cosine.h) has a structure: with E = z + conj(y) and O = iw (z - conj(y)), where w = exp(-2 pi i k / N), the
// coefficients are those of nu (E - O) and of nu (E + O) exp(i pi / 4), nu = exp(-2 pi i k / 4N) sqrt(2 / N) / 2. Quad 0
// has iw = 1 and a nu of its own for each of the two.
#pragma once

#include <cstdint>
#include <vector>

#include "table.h"
#include "tables.h"

namespace ck {

// How many of `rows` are quicker one by one than together on lanes that they do not fill. Where there are no others, the
// lanes' tables would be made for them alone.
inline int64_t single_rows(int64_t rows, int64_t lanes) {
  const int64_t rest = rows % lanes;
  return rows < lanes ? (4 * rest <= 3 * lanes ? rest : 0) : 2 * rest < lanes ? rest : 0;
}

struct RowPlan {
  int64_t n, m, lanes, length;
  std::vector<Pass> passes;
  Floats twiddles, twist;         // twist: (groups, 2, lanes, 2, lanes) like position; 8 lanes: halves exchanged
  int64_t groups;
  std::vector<int32_t> position;  // (groups, 2, lanes), in floats: of k and of its mirror, or of the dummy beyond the end
  Floats matrix;                  // (groups, lanes, 4, lanes): iw and nu
  Floats second;                  // (2, lanes): nu of the second half in slot 0 of group 0
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
  void add_side(const std::vector<int64_t>& k);
  int64_t position_of(int64_t k) const;
};

}  // namespace ck
