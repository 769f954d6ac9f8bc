// ck_monarch_forward_f32: weights packed once a call where there are rows enough to pay for it.
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
