// ck_csr_forward_f32 and ck_csr_backward_f32: the checks at the edge, and the rows shared out among threads.
#include <cstring>

#include "parallel.h"
#include "table.h"
#include "tables.h"

namespace ck {
namespace {

constexpr int64_t group = 32;  // rows that the kernels take at a time

bool is_width(int64_t bytes) { return bytes == 1 || bytes == 2 || bytes == 4; }

int64_t number(const void* numbers, int64_t bytes, int64_t i) {
  if (bytes == 1) return static_cast<const uint8_t*>(numbers)[i];
  return bytes == 2 ? static_cast<const uint16_t*>(numbers)[i] : static_cast<const int32_t*>(numbers)[i];
}

// Positions may come from a file: an entry out of place must not be read.
bool is_valid(const ck_csr* m) {
  if (!m || m->columns_in < 1 || m->columns_out < 1 || m->block < 1 || m->count < 0 || !is_width(m->column_bytes) ||
      !is_width(m->length_bytes) || !m->lengths || (m->count && (!m->columns || !m->values)))
    return false;
  int64_t total = 0;
  for (int64_t row = 0; row * m->block < m->columns_out; row++) {
    const int64_t length = number(m->lengths, m->length_bytes, row);
    if (length < 0) return false;
    total += length;
  }
  return total == m->count && kernels().structured().sparse_fits(*m);
}

SparseCall prepared(const ck_csr* m, int64_t rows, int64_t x_stride, int64_t y_stride) {
  SparseCall call{};
  call.matrix = m, call.rows = rows, call.x_stride = x_stride, call.y_stride = y_stride;
  call.scratch = scratch(static_cast<size_t>(sparse_floats(*m)));
  return call;
}

}  // namespace
}  // namespace ck

extern "C" int ck_csr_forward_f32(const ck_csr* matrix, const float* x, float* y, int64_t rows, int64_t x_stride,
                                  int64_t y_stride, int64_t threads, const ck_pool* pool) {
  using namespace ck;
  if (!is_valid(matrix) || rows < 0 || (rows && (!x || !y))) return CK_ERROR_ARGUMENT;
  return guarded([&] {
    for_rows(pool, threads, rows, worthwhile_rows(matrix->count * matrix->block, group), [&](int64_t first, int64_t last) {
      SparseCall call = prepared(matrix, last - first, x_stride, y_stride);
      call.x = x + first * x_stride, call.y = y + first * y_stride;
      kernels().structured().sparse(call);
    });
    return static_cast<int>(CK_OK);
  });
}

extern "C" int ck_csr_backward_f32(const ck_csr* matrix, const float* x, const float* grad_y, float* grad_x,
                                   float* grad_values, int64_t rows, int64_t x_stride, int64_t y_stride,
                                   int64_t threads, const ck_pool* pool) {
  using namespace ck;
  if (!is_valid(matrix) || rows < 0 || (rows && (!grad_y || (grad_values && !x)))) return CK_ERROR_ARGUMENT;
  return guarded([&] {
    // Each stretch of rows sums up on its own, and the sums are added in the order of the rows.
    const int64_t values = matrix->count * matrix->block, count = grad_values ? values : 0;
    const int64_t grain = worthwhile_rows(2 * values, group);
    const int64_t parts = stretches(pool, threads, rows, grain);
    Floats sums(static_cast<size_t>(parts * count));
    for_rows(pool, threads, rows, grain, [&](int64_t first, int64_t last, int64_t part) {
      SparseCall call = prepared(matrix, last - first, x_stride, y_stride);
      call.x = x ? x + first * x_stride : nullptr, call.grad_y = grad_y + first * y_stride;
      call.grad_x = grad_x ? grad_x + first * matrix->columns_in : nullptr;
      call.grad_values = count ? sums.get() + part * count : nullptr;
      kernels().structured().sparse(call);
    });
    if (grad_values) std::memset(grad_values, 0, sizeof(float) * static_cast<size_t>(count));
    for (int64_t part = 0; part < parts; part++)
      for (int64_t i = 0; i < count; i++) grad_values[i] += sums[static_cast<size_t>(part * count + i)];
    return static_cast<int>(CK_OK);
  });
}
