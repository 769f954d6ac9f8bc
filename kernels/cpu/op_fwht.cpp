// ck_fwht_f32.
#include "parallel.h"
#include "table.h"

extern "C" int ck_fwht_f32(const float* x, float* y, int64_t rows, int64_t n, int64_t x_stride, int64_t y_stride,
                           int64_t threads, const ck_pool* pool) {
  using namespace ck;
  if (n < 1 || n & (n - 1) || rows < 0 || (rows && (!x || !y))) return CK_ERROR_ARGUMENT;
  return guarded([&] {
    for_rows(pool, threads, rows, worthwhile_rows(16 * n, 1), [&](int64_t first, int64_t last) {
      kernels().structured().fwht({x + first * x_stride, y + first * y_stride, last - first, n, x_stride, y_stride});
    });
    return static_cast<int>(CK_OK);
  });
}
