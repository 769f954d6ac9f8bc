// ck_dct_f32 and ck_idct_f32.
#include "cosine.h"
#include "parallel.h"
#include "table.h"
#include "tables.h"

namespace ck {
namespace {

int transform(const float* x, float* y, int64_t rows, int64_t n, int64_t x_stride, int64_t y_stride, int64_t threads,
              const ck_pool* pool, bool inverse) {
  if (n < 1 || rows < 0 || (rows && (!x || !y))) return CK_ERROR_ARGUMENT;
  if (CosinePlan::supports(n))
    return guarded([&] {
      const Kernels& build = kernels();
      const CosinePlan& plan = cached<CosinePlan::Key, CosinePlan>({n, build.radix});
      for_rows(pool, threads, rows, build.lanes, [&](int64_t first, int64_t last) {
        build.dct({plan.view(), plan.natural.data(), inverse, x + first * x_stride, y + first * y_stride, last - first,
                   x_stride, y_stride, scratch(static_cast<size_t>(build.dct_scratch(plan.view())))});
      });
      return static_cast<int>(CK_OK);
    });
  return guarded([&] {
    const DctMatrix& table = cached<int64_t, DctMatrix>(n);
    for_rows(pool, threads, rows, kernels().lanes, [&](int64_t first, int64_t last) {
      kernels().matrix({x + first * x_stride, y + first * y_stride, last - first, n, x_stride, y_stride,
                        (inverse ? table.inverse : table.forward).get(), table.stride});
    });
    return static_cast<int>(CK_OK);
  });
}

}  // namespace
}  // namespace ck

extern "C" int ck_dct_f32(const float* x, float* y, int64_t rows, int64_t n, int64_t x_stride, int64_t y_stride,
                          int64_t threads, const ck_pool* pool) {
  return ck::transform(x, y, rows, n, x_stride, y_stride, threads, pool, false);
}

extern "C" int ck_idct_f32(const float* x, float* y, int64_t rows, int64_t n, int64_t x_stride, int64_t y_stride,
                           int64_t threads, const ck_pool* pool) {
  return ck::transform(x, y, rows, n, x_stride, y_stride, threads, pool, true);
}
