// Random layers between Fourier transforms, against their matrices in double. As in stress.cpp every buffer has exactly
// its size.
#include "stress.h"

#include <complex>

#include "compressor_kernels.h"

namespace {

using Complex = std::complex<double>;

// Z_f(v) x; f = 1 is the circulant matrix of v.
Doubles shifted(const float* v, double f, const Doubles& x) {
  const int64_t n = static_cast<int64_t>(x.size());
  Doubles y(x.size());
  for (int64_t i = 0; i < n; i++)
    for (int64_t j = 0; j < n; j++) y[i] += (i >= j ? v[i - j] : f * v[n + i - j]) * x[j];
  return y;
}

// The unitary transform, or its inverse.
std::vector<Complex> transformed(const std::vector<Complex>& x, double sign) {
  const int64_t n = static_cast<int64_t>(x.size());
  std::vector<Complex> y(x.size());
  for (int64_t i = 0; i < n; i++)
    for (int64_t j = 0; j < n; j++)
      y[i] += x[j] * std::polar(1 / std::sqrt(static_cast<double>(n)), sign * 2 * std::acos(-1.0) * (i * j % n) / n);
  return y;
}

struct Case {
  int64_t n, members, in, out, rows, x_stride, y_stride, threads;
  std::vector<float> x, y, first, second, bias;
  Case(Draw& draw, int64_t length, int64_t parts, bool is_square)
      : n(length), members(draw.pick(1, 3)), in(draw.pick(1, n)), out(draw.pick(1, n)), rows(draw.pick(1, 20)),
        x_stride(in + draw.pick(0, 3)), y_stride(out + draw.pick(0, 3)), threads(draw.pick(1, 3)),
        x(draw.normals((rows - 1) * x_stride + in)), y(static_cast<size_t>((rows - 1) * y_stride + out)),
        first(draw.normals(members * parts * n)), second(draw.normals(members * parts * (is_square ? n : in))), bias(draw.normals(out)) {}

  // Whether each row of y is what `map` makes of that of x, filled up with zeros.
  template <class Map>
  bool is_right(const Map& map) const {
    std::vector<float> found;
    Doubles truth;
    for (int64_t row = 0; row < rows; row++) {
      Doubles h(static_cast<size_t>(n));
      for (int64_t i = 0; i < in; i++) h[i] = x[row * x_stride + i];
      const Doubles result = map(h);
      found.insert(found.end(), y.begin() + row * y_stride, y.begin() + row * y_stride + out);
      for (int64_t i = 0; i < out; i++) truth.push_back(result[i] + bias[i]);
    }
    return is_near(found, truth);
  }
};

int64_t even_length(Draw& draw) {
  static const int64_t sizes[] = {2, 4, 6, 8, 10, 12, 14, 16, 20, 24, 28, 30, 32, 36, 40, 42, 48, 56, 60, 64, 96, 100, 128};
  return sizes[draw.pick(0, 22)];
}

bool is_circulant_right(Draw& draw) {
  Case c(draw, even_length(draw), 1, false);
  const ck_circulant layer{c.n, c.members, c.in, c.out, 4, c.first.data(), c.second.data(), c.bias.data()};
  if (ck_circulant_forward_f32(&layer, c.x.data(), c.y.data(), c.rows, c.x_stride, c.y_stride, c.threads, nullptr))
    return false;
  return c.is_right([&](const Doubles& x) {
    Doubles sum(x.size());
    for (int64_t t = 0; t < c.members; t++) {
      Doubles h(x.size());
      for (int64_t i = 0; i < c.in; i++) h[i] = x[i] * c.second[t * c.in + i];
      const Doubles y = shifted(c.first.data() + t * c.n, 1, h);
      for (int64_t i = 0; i < c.n; i++) sum[i] += y[i];
    }
    return sum;
  });
}

bool is_toeplitz_right(Draw& draw) {
  Case c(draw, even_length(draw), 1, true);
  const ck_toeplitz layer{c.n, c.members, c.in, c.out, c.first.data(), c.second.data(), c.bias.data()};
  if (ck_toeplitz_forward_f32(&layer, c.x.data(), c.y.data(), c.rows, c.x_stride, c.y_stride, c.threads, nullptr))
    return false;
  return c.is_right([&](const Doubles& x) {
    Doubles sum(x.size());
    for (int64_t j = 0; j < c.members; j++) {
      const Doubles y = shifted(c.first.data() + j * c.n, 1, shifted(c.second.data() + j * c.n, -1, x));
      for (int64_t i = 0; i < c.n; i++) sum[i] += y[i];
    }
    return sum;
  });
}

bool is_afdf_right(Draw& draw) {
  Case c(draw, draw.pick(0, 1) ? even_length(draw) / 2 : even_length(draw), 2, true);
  const ck_afdf layer{c.n, c.members, c.in, c.out, c.first.data(), c.second.data(), c.bias.data()};
  if (ck_afdf_forward_f32(&layer, c.x.data(), c.y.data(), c.rows, c.x_stride, c.y_stride, c.threads, nullptr)) return false;
  const auto times = [&](std::vector<Complex>& h, const float* diagonal) {
    for (int64_t i = 0; i < c.n; i++) h[i] *= Complex(diagonal[i], diagonal[c.n + i]);
  };
  return c.is_right([&](const Doubles& x) {
    std::vector<Complex> h(x.begin(), x.end());
    for (int64_t k = 0; k < c.members; k++) {
      times(h, c.first.data() + 2 * k * c.n);
      h = transformed(h, -1);
      times(h, c.second.data() + 2 * k * c.n);
      h = transformed(h, 1);
    }
    Doubles y;
    for (const Complex& number : h) y.push_back(number.real());
    return y;
  });
}

}  // namespace

const char* fourier_failure(Draw& draw) {
  if (!is_circulant_right(draw)) return "circulant";
  if (!is_toeplitz_right(draw)) return "toeplitz";
  return is_afdf_right(draw) ? nullptr : "afdf";
}
