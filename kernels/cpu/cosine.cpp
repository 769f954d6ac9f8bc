#include "cosine.h"

#include <cmath>
#include <complex>

namespace ck {
std::complex<double> turn(int64_t part, int64_t whole) {
  static const double pi = std::acos(-1.0);
  const double angle = -2 * pi * static_cast<double>(part % whole) / static_cast<double>(whole);
  return {std::cos(angle), std::sin(angle)};
}

float* write_twiddles(const Pass& pass, float* at) {
  for (int64_t j = 0; j < pass.step; j++) {
    for (int64_t q = 1; q < pass.radix; q++) {
      const auto factor = turn(j * q, pass.radix * pass.step);
      *at++ = static_cast<float>(factor.real());
      *at++ = static_cast<float>(factor.imag());
    }
  }
  return at;
}

Quad::Quad(int64_t k, int64_t n) : index{-1, -1, -1, -1} {
  const int64_t m = n / 2;
  const double size = static_cast<double>(n);
  std::complex<double> c[4] = {};  // alpha, beta, alpha', beta'
  if (k) {
    const std::complex<double> i(0, 1), w = turn(k, n), scale = std::sqrt(2 / size) / 2;
    const auto near = turn(k, 4 * n), far = std::conj(turn(m - k, 4 * n));
    c[0] = scale * near * (1.0 - i * w), c[1] = scale * near * (1.0 + i * w);
    c[2] = scale * far * (1.0 + i * w), c[3] = scale * far * (1.0 - i * w);
    const int64_t indices[4] = {k, n - k, m - k, m + k};
    for (int j = 0; j < 4; j++) index[j] = static_cast<int32_t>(indices[j]);
  } else {  // Z_0 gives X_0 and X_M; Z_{M/2} gives X_{M/2} and X_{N - M/2}
    c[2] = std::complex<double>(1, 1) * std::sqrt(1 / size);
    index[2] = static_cast<int32_t>(m), index[3] = 0;
    if (m % 2 == 0) {
      c[1] = std::sqrt(2 / size) * turn(1, 16);
      index[0] = static_cast<int32_t>(m / 2), index[1] = static_cast<int32_t>(n - m / 2);
    }
  }
  for (int j = 0; j < 4; j++) {
    matrix[2 * j] = static_cast<float>(c[j].real());
    matrix[2 * j + 1] = static_cast<float>(c[j].imag());
  }
}

bool CosinePlan::supports(int64_t n) {
  if (n < 2 || n % 2 || n > (int64_t{1} << 30)) return false;
  int64_t rest = n / 2;
  for (int64_t prime : {2, 3, 5, 7})
    while (rest % prime == 0) rest /= prime;
  return rest == 1;
}

CosinePlan::CosinePlan(const Key& key) : n(key.n), m(key.n / 2) {
  choose_passes(key.radix);
  fill_twiddles();
  fill_quads();
  fill_matrix();
  pad();
}

CosineView CosinePlan::view() const {
  return {n, m, vectors, fused, passes.data(), static_cast<int64_t>(passes.size()), quads, position.data(), index.data(),
          matrix.get(), pairs.data(), slot.data(), families.data(), static_cast<int64_t>(families.size())};
}

// Outermost first: the powers of two (an 8 before any 4), then the odd primes, and 4 innermost where it fits.
void CosinePlan::choose_passes(int64_t radix) {
  fused = m % 4 == 0;
  int64_t rest = fused ? m / 4 : m;
  int bits = 0;
  std::vector<int64_t> odd;
  while (rest % 2 == 0) rest /= 2, bits++;
  for (int64_t prime : {7, 5, 3})
    while (rest % prime == 0) rest /= prime, odd.push_back(prime);
  while (bits > 0) {
    const bool is_eight = radix == 8 ? bits >= 5 || bits == 3 : bits % 2 && bits > 1 && radices_.empty();
    const int take = is_eight ? 3 : bits >= 2 ? 2 : 1;
    radices_.push_back(int64_t{1} << take);
    bits -= take;
  }
  radices_.insert(radices_.end(), odd.begin(), odd.end());
  if (radices_.empty()) radices_.push_back(1);
  int64_t step = m;
  for (int64_t radix : radices_) {
    step /= radix;
    passes.push_back({radix, step, passes.empty() ? step + PAD : step, nullptr});
  }
  if (fused) radices_.push_back(4);
}

void CosinePlan::fill_twiddles() {
  size_t total = 0;
  for (const Pass& pass : passes) total += static_cast<size_t>(2 * (pass.radix - 1) * pass.step);
  twiddle_memory_ = Floats(total + 1);
  float* at = twiddle_memory_.get();
  for (Pass& pass : passes) {
    pass.twiddles = at;
    at = write_twiddles(pass, at);
  }
}

int64_t CosinePlan::frequency(int64_t position) const {
  int64_t k = 0, weight = 1, step = m;
  for (int64_t radix : radices_) {
    step /= radix;
    k += weight * (position / step);
    position %= step;
    weight *= radix;
  }
  return k;
}

int64_t CosinePlan::position_of(int64_t k) const {
  int64_t position = 0, step = m;
  for (int64_t radix : radices_) {
    step /= radix;
    position += k % radix * step;
    k /= radix;
  }
  return position;
}

void CosinePlan::add_quad(int64_t first, int64_t second) {
  position.push_back(static_cast<int32_t>(first));
  position.push_back(static_cast<int32_t>(second));
}

// Family by family, group by group: the order in which the kernels walk through them.
void CosinePlan::fill_quads() {
  const int64_t outer = passes[0].radix, block = m / outer;
  for (int64_t b = 0; 2 * b <= outer; b++) {
    const bool is_first = b == 0;
    if (2 * b == outer && !is_first) continue;  // stands with block 0
    const int64_t partner = is_first ? (outer % 2 ? -1 : outer / 2) : outer - b;
    Family family{{b, partner}, static_cast<int64_t>(pairs.size() / 2), 0};
    for (int side = 0; side < 2; side++) {
      const int64_t own = family.blocks[side];
      if (own < 0 || (side && !is_first)) continue;
      for (int64_t p = own * block; p < (own + 1) * block; p += fused ? 4 : 1) {
        const int64_t k = frequency(p), quarter = fused ? m / 4 : m;
        const int64_t mirror = position_of(k ? quarter - k : 0);
        if (fused) {
          if (k == 0) {
            const int64_t middle = quarter % 2 ? -1 : position_of(quarter / 2);
            pairs.insert(pairs.end(), {static_cast<int32_t>(p), static_cast<int32_t>(middle)});
            add_quad(p, p + 2), add_quad(p + 1, p + 3);
            if (middle >= 0) add_quad(middle, middle + 3), add_quad(middle + 1, middle + 2);
          } else if (2 * k != quarter && (is_first ? p < mirror : true)) {
            pairs.insert(pairs.end(), {static_cast<int32_t>(p), static_cast<int32_t>(mirror)});
            for (int64_t j = 0; j < 4; j++) add_quad(p + j, mirror + 3 - j);
          }
        } else if (k == 0) {
          add_quad(p, m % 2 ? m : position_of(m / 2));  // M odd: beside the data stands one more number, always zero
        } else if (2 * k != m && (is_first ? p < mirror : true)) {
          add_quad(p, mirror);
        }
      }
    }
    family.last_pair = static_cast<int64_t>(pairs.size() / 2);
    families.push_back(family);
  }
  quads = static_cast<int64_t>(position.size() / 2);
}

// From here on, positions count the padding.
void CosinePlan::pad() {
  for (int32_t& p : position) p = static_cast<int32_t>(padded(p));
  for (int32_t& p : pairs) p = static_cast<int32_t>(padded(p));
  vectors = 2 * (padded(m) + 1);
  slot.resize(static_cast<size_t>(n));
  for (int64_t s = 0; s < n; s++) natural.push_back(static_cast<uint32_t>(s));
  for (int64_t s = 0; s < n; s++)
    slot[makhoul_source(s, n)] = static_cast<uint32_t>(2 * padded(s / 2) + s % 2);
}

void CosinePlan::fill_matrix() {
  matrix = Floats(static_cast<size_t>(8 * quads));
  for (int64_t number = 0; number < quads; number++) {
    const Quad quad(frequency(position[2 * number]), n);
    index.insert(index.end(), quad.index, quad.index + 4);
    for (int64_t i = 0; i < 8; i++) matrix[i * quads + number] = quad.matrix[i];
  }
}

}  // namespace ck
