#include "row_plan.h"

#include <cmath>
#include <complex>

#include "cosine.h"

namespace ck {

bool RowPlan::supports(int64_t n, int64_t lanes) {
  return CosinePlan::supports(n) && n % (4 * lanes) == 0 && n >= 4 * lanes * lanes;
}

RowPlan::RowPlan(const Key& key) : n(key.n), m(key.n / 2), lanes(key.lanes), length(key.n / 2 / key.lanes) {
  choose_radices();
  fill_twiddles();
  fill_groups();
}

RowView RowPlan::view() const {
  return {n, m, length, passes.data(), static_cast<int64_t>(passes.size()), twist.get(), position.data(), groups,
          matrix.get(), special.data()};
}

void RowPlan::choose_radices() {
  int64_t rest = length, step = length;
  std::vector<int64_t> radices;
  for (int64_t radix : {4, 2, 7, 5, 3})
    while (rest % radix == 0) rest /= radix, radices.push_back(radix);
  for (int64_t radix : radices) {
    step /= radix;
    passes.push_back({radix, step, step, nullptr});
  }
}

void RowPlan::fill_twiddles() {
  size_t total = 0;
  for (const Pass& pass : passes) total += static_cast<size_t>(2 * (pass.radix - 1) * pass.step);
  twiddles = Floats(total + 1);
  float* at = twiddles.get();
  for (Pass& pass : passes) {
    pass.twiddles = at;
    at = write_twiddles(pass, at);
  }
  twist = Floats(static_cast<size_t>(2 * m + 2 * lanes));
  for (int64_t k = 0; k < length; k++) {
    for (int64_t lane = 0; lane < lanes; lane++) {
      const auto factor = turn(lane * k, m);
      twist[(2 * position_of(k)) * lanes + lane] = static_cast<float>(factor.real());
      twist[(2 * position_of(k) + 1) * lanes + lane] = static_cast<float>(factor.imag());
    }
  }
}

int64_t RowPlan::position_of(int64_t k) const {
  int64_t position = 0;
  for (const Pass& pass : passes) {
    position += k % pass.radix * pass.step;
    k /= pass.radix;
  }
  return position;
}

// Group g holds k = gW ... gW + W - 1 (mod length) and their mirrors length - k. Lane 0 of group 0 is the odd one out:
// 0 is its own mirror, so beside it stands length / 2, which is too. What the last group has too many lies on a dummy.
void RowPlan::fill_groups() {
  groups = (length / 2 + lanes - 1) / lanes;
  matrix = Floats(static_cast<size_t>(groups * lanes * 8 * lanes));
  for (int64_t g = 0; g < groups; g++) {
    for (int64_t k = g * lanes; k < (g + 1) * lanes; k++)
      position.push_back(static_cast<int32_t>(2 * k < length ? position_of(k) : length));
    for (int64_t k = g * lanes; k < (g + 1) * lanes; k++) {
      const int64_t mirror = k ? length - k : length / 2;
      position.push_back(static_cast<int32_t>(2 * k < length ? position_of(mirror) : length));
    }
    for (int64_t slot = 0; slot < lanes; slot++) {
      for (int64_t lane = 0; lane < lanes; lane++) {
        int64_t k = g * lanes + lane + length * slot;
        if (g * lanes + lane == 0 && slot >= lanes / 2) k = length / 2 + length * (slot - lanes / 2);
        const Quad quad(k, n);
        for (int64_t i = 0; i < 8; i++) matrix[((g * lanes + slot) * 8 + i) * lanes + lane] = quad.matrix[i];
        if (g * lanes + lane == 0) special.insert(special.end(), quad.index, quad.index + 4);
      }
    }
  }
}

}  // namespace ck
