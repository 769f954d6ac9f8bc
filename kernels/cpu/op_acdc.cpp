// ck_acdc_forward_f32: the checks at the edge, and the rows shared out among threads.
#include <cmath>

#include "cosine.h"
#include "parallel.h"
#include "row_plan.h"
#include "separable_plan.h"
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

struct Matrices {
  const ck_acdc* cascade;
  const float* x;
  float* y;
  int64_t x_stride, y_stride;
};

// Rows on the lanes, and the few that do not fill the lanes one by one, where that is quicker.
int fast(const Matrices& c, int64_t rows, int64_t threads, const ck_pool* pool) {
  const Kernels& build = kernels();
  const bool can_single = RowPlan::supports(c.cascade->n, build.lanes);
  const int64_t singles = can_single ? single_rows(rows, build.lanes) : 0;
  if (rows > singles) {
    const CosineView plan = cached<CosinePlan::Key, CosinePlan>({c.cascade->n, build.radix}).view();
    for_rows(pool, threads, rows - singles, build.lanes, [&](int64_t first, int64_t last) {
      build.acdc_forward({c.cascade, plan, c.x + first * c.x_stride, c.y + first * c.y_stride, last - first, c.x_stride,
                          c.y_stride, scratch(static_cast<size_t>(build.acdc_scratch(*c.cascade, plan)))});
    });
  }
  if (singles) {
    const RowView plan = cached<RowPlan::Key, RowPlan>({c.cascade->n, build.lanes}).view();
    const int64_t first = rows - singles;
    build.acdc_row_forward({c.cascade, plan, c.x + first * c.x_stride, c.y + first * c.y_stride, singles, c.x_stride,
                            c.y_stride, scratch(static_cast<size_t>(2 * (c.cascade->n + build.lanes)))});
  }
  return CK_OK;
}

int separable(const Matrices& c, int64_t rows, int64_t threads, const ck_pool* pool) {
  const Kernels& build = kernels();
  const SeparableView plan = cached<CosinePlan::Key, SeparablePlan>({c.cascade->n, build.radix}).view();
  const auto call = [&](int64_t first, int64_t last, int64_t floats) {
    return SeparableCall{c.cascade, plan, c.x + first * c.x_stride, c.y + first * c.y_stride, last - first, c.x_stride,
                         c.y_stride, scratch(static_cast<size_t>(floats))};
  };
  const int64_t singles = SeparablePlan::single_rows(c.cascade->n, rows, build.lanes);
  for_rows(pool, threads, rows - singles, build.lanes, [&](int64_t first, int64_t last) {
    build.separable_forward(call(first, last, build.separable_scratch(*c.cascade, plan)));
  });
  if (singles) build.separable_row_forward(call(rows - singles, rows, build.separable_row_scratch(plan)));
  return CK_OK;
}

// The gradients of a cascade: each stretch of rows has sums of its own for the parameters, added up in a fixed order.
struct Gradients {
  const ck_acdc* cascade;
  const float *x, *gy;
  float *gx, *ga, *gd, *gbias;
  int64_t x_stride, gy_stride, gx_stride;

