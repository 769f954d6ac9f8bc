// Work on several threads, and each thread's scratch memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <new>
#include <type_traits>

#include "compressor_kernels.h"

namespace ck {

// At least `floats` floats, aligned to 64 bytes, of the calling thread's own; the next call on this thread takes them
// back. Throws std::bad_alloc.
float* scratch(size_t floats);

using Task = void (*)(void* user, size_t index);

// Runs task(user, 0 ... total - 1) on `pool`, or on `threads` threads of the library. Nested and concurrent calls are
// right: a caller that finds the library's threads busy does its work itself. Throws std::bad_alloc if a task did.
void parallel_for(const ck_pool* pool, int64_t threads, size_t total, Task task, void* user);

inline int64_t thread_count(const ck_pool* pool, int64_t threads) {
  const int64_t count = pool ? pool->threads : threads;
  return count < 1 ? 1 : count;
}

// In how many stretches `for_rows` cuts.
inline int64_t stretches(const ck_pool* pool, int64_t threads, int64_t rows, int64_t grain) {
  const int64_t grains = (rows + grain - 1) / grain, count = thread_count(pool, threads);
  return count < grains ? count : grains;
}

// Calls work(first, last) or work(first, last, which) over 0 ... rows in at most as many stretches as there are
// threads; every stretch but the last is a multiple of `grain` rows long. The cut depends on the arguments alone.
template <class Work>
void for_rows(const ck_pool* pool, int64_t threads, int64_t rows, int64_t grain, Work&& work) {
  const int64_t grains = (rows + grain - 1) / grain;
  const int64_t parts = stretches(pool, threads, rows, grain);
  const auto call = [&work](int64_t first, int64_t last, int64_t part) {
    if constexpr (std::is_invocable_v<Work, int64_t, int64_t, int64_t>)
      work(first, last, part);
    else
      work(first, last), static_cast<void>(part);
  };
  if (parts <= 1) {
    if (rows > 0) call(0, rows, 0);
    return;
  }
  struct Context {
    decltype(call)* work;
    int64_t rows, grain, grains, parts;
  } context{&call, rows, grain, grains, parts};
  parallel_for(
      pool, threads, static_cast<size_t>(parts),
      [](void* user, size_t index) {
        const Context& c = *static_cast<Context*>(user);
        const int64_t part = static_cast<int64_t>(index);
        const int64_t first = c.grains * part / c.parts * c.grain;
        const int64_t last = c.grains * (part + 1) / c.parts * c.grain;
        (*c.work)(first, last < c.rows ? last : c.rows, part);
      },
      &context);
}

// Rows, a multiple of `group`, that are worth another thread when each takes `cost` multiply-adds or so.
inline int64_t worthwhile_rows(int64_t cost, int64_t group) {
  constexpr int64_t enough = 200000;
  return (enough / (cost < 1 ? 1 : cost) / group + 1) * group;
}

// The C interface's edge: no exception passes it.
template <class Body>
int guarded(Body&& body) {
  try {
    return body();
  } catch (const std::bad_alloc&) {
    return CK_ERROR_MEMORY;
  } catch (...) {
    return CK_ERROR_UNSUPPORTED;
  }
}

}  // namespace ck
