// ck_fastfood_forward_f32 and ck_fastfood_backward_f32: the checks at the edge, and the rows shared out among threads.
#include <cstring>

#include "parallel.h"
#include "table.h"
#include "tables.h"

namespace ck {
namespace {

constexpr int64_t group = 4;             // rows that the kernels take at a time
constexpr int64_t largest = 1ll << 28;  // a place of a granule is held in 32 bits

bool is_valid(const ck_fastfood* f) {
  return f && f->d >= 1 && f->d <= largest && !(f->d & (f->d - 1)) && f->blocks >= 1 && f->columns_in >= 1 &&
         f->columns_in <= f->d && f->width > (f->blocks - 1) * f->d && f->width <= f->blocks * f->d &&
         f->features >= CK_FASTFOOD_LINEAR && f->features <= CK_FASTFOOD_RBF && !(f->flags & ~CK_FASTFOOD_INDEX_16) &&
         f->b && f->g && f->s && f->permutation && !(f->bias && f->features != CK_FASTFOOD_LINEAR);
}

int64_t grain(const ck_fastfood& f) {
  int64_t bits = 0;
  while (f.d >> bits) bits++;
  return worthwhile_rows(2 * bits * f.d * f.blocks, group);
}

FastfoodCall prepared(const ck_fastfood* stack, const float* x, int64_t x_stride, int64_t rows) {
  const int64_t floats = (fastfood_floats(stack->d) + 15) / 16 * 16;
  FastfoodCall call{};
  call.stack = stack, call.rows = rows, call.x = x, call.x_stride = x_stride;
  call.scratch = scratch(static_cast<size_t>(floats + fastfood_places(stack->d)));
  call.places = reinterpret_cast<int32_t*>(call.scratch + floats);
  return call;
}

void add(float* to, const float* from, int64_t count) {
  for (int64_t i = 0; i < count; i++) to[i] += from[i];
}

}  // namespace
}  // namespace ck

extern "C" int ck_fastfood_forward_f32(const ck_fastfood* stack, const float* x, float* y, int64_t rows,
                                       int64_t x_stride, int64_t y_stride, int64_t threads, const ck_pool* pool) {
  using namespace ck;
  if (!is_valid(stack) || rows < 0 || (rows && (!x || !y))) return CK_ERROR_ARGUMENT;
  return guarded([&] {
    for_rows(pool, threads, rows, grain(*stack), [&](int64_t first, int64_t last) {
      FastfoodCall call = prepared(stack, x + first * x_stride, x_stride, last - first);
      call.y = y + first * y_stride, call.y_stride = y_stride;
      kernels().structured().fastfood(call);
    });
    return static_cast<int>(CK_OK);
  });
}

extern "C" int ck_fastfood_backward_f32(const ck_fastfood* stack, const float* x, const float* grad_y, float* grad_x,
                                        float* grad_b, float* grad_g, float* grad_s, int64_t rows, int64_t x_stride,
                                        int64_t y_stride, int64_t threads, const ck_pool* pool) {
  using namespace ck;
  const bool wants_diagonals = grad_b && grad_g && grad_s;
  if (!is_valid(stack) || rows < 0 || (rows && (!x || !grad_y)) || (!wants_diagonals && (grad_b || grad_g || grad_s)))
    return CK_ERROR_ARGUMENT;
  return guarded([&] {
    // Each stretch of rows sums up on its own, and the sums are added in the order of the rows.
    const int64_t size = stack->blocks * stack->d, each = 2 * size + stack->width;
    const int64_t parts = stretches(pool, threads, rows, grain(*stack));
    Floats sums(static_cast<size_t>(parts * each));
    for_rows(pool, threads, rows, grain(*stack), [&](int64_t first, int64_t last, int64_t part) {
      FastfoodCall call = prepared(stack, x + first * x_stride, x_stride, last - first);
      call.grad_y = grad_y + first * y_stride, call.y_stride = y_stride;
      call.grad_x = grad_x ? grad_x + first * stack->columns_in : nullptr;
      call.grad_b = sums.get() + part * each, call.grad_g = call.grad_b + size, call.grad_s = call.grad_g + size;
      kernels().structured().fastfood_backward(call);
    });
    if (!wants_diagonals) return static_cast<int>(CK_OK);
    std::memset(grad_b, 0, sizeof(float) * static_cast<size_t>(size));
    std::memset(grad_g, 0, sizeof(float) * static_cast<size_t>(size));
    std::memset(grad_s, 0, sizeof(float) * static_cast<size_t>(stack->width));
    for (int64_t part = 0; part < parts; part++) {
      const float* sum = sums.get() + part * each;
      add(grad_b, sum, size), add(grad_g, sum + size, size), add(grad_s, sum + 2 * size, stack->width);
    }
    return static_cast<int>(CK_OK);
  });
}
