// What the random cases of ck_stress are drawn from.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <random>
#include <vector>

using Doubles = std::vector<double>;

class Draw {
 public:
  explicit Draw(unsigned seed) : random_(seed) {}
  int64_t pick(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(random_); }
  std::vector<float> normals(int64_t count, float mean = 0, float width = 1) {
    std::vector<float> v(static_cast<size_t>(count));
    for (float& e : v) e = mean + width * normal_(random_);
    return v;
  }
  std::vector<int32_t> permutation(int64_t n) {
    std::vector<int32_t> order(static_cast<size_t>(n));
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), random_);
    return order;
  }

 private:
  std::mt19937 random_;
  std::normal_distribution<float> normal_;
};

constexpr double tolerance = 1e-5;  // of the norm of what came out

inline bool is_near(const std::vector<float>& found, const Doubles& truth) {
  double error = 0, norm = 0;
  for (size_t i = 0; i < truth.size(); i++) error += std::pow(found[i] - truth[i], 2), norm += std::pow(truth[i], 2);
  return error <= tolerance * tolerance * (norm + 1);
}

// One case of each layer but the cascades; which of them is wrong, or NULL.
const char* structured_failure(Draw& draw);
const char* fourier_failure(Draw& draw);
