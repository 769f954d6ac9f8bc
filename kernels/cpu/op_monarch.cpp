// ck_monarch_forward_f32, weights packed once a call where there are rows enough to pay for it, and
// ck_monarch_backward_f32.
#include <cstring>

#include "parallel.h"
#include "table.h"
#include "tables.h"

namespace ck {
namespace {

constexpr int64_t worth_packing = 12;  // rows

bool is_valid(const ck_monarch* m) {
  return m && m->blocks >= 1 && m->rank >= 1 && m->p >= 1 && m->q >= 1 && m->columns_in >= 1 &&
         m->columns_in <= m->blocks * m->p && m->columns_out >= 1 && m->columns_out <= m->blocks * m->q && m->first &&
         m->second;
}

// This thread's room for packed weights, which outlives `scratch`.
float* packed_weights(size_t floats) {
  thread_local Floats room;
  thread_local size_t size = 0;
  if (size < floats) {
    room = Floats(floats);
    size = floats;
  }
  return room.get();
}

}  // namespace
}  // namespace ck

extern "C" int ck_monarch_forward_f32(const ck_monarch* stack, const float* x, float* y, int64_t rows,
                                      int64_t x_stride, int64_t y_stride, int64_t threads, const ck_pool* pool) {
  using namespace ck;
  if (!is_valid(stack) || rows < 0 || (rows && (!x || !y))) return CK_ERROR_ARGUMENT;
  return guarded([&] {
    const ck_monarch& m = *stack;
    const int64_t lanes = kernels().lanes, side = monarch_packed(m, m.p, lanes);
    MonarchCall call{};
    call.stack = stack, call.x_stride = x_stride, call.y_stride = y_stride;
    if (rows >= worth_packing) {
      float* room = packed_weights(static_cast<size_t>(side + monarch_packed(m, m.q, lanes)));
      kernels().structured().monarch_pack(m, room, room + side);
      call.first = room, call.second = room + side;
    }
    const int64_t cost = m.blocks * m.blocks * m.rank * (m.p + m.q);
    for_rows(pool, threads, rows, worthwhile_rows(cost, 6), [&, call](int64_t begin, int64_t end) {
      MonarchCall part = call;
      part.x = x + begin * x_stride, part.y = y + begin * y_stride, part.rows = end - begin;
      part.scratch = scratch(static_cast<size_t>(monarch_floats(m, lanes)));
      kernels().structured().monarch(part);
    });
    return static_cast<int>(CK_OK);
  });
}

extern "C" int ck_monarch_backward_f32(const ck_monarch* stack, const float* x, const float* grad_y, float* grad_x,
                                       float* grad_first, float* grad_second, int64_t rows, int64_t x_stride,
                                       int64_t y_stride, int64_t threads, const ck_pool* pool) {
  using namespace ck;
  if (!is_valid(stack) || rows < 0 || (rows && (!x || !grad_y)) || !grad_first || !grad_second) return CK_ERROR_ARGUMENT;
  return guarded([&] {
    // Each stretch of rows but the first sums up on its own; the sums are added in the order of the rows.
    const ck_monarch& m = *stack;
    const int64_t lanes = kernels().lanes, pairs = m.blocks * m.blocks * m.rank;
    const int64_t size = pairs * m.p, each = size + pairs * m.q;
    const int64_t grain = worthwhile_rows(5 * each / 2, chunk_rows(lanes));
    const int64_t parts = stretches(pool, threads, rows, grain);
    Floats sums(static_cast<size_t>(parts > 1 ? (parts - 1) * each : 0));
    std::memset(grad_first, 0, sizeof(float) * static_cast<size_t>(size));
    std::memset(grad_second, 0, sizeof(float) * static_cast<size_t>(each - size));
    for_rows(pool, threads, rows, grain, [&](int64_t first, int64_t last, int64_t part) {
      MonarchCall call{};
      call.stack = stack, call.x = x + first * x_stride, call.x_stride = x_stride, call.rows = last - first;
      call.grad_y = grad_y + first * y_stride, call.y_stride = y_stride;
      call.grad_x = grad_x ? grad_x + first * m.columns_in : nullptr;
      call.grad_first = part ? sums.get() + (part - 1) * each : grad_first;
      call.grad_second = part ? call.grad_first + size : grad_second;
      call.scratch = scratch(static_cast<size_t>(monarch_backward_floats(m, lanes)));
      kernels().structured().monarch_backward(call);
    });
    for (int64_t part = 1; part < parts; part++) {
      const float* sum = sums.get() + (part - 1) * each;
      for (int64_t i = 0; i < size; i++) grad_first[i] += sum[i];
      for (int64_t i = size; i < each; i++) grad_second[i - size] += sum[i];
    }
    return static_cast<int>(CK_OK);
  });
}
