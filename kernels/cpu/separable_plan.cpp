#include "separable_plan.h"

namespace ck {

int64_t SeparablePlan::short_side(int64_t n) {
  int64_t best = 1;
  for (int64_t side = 1; side * side <= n; side++)
    if (n % side == 0) best = side;
  return best;
}

bool SeparablePlan::supports(int64_t n) {
  const int64_t side = short_side(n);
  return CosinePlan::supports(side) && CosinePlan::supports(n / side);
}

int64_t SeparablePlan::single_rows(int64_t n, int64_t rows, int64_t lanes) {
  const int64_t side = short_side(n), rest = rows % lanes;
  return supports(n) && side % lanes == 0 && n / side % lanes == 0 && 2 * rest <= lanes ? rest : 0;
}

SeparablePlan::SeparablePlan(const CosinePlan::Key& key)
    : n(key.n),
      rows(cached<CosinePlan::Key, CosinePlan>({short_side(key.n), key.radix})),
      columns(cached<CosinePlan::Key, CosinePlan>({key.n / short_side(key.n), key.radix})) {
  for (int64_t row = 0; row < rows.n; row++)
    for (int64_t column = 0; column < columns.n; column++)
      slot.push_back(static_cast<uint32_t>(column * buffer_vectors(rows.vectors)) + rows.slot[row]);
}

}  // namespace ck
