// ck_acdc_forward_f32: the checks at the edge, and the rows shared out among threads.
#include <cmath>

#include "cosine.h"
#include "parallel.h"
#include "table.h"
#include "tables.h"

namespace ck {
namespace {

constexpr int64_t known_flags = CK_ACDC_RELU | CK_ACDC_SEPARABLE | CK_ACDC_FIRST_FIXED | CK_ACDC_INDEX_16;

bool is_valid(const ck_acdc& c) {
  return c.n >= 1 && c.k >= 1 && c.columns_in >= 1 && c.columns_in <= c.n && c.columns_out >= 1 &&
         c.columns_out <= c.n && !(c.flags & ~known_flags) && c.d && (c.a || (c.flags & CK_ACDC_FIRST_FIXED && c.k == 1));
}

int64_t index_at(const ck_acdc& c, int64_t i) {
  return c.flags & CK_ACDC_INDEX_16 ? static_cast<const uint16_t*>(c.permutation)[i]
                                    : static_cast<const int32_t*>(c.permutation)[i];
}

void row(const ck_acdc& c, const DctMatrix& table, const float* x, float* y, float* h, float* g) {
  const int64_t n = c.n;
  for (int64_t i = 0; i < n; i++) h[i] = i < c.columns_in ? x[i] : 0.0f;
  for (int64_t k = 0; k < c.k; k++) {
    const bool fixed = c.flags & CK_ACDC_FIRST_FIXED;
    const float* a = fixed && !k ? nullptr : c.a + (k - fixed) * n;
    for (int64_t i = 0; i < n; i++) {
      float v = k && c.permutation ? h[index_at(c, (k - 1) * n + i)] : h[i];
      if (k && c.flags & CK_ACDC_RELU) v = v < 0 ? 0 : v;
      g[i] = a ? v * a[i] : v;
    }
    kernels().matrix({g, h, 1, n, n, n, table.forward.get(), table.stride});
    for (int64_t i = 0; i < n; i++) h[i] = h[i] * c.d[k * n + i] + (c.bias ? c.bias[k * n + i] : 0.0f);
    kernels().matrix({h, g, 1, n, n, n, table.inverse.get(), table.stride});
    float* t = h;
    h = g;
    g = t;
  }
  for (int64_t i = 0; i < c.columns_out; i++) y[i] = h[i];
}

}  // namespace
}  // namespace ck

extern "C" int ck_acdc_forward_f32(const ck_acdc* cascade, const float* x, float* y, int64_t rows, int64_t x_stride,
                                   int64_t y_stride, int64_t threads, const ck_pool* pool) {
  using namespace ck;
  if (!cascade || !is_valid(*cascade) || rows < 0 || (rows && (!x || !y))) return CK_ERROR_ARGUMENT;
  if (cascade->flags & CK_ACDC_SEPARABLE) return CK_ERROR_UNSUPPORTED;
  if (CosinePlan::supports(cascade->n))
    return guarded([&] {
      const CosineView plan = cached<CosinePlan::Key, CosinePlan>({cascade->n, kernels().radix}).view();
      for_rows(pool, threads, rows, kernels().lanes, [&](int64_t first, int64_t last) {
        float* memory = scratch(static_cast<size_t>(kernels().acdc_scratch(*cascade, plan)));
        kernels().acdc_forward(
            {cascade, plan, x + first * x_stride, y + first * y_stride, last - first, x_stride, y_stride, memory});
      });
      return static_cast<int>(CK_OK);
    });
  return guarded([&] {
    const DctMatrix& table = cached<int64_t, DctMatrix>(cascade->n);
    for_rows(pool, threads, rows, kernels().lanes, [&](int64_t first, int64_t last) {
      float* h = scratch(2 * cascade->n);
      for (int64_t r = first; r < last; r++) row(*cascade, table, x + r * x_stride, y + r * y_stride, h, h + cascade->n);
    });
    return static_cast<int>(CK_OK);
  });
}
