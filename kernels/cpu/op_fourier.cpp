// ck_circulant_forward_f32, ck_toeplitz_forward_f32 and ck_afdf_forward_f32.
#include "fourier_plan.h"
#include "parallel.h"
#include "row_plan.h"
#include "table.h"

namespace ck {
namespace {

bool is_valid(const ck_circulant& c) {
  return c.terms >= 1 && (c.sign_bytes == 1 || c.sign_bytes == 4) && c.c && c.signs;
}
bool is_valid(const ck_toeplitz& t) { return t.rank >= 1 && t.g && t.h; }
bool is_valid(const ck_afdf& a) { return a.k >= 1 && a.a && a.d; }

// The length of a real transform with as many complex numbers.
template <class Layer>
int64_t real_length(const Layer& layer) {
  return std::is_same_v<Layer, ck_afdf> ? 2 * layer.n : layer.n;
}

template <class Layer>
void add_bias(const Layer& layer, float* y, int64_t y_stride, int64_t first, int64_t last) {
  for (int64_t row = first; layer.bias && row < last; row++)
    for (int64_t i = 0; i < layer.columns_out; i++) y[row * y_stride + i] += layer.bias[i];
}

template <class Layer>
int forward(const FourierKernel<Layer>& kernel, const Layer* layer, const float* x, float* y, int64_t rows,
            int64_t x_stride, int64_t y_stride, int64_t threads, const ck_pool* pool) {
  if (!layer || layer->n < 1 || layer->columns_in < 1 || layer->columns_out < 1 || layer->columns_in > layer->n ||
      layer->columns_out > layer->n || !is_valid(*layer) || rows < 0 || (rows && (!x || !y)))
    return CK_ERROR_ARGUMENT;
  if (layer->n > INT32_MAX / 2 || !CosinePlan::supports(real_length(*layer))) return CK_ERROR_UNSUPPORTED;
  if (!rows) return CK_OK;
  return guarded([&] {
    const Kernels& build = kernels();
    const int64_t n = real_length(*layer);
    const auto on_lanes = [&] { return cached<CosinePlan::Key, FourierPlan>({n, build.radix}).view(); };
    if (goes_across_lanes(n, rows, build.lanes)) {
      const RowView across = cached<RowPlan::Key, RowPlan>({n, build.lanes}).view();
      const float* twist = std::is_same_v<Layer, ck_toeplitz> ? on_lanes().twist : nullptr;  // no other needs one
      kernel.row_forward({layer, across, twist, x, y, rows, x_stride, y_stride,
                          scratch(static_cast<size_t>(kernel.row_scratch(*layer, across)))});
      add_bias(*layer, y, y_stride, 0, rows);
      return static_cast<int>(CK_OK);
    }
    const FourierView plan = on_lanes();
    const size_t floats = static_cast<size_t>(fourier_scratch(plan, build.lanes));
    const Floats tables(static_cast<size_t>(fourier_tables(*layer, plan)));
    kernel.pack({layer, plan, tables.get(), nullptr, nullptr, 0, 0, 0, scratch(floats)});
    for_rows(pool, threads, rows, build.lanes, [&](int64_t first, int64_t last) {
      kernel.forward({layer, plan, tables.get(), x + first * x_stride, y + first * y_stride, last - first, x_stride,
                      y_stride, scratch(floats)});
      add_bias(*layer, y, y_stride, first, last);
    });
    return static_cast<int>(CK_OK);
  });
}

}  // namespace
}  // namespace ck

extern "C" int ck_circulant_forward_f32(const ck_circulant* layer, const float* x, float* y, int64_t rows,
                                        int64_t x_stride, int64_t y_stride, int64_t threads, const ck_pool* pool) {
  return ck::forward(ck::kernels().circulant, layer, x, y, rows, x_stride, y_stride, threads, pool);
}

extern "C" int ck_toeplitz_forward_f32(const ck_toeplitz* layer, const float* x, float* y, int64_t rows,
                                       int64_t x_stride, int64_t y_stride, int64_t threads, const ck_pool* pool) {
  return ck::forward(ck::kernels().toeplitz, layer, x, y, rows, x_stride, y_stride, threads, pool);
}

extern "C" int ck_afdf_forward_f32(const ck_afdf* layer, const float* x, float* y, int64_t rows, int64_t x_stride,
                                   int64_t y_stride, int64_t threads, const ck_pool* pool) {
  return ck::forward(ck::kernels().afdf, layer, x, y, rows, x_stride, y_stride, threads, pool);
}
