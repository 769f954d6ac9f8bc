// Random Fastfood stacks, Monarch and sparse products, against the formulas in double. As in stress.cpp every buffer has
// exactly its size. Gradients are computed for the sanitizers only: the tests compare them.
#include "stress.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "compressor_kernels.h"

namespace {

void transform(Doubles& h) {
  for (size_t step = 1; step < h.size(); step *= 2)
    for (size_t i = 0; i < h.size(); i++)
      if (!(i & step)) {
        const double a = h[i], b = h[i + step];
        h[i] = a + b, h[i + step] = a - b;
      }
}

bool is_fastfood_right(Draw& draw) {
  const int64_t d = int64_t{1} << draw.pick(0, 8), blocks = draw.pick(1, 3), rows = draw.pick(1, 9), in = draw.pick(1, d);
  const int64_t width = (blocks - 1) * d + draw.pick(1, d), threads = draw.pick(1, 3);
  const std::vector<float> x = draw.normals(rows * in), b = draw.normals(blocks * d), g = draw.normals(blocks * d);
  const std::vector<float> s = draw.normals(width), shift = draw.normals(width);
  std::vector<int32_t> index;
  for (int64_t block = 0; block < blocks; block++) {
    const std::vector<int32_t> order = draw.permutation(d);
    index.insert(index.end(), order.begin(), order.end());
  }
  const std::vector<uint16_t> index16(index.begin(), index.end());
  const bool is_short = draw.pick(0, 1), is_bent = draw.pick(0, 1);
  const bool is_shifted = !is_bent && draw.pick(0, 1);
  const float scale = 1 / static_cast<float>(d);
  const void* order = is_short ? static_cast<const void*>(index16.data()) : index.data();
  const ck_fastfood stack{d, blocks, in, width, is_bent ? CK_FASTFOOD_RELU : CK_FASTFOOD_LINEAR,
                          is_short ? CK_FASTFOOD_INDEX_16 : 0, scale, 1, b.data(), g.data(), s.data(), order,
                          is_shifted ? shift.data() : nullptr};
  std::vector<float> y(static_cast<size_t>(rows * width));
  if (ck_fastfood_forward_f32(&stack, x.data(), y.data(), rows, in, width, threads, nullptr)) return false;
  Doubles truth;
  for (int64_t row = 0; row < rows; row++)
    for (int64_t block = 0; block < blocks; block++) {
      Doubles h(static_cast<size_t>(d)), p(h.size());
      for (int64_t i = 0; i < in; i++) h[i] = x[row * in + i] * b[block * d + i];
      transform(h);
      for (int64_t i = 0; i < d; i++) p[i] = h[index[block * d + i]] * g[block * d + i];
      transform(p);
      for (int64_t i = 0; i < d && block * d + i < width; i++) {
        const double v = p[i] * s[block * d + i] * scale + (is_shifted ? shift[block * d + i] : 0);
        truth.push_back(is_bent && v < 0 ? 0 : v);
      }
    }
  std::vector<float> gx(x.size()), gb(b.size()), gg(g.size()), gs(s.size());
  return is_near(y, truth) && !ck_fastfood_backward_f32(&stack, x.data(), y.data(), gx.data(), gb.data(), gg.data(),
                                                        gs.data(), rows, in, width, threads, nullptr);
}

bool is_monarch_right(Draw& draw) {
  const int64_t k = draw.pick(1, 20), p = draw.pick(1, 20), q = draw.pick(1, 20), rank = draw.pick(1, 3);
  const int64_t rows = draw.pick(1, 33), in = draw.pick(1, k * p), out = draw.pick(1, k * q), hidden = k * rank;
  const std::vector<float> x = draw.normals(rows * in), first = draw.normals(k * hidden * p);
  const std::vector<float> second = draw.normals(k * q * hidden), bias = draw.normals(out);
  const ck_monarch stack{k, rank, p, q, in, out, first.data(), second.data(), bias.data()};
  std::vector<float> y(static_cast<size_t>(rows * out));
  if (ck_monarch_forward_f32(&stack, x.data(), y.data(), rows, in, out, draw.pick(1, 3), nullptr)) return false;
  Doubles truth;
  for (int64_t row = 0; row < rows; row++) {
    Doubles h(static_cast<size_t>(k * hidden));
    for (int64_t i = 0; i < k; i++)
      for (int64_t c = 0; c < hidden; c++)
        for (int64_t t = 0; t < p && i * p + t < in; t++)
          h[i * hidden + c] += double{first[(i * hidden + c) * p + t]} * x[row * in + i * p + t];
    for (int64_t o = 0; o < out; o++) {
      double sum = bias[o];
      for (int64_t c = 0; c < hidden; c++)
        sum += second[((o % k) * q + o / k) * hidden + c] * h[c / rank * hidden + o % k * rank + c % rank];
      truth.push_back(sum);
    }
  }
  if (!is_near(y, truth)) return false;
  // Without bias the product is linear in x, in first and in second, so that <gradient, each> is <grad_y, y>.
  std::vector<float> gx(x.size()), gf(first.size()), gs(second.size());
  const std::vector<float> gy = draw.normals(rows * out);
  if (ck_monarch_backward_f32(&stack, x.data(), gy.data(), gx.data(), gf.data(), gs.data(), rows, in, out, draw.pick(1, 3),
                              nullptr))
    return false;
  double whole = 0, size = 0;
  for (size_t i = 0; i < gy.size(); i++) {
    const double value = truth[i] - bias[i % static_cast<size_t>(out)];
    whole += gy[i] * value, size += std::abs(gy[i] * value);
  }
  const auto is_whole = [&](const std::vector<float>& a, const std::vector<float>& b) {
    double sum = 0;
    for (size_t i = 0; i < a.size(); i++) sum += double{a[i]} * b[i];
    return std::abs(sum - whole) <= 1e-4 * (size + 1);
  };
  return is_whole(gx, x) && is_whole(gf, first) && is_whole(gs, second);
}

bool is_sparse_right(Draw& draw) {
  const int64_t in = draw.pick(1, 200), out = draw.pick(1, 60), rows = draw.pick(1, 70), threads = draw.pick(1, 3);
  const int64_t block = draw.pick(0, 1) ? 1 : draw.pick(1, 40);
  std::vector<uint8_t> columns, lengths;
  for (int64_t o = 0; o < out; o += block) {
    const int64_t length = draw.pick(0, std::min<int64_t>(in, 40));
    lengths.push_back(static_cast<uint8_t>(length));
    std::vector<int32_t> order = draw.permutation(in);
    std::sort(order.begin(), order.begin() + length);
    columns.insert(columns.end(), order.begin(), order.begin() + length);
  }
  const int64_t count = static_cast<int64_t>(columns.size());
  const std::vector<float> x = draw.normals(rows * in), values = draw.normals(count * block), bias = draw.normals(out);
  const ck_csr matrix{in, out, block, count, 1, 1, columns.data(), lengths.data(), values.data(), bias.data()};
  std::vector<float> y(static_cast<size_t>(rows * out)), gx(x.size()), gv(values.size());
  if (ck_csr_forward_f32(&matrix, x.data(), y.data(), rows, in, out, threads, nullptr)) return false;
  Doubles truth;
  for (int64_t row = 0; row < rows; row++)
    for (int64_t o = 0, first = 0; o < out; o++) {
      const int64_t end = first + lengths[o / block];
      double sum = bias[o];
      for (int64_t at = first; at < end; at++) sum += double{values[at * block + o % block]} * x[row * in + columns[at]];
      truth.push_back(sum);
      if (o % block == block - 1) first = end;
    }
  return is_near(y, truth) && !ck_csr_backward_f32(&matrix, x.data(), y.data(), gx.data(), gv.data(), rows, in, out,
                                                   threads, nullptr);
}

}  // namespace

const char* structured_failure(Draw& draw) {
  if (!is_fastfood_right(draw)) return "fastfood";
  if (!is_monarch_right(draw)) return "monarch";
  return is_sparse_right(draw) ? nullptr : "csr";
}