  template <class Call, class Plan>
  void fill(const Plan& plan, void (*kernel)(const Call&), int64_t scratch_floats, int64_t rows, int64_t threads,
            const ck_pool* pool) const {
    const ck_acdc& c = *cascade;
    const int64_t of_a = (c.k - (c.flags & CK_ACDC_FIRST_FIXED ? 1 : 0)) * c.n, of_d = c.k * c.n;
    const int64_t size = of_a + 2 * of_d, lanes = kernels().lanes, parts = stretches(pool, threads, rows, lanes);
    const Floats totals(static_cast<size_t>(size * 2 * (parts + 1)));  // in each stretch: all of it, and a piece
    for_rows(pool, threads, rows, lanes, [&](int64_t first, int64_t last, int64_t part) {
      float *total = totals.get() + 2 * part * size, *piece = total + size;
      float* memory = scratch(static_cast<size_t>(scratch_floats));
      const int64_t most = 64 * lanes;  // short sums first: their rounding errors do not pile up
      for (int64_t row = first; row < last; row += most) {
        for (int64_t i = 0; i < size; i++) piece[i] = 0;
        kernel({cascade, plan, x + row * x_stride, gy + row * gy_stride, gx + row * gx_stride,
                last - row < most ? last - row : most, x_stride, gy_stride, gx_stride, piece, piece + of_a,
                piece + of_a + of_d, memory});
        for (int64_t i = 0; i < size; i++) total[i] += piece[i];
      }
    });
    float* sum = totals.get();
    for (int64_t part = 1; part < parts; part++)
      for (int64_t i = 0; i < size; i++) sum[i] += sum[2 * part * size + i];
    for (int64_t i = 0; i < of_a; i++) ga[i] = sum[i];
    for (int64_t i = 0; i < of_d; i++) gd[i] = sum[of_a + i];
    if (gbias)
      for (int64_t i = 0; i < of_d; i++) gbias[i] = sum[of_a + of_d + i];
  }
};

}  // namespace
}  // namespace ck

extern "C" int ck_acdc_forward_f32(const ck_acdc* cascade, const float* x, float* y, int64_t rows, int64_t x_stride,
                                   int64_t y_stride, int64_t threads, const ck_pool* pool) {
  using namespace ck;
  if (!cascade || !is_valid(*cascade) || rows < 0 || (rows && (!x || !y))) return CK_ERROR_ARGUMENT;
  if (cascade->flags & CK_ACDC_SEPARABLE) {
    if (!SeparablePlan::supports(cascade->n)) return CK_ERROR_UNSUPPORTED;
    return guarded([&] { return separable({cascade, x, y, x_stride, y_stride}, rows, threads, pool); });
  }
  if (CosinePlan::supports(cascade->n))
    return guarded([&] { return fast({cascade, x, y, x_stride, y_stride}, rows, threads, pool); });
  return guarded([&] {
    const DctMatrix& table = cached<int64_t, DctMatrix>(cascade->n);
    for_rows(pool, threads, rows, kernels().lanes, [&](int64_t first, int64_t last) {
      float* h = scratch(2 * cascade->n);
      for (int64_t r = first; r < last; r++) row(*cascade, table, x + r * x_stride, y + r * y_stride, h, h + cascade->n);
    });
    return static_cast<int>(CK_OK);
  });
}

extern "C" int ck_acdc_backward_f32(const ck_acdc* cascade, const float* x, const float* gy, float* gx, float* ga,
                                    float* gd, float* gbias, int64_t rows, int64_t x_stride, int64_t gy_stride,
                                    int64_t gx_stride, int64_t threads, const ck_pool* pool) {
  using namespace ck;
  if (!cascade || !is_valid(*cascade) || rows < 0 || (rows && (!x || !gy || !gx)) || !gd) return CK_ERROR_ARGUMENT;
  const bool is_separable = cascade->flags & CK_ACDC_SEPARABLE;
  if (!(is_separable ? SeparablePlan::supports : CosinePlan::supports)(cascade->n)) return CK_ERROR_UNSUPPORTED;
  const Gradients to{cascade, x, gy, gx, ga, gd, gbias, x_stride, gy_stride, gx_stride};
  return guarded([&] {
    const Kernels& build = kernels();
    const CosinePlan::Key key{cascade->n, build.radix};
    if (is_separable) {
      const SeparableView plan = cached<CosinePlan::Key, SeparablePlan>(key).view();
      to.fill<SeparableBackwardCall>(plan, build.separable_backward, build.separable_backward_scratch(*cascade, plan),
                                     rows, threads, pool);
    } else {
      const CosineView plan = cached<CosinePlan::Key, CosinePlan>(key).view();
      to.fill<AcdcBackwardCall>(plan, build.acdc_backward, build.acdc_backward_scratch(*cascade, plan), rows, threads,
                                pool);
    }
    return static_cast<int>(CK_OK);
  });
}
