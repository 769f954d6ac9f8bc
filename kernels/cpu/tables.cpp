#include "tables.h"

#include <cmath>

namespace ck {

DctMatrix::DctMatrix(int64_t length)
    : n(length), stride((length + 15) / 16 * 16), forward(n * stride), inverse(n * stride) {
  const double pi = std::acos(-1.0);
  for (int64_t i = 0; i < n; i++) {
    for (int64_t k = 0; k < n; k++) {
      const double scale = std::sqrt((k ? 2.0 : 1.0) / static_cast<double>(n));
      const double angle = pi * static_cast<double>((2 * i + 1) * k % (4 * n)) / (2.0 * static_cast<double>(n));
      const float entry = static_cast<float>(scale * std::cos(angle));
      forward[i * stride + k] = entry;
      inverse[k * stride + i] = entry;
    }
  }
}

}  // namespace ck
