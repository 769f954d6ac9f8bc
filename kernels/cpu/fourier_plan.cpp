#include "fourier_plan.h"

namespace ck {

FourierPlan::FourierPlan(const CosinePlan::Key& key)
    : cosine(cached<CosinePlan::Key, CosinePlan>(key)),
      turns(static_cast<size_t>(2 * cosine.quads)),
      twist(static_cast<size_t>(2 * cosine.m)) {
  const int64_t n = cosine.n, m = cosine.m;
  for (int64_t i = 0; i < n; i++) {
    pairs.push_back(static_cast<uint32_t>(2 * cosine.padded(i / 2) + i % 2));
    halves.push_back(static_cast<uint32_t>(2 * cosine.padded(i % m) + i / m));
  }
  std::vector<int64_t> at(static_cast<size_t>(cosine.vectors));  // the frequency at each place, with the padding
  for (int64_t p = 0; p < m; p++) {
    frequency.push_back(static_cast<int32_t>(cosine.frequency(p)));
    at[static_cast<size_t>(cosine.padded(p))] = frequency.back();
    const std::complex<double> factor = std::conj(turn(p, 2 * n));
    twist[2 * p] = static_cast<float>(factor.real()), twist[2 * p + 1] = static_cast<float>(factor.imag());
  }
  for (int64_t quad = 0; quad < cosine.quads; quad++) {
    const std::complex<double> factor = -turn(2 * at[static_cast<size_t>(cosine.position[2 * quad])], n);
    turns[2 * quad] = static_cast<float>(factor.real()), turns[2 * quad + 1] = static_cast<float>(factor.imag());
  }
}

FourierView FourierPlan::view() const {
  return {cosine.view(), pairs.data(), halves.data(), turns.get(), twist.get(), frequency.data()};
}

}  // namespace ck
