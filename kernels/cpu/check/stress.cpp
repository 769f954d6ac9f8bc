// Random cascades from two threads at once, against the formula in double. Built with sanitizers by CK_SANITIZE: every
// buffer has exactly its size, so that a read beside it is seen. Usage: ck_stress SECONDS SEED
#include "stress.h"

#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "compressor_kernels.h"

namespace {

struct Case {
  int64_t n, k, rows, in, out, x_stride, y_stride, threads;
  bool is_relu, is_fixed, is_short, is_separable;
  std::vector<float> x, a, d, bias, gy;
  std::vector<uint16_t> index16;
  std::vector<int32_t> index32;

  ck_acdc cascade() const {
    const int64_t flags = (is_relu ? CK_ACDC_RELU : 0) | (is_fixed ? CK_ACDC_FIRST_FIXED : 0) |
                          (is_short ? CK_ACDC_INDEX_16 : 0) | (is_separable ? CK_ACDC_SEPARABLE : 0);
    const void* index = is_short ? static_cast<const void*>(index16.data()) : index32.data();
    return {n, k, in, out, flags, a.data(), d.data(), bias.empty() ? nullptr : bias.data(),
            index16.empty() ? nullptr : index};
  }
};

int64_t short_side(int64_t n) {
  int64_t best = 1;
  for (int64_t side = 1; side * side <= n; side++)
    if (n % side == 0) best = side;
  return best;
}

Case random_case(Draw& draw) {
  static const int64_t sizes[] = {2,  4,  6,  8,  10, 12, 14, 16, 20,  24,  28,  30,  32,  36,  40,  42,
                                  48, 56, 60, 64, 70, 80, 96, 98, 100, 112, 128, 144, 160, 192, 256, 320};
  Case c{};
  c.n = sizes[draw.pick(0, 31)], c.k = draw.pick(1, 4), c.rows = draw.pick(1, 40), c.threads = draw.pick(1, 3);
  c.in = draw.pick(0, 1) ? c.n : draw.pick(1, c.n), c.out = draw.pick(0, 1) ? c.n : draw.pick(1, c.n);
  c.x_stride = c.in + draw.pick(0, 3), c.y_stride = c.out + draw.pick(0, 3);
  c.is_relu = draw.pick(0, 1), c.is_fixed = draw.pick(0, 3) == 0, c.is_short = draw.pick(0, 1);
  const int64_t side = short_side(c.n);
  c.is_separable = side % 2 == 0 && c.n / side % 2 == 0 && draw.pick(0, 1);
  c.x = draw.normals((c.rows - 1) * c.x_stride + c.in), c.gy = draw.normals((c.rows - 1) * c.y_stride + c.out);
  c.a = draw.normals((c.k - c.is_fixed) * c.n, 1, 0.3f), c.d = draw.normals(c.k * c.n, 1, 0.3f);
  if (draw.pick(0, 2)) c.bias = draw.normals(c.k * c.n);
  if (draw.pick(0, 3) && c.k > 1) {
    for (int64_t member = 1; member < c.k; member++) {
      const std::vector<int32_t> order = draw.permutation(c.n);
      c.index32.insert(c.index32.end(), order.begin(), order.end());
    }
    c.index16.assign(c.index32.begin(), c.index32.end());
  }
  return c;
}

double cosine(int64_t n, int64_t i, int64_t j) {
  return std::sqrt((j ? 2.0 : 1.0) / n) * std::cos(std::acos(-1.0) * ((2 * i + 1) * j % (4 * n)) / (2 * n));
}

Doubles cosines(int64_t n, bool is_separable) {
  Doubles table(static_cast<size_t>(n * n));
  const int64_t n1 = is_separable ? short_side(n) : 1, n2 = n / n1;
  for (int64_t i = 0; i < n; i++)
    for (int64_t j = 0; j < n; j++) table[i * n + j] = cosine(n1, i / n2, j / n2) * cosine(n2, i % n2, j % n2);
  return table;
}

Doubles row_of(const Case& c, const Doubles& table, const float* x) {
  Doubles h(static_cast<size_t>(c.n)), g(h.size());
  for (int64_t i = 0; i < c.in; i++) h[i] = x[i];
  for (int64_t k = 0; k < c.k; k++) {
    for (int64_t i = 0; i < c.n; i++) {
      double v = k && !c.index32.empty() ? h[c.index32[(k - 1) * c.n + i]] : h[i];
      if (k && c.is_relu && v < 0) v = 0;
      g[i] = k >= c.is_fixed ? v * c.a[(k - c.is_fixed) * c.n + i] : v;
    }
    Doubles s(h.size());
    for (int64_t i = 0; i < c.n; i++)
      for (int64_t j = 0; j < c.n; j++) s[j] += g[i] * table[i * c.n + j];
    for (int64_t j = 0; j < c.n; j++) s[j] = s[j] * c.d[k * c.n + j] + (c.bias.empty() ? 0 : c.bias[k * c.n + j]);
    for (int64_t i = 0; i < c.n; i++) {
      h[i] = 0;
      for (int64_t j = 0; j < c.n; j++) h[i] += s[j] * table[i * c.n + j];
    }
  }
  return h;
}

bool is_right(const Case& c) {
  const ck_acdc cascade = c.cascade();
  std::vector<float> y(static_cast<size_t>((c.rows - 1) * c.y_stride + c.out));
  if (ck_acdc_forward_f32(&cascade, c.x.data(), y.data(), c.rows, c.x_stride, c.y_stride, c.threads, nullptr)) return false;
  const Doubles table = cosines(c.n, c.is_separable);
  double error = 0, norm = 0;
  for (int64_t row = 0; row < c.rows; row++) {
    const Doubles truth = row_of(c, table, c.x.data() + row * c.x_stride);
    for (int64_t i = 0; i < c.out; i++) {
      error += std::pow(y[row * c.y_stride + i] - truth[i], 2);
      norm += std::pow(truth[i], 2);
    }
  }
  std::vector<float> gx(static_cast<size_t>(c.rows * c.in)), ga(c.a.size()), gd(c.d.size()), gbias(c.d.size());
  if (ck_acdc_backward_f32(&cascade, c.x.data(), c.gy.data(), gx.data(), ga.data(), gd.data(), gbias.data(), c.rows,
                           c.x_stride, c.y_stride, c.in, c.threads, nullptr))
    return false;
  std::vector<float> back(c.x.size()), there(c.x.size());
  if (ck_dct_f32(c.x.data(), there.data(), c.rows, c.in, c.x_stride, c.x_stride, c.threads, nullptr)) return false;
  if (ck_idct_f32(there.data(), back.data(), c.rows, c.in, c.x_stride, c.x_stride, c.threads, nullptr)) return false;
  for (int64_t row = 0; row < c.rows; row++)
    for (int64_t i = 0; i < c.in; i++)
      if (std::abs(back[row * c.x_stride + i] - c.x[row * c.x_stride + i]) > 1e-4) return false;
  return error <= 1e-11 * norm + 1e-11;
}

}  // namespace

int main(int count, char** words) {
  const double seconds = count > 1 ? std::atof(words[1]) : 5;
  const unsigned seed = count > 2 ? static_cast<unsigned>(std::atoi(words[2])) : 0;
  int failures[2] = {}, cases[2] = {};
  const auto work = [&](int which) {
    Draw draw(seed * 2 + static_cast<unsigned>(which));
    const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
    do {
      cases[which]++;
      for (const auto failure : {structured_failure, fourier_failure})
        if (const char* op = failure(draw)) failures[which]++, std::printf("wrong: %s\n", op);
      const Case c = random_case(draw);
      if (is_right(c)) continue;
      failures[which]++;
      std::printf("wrong: n %ld k %ld rows %ld in %ld out %ld%s\n", static_cast<long>(c.n), static_cast<long>(c.k),
                  static_cast<long>(c.rows), static_cast<long>(c.in), static_cast<long>(c.out), c.is_separable ? " separable" : "");
    } while (std::chrono::steady_clock::now() < end);
  };
  std::thread other(work, 1);
  work(0);
  other.join();
  std::printf("%d cases, %d wrong\n", cases[0] + cases[1], failures[0] + failures[1]);
  return failures[0] + failures[1] ? 1 : 0;
}
