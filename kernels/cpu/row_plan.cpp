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
          matrix.get(), second.get(), special.data()};
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
}

int64_t RowPlan::position_of(int64_t k) const {
  int64_t position = 0;
  for (const Pass& pass : passes) {
    position += k % pass.radix * pass.step;
    k /= pass.radix;
  }
  return position;
}

// The positions and factors of `lanes` neighbouring columns; a k of `length` or more is the dummy. Of 8 lanes the kernel
// loads halves: vector 4 half + i holds that half of column i and then of column i + 4.
void RowPlan::add_side(const std::vector<int64_t>& columns) {
  float* to = twist.get() + 2 * lanes * static_cast<int64_t>(position.size());
  for (int64_t i = 0; i < lanes; i++) {
    position.push_back(static_cast<int32_t>(2 * lanes * (columns[i] < length ? position_of(columns[i]) : length)));
    for (int64_t lane = 0; lane < lanes; lane++) {
      const auto factor = columns[i] < length ? turn(lane * columns[i], m) : 0;
      const bool is_halved = lanes == 8;
      const int64_t vector = is_halved ? lane / 4 * 4 + i % 4 : i, at = is_halved ? i / 4 * 4 + lane % 4 : lane;
      to[2 * vector * lanes + at] = static_cast<float>(factor.real());
      to[(2 * vector + 1) * lanes + at] = static_cast<float>(factor.imag());
    }
  }
}

// Group g holds k = gW ... gW + W - 1 (mod length) and their mirrors length - k. Lane 0 of group 0 is the odd one out:
// 0 is its own mirror, so beside it stands length / 2, which is too. What the last group has too many lies on a dummy.
void RowPlan::fill_groups() {
  groups = (length / 2 + lanes - 1) / lanes;
  twist = Floats(static_cast<size_t>(groups * 4 * lanes * lanes));
  matrix = Floats(static_cast<size_t>(groups * lanes * 4 * lanes));
  second = Floats(static_cast<size_t>(2 * lanes));
  const double scale = std::sqrt(2 / static_cast<double>(n)) / 2;
  for (int64_t g = 0; g < groups; g++) {
    std::vector<int64_t> near, far;
    for (int64_t k = g * lanes; k < (g + 1) * lanes; k++) {
      near.push_back(2 * k < length ? k : length);
      far.push_back(2 * k < length ? (k ? length - k : length / 2) : length);
    }
    add_side(near), add_side(far);
    for (int64_t slot = 0; slot < lanes; slot++) {
      for (int64_t lane = 0; lane < lanes; lane++) {
        int64_t k = g * lanes + lane + length * slot;
        if (g * lanes + lane == 0 && slot >= lanes / 2) k = length / 2 + length * (slot - lanes / 2);
        const std::complex<double> i(0, 1), nu = scale * turn(k ? k : n / 4, 4 * n), iw = k ? i * turn(k, n) : 1;
        const double values[] = {iw.real(), iw.imag(), nu.real(), nu.imag()};
        for (int64_t j = 0; j < 4; j++) matrix[((g * lanes + slot) * 4 + j) * lanes + lane] = static_cast<float>(values[j]);
        const Quad quad(k, n);
        if (g * lanes + lane == 0) special.insert(special.end(), quad.index, quad.index + 4);
        if (g || slot) continue;
        second[lane] = static_cast<float>(k ? nu.real() : scale);
        second[lanes + lane] = static_cast<float>(k ? nu.imag() : 0);
      }
    }
  }
}

}  // namespace ck
