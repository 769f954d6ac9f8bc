// From the C interface's arguments to a backend's kernels: checks, sizes, and which plan. Backends: device and emulator.
//
// A backend has acdc_forward<P>(task, x, y), acdc_backward<P>(task, back), and so on, which return an error code;
// most_teams<P>(kind) says how many teams it would run at once, and reduce(...) adds the teams' sums.
#pragma once

#include "../include/compressor_kernels_cuda.h"
#include "acdc_backward.h"
#include "bend.h"
#include "fastfood.h"

namespace ck {

inline bool aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

template <class Body>
bool with_hadamard_plan(int64_t n, Body body) {
  switch (n) {
    case 1 << 6: body(HadamardPlan<6>{}); return true;
    case 1 << 7: body(HadamardPlan<7>{}); return true;
    case 1 << 8: body(HadamardPlan<8>{}); return true;
    case 1 << 9: body(HadamardPlan<9>{}); return true;
    case 1 << 10: body(HadamardPlan<10>{}); return true;
    case 1 << 11: body(HadamardPlan<11>{}); return true;
    case 1 << 12: body(HadamardPlan<12>{}); return true;
    case 1 << 13: body(HadamardPlan<13>{}); return true;
    case 1 << 14: body(HadamardPlan<14>{}); return true;
    case 1 << 15: body(HadamardPlan<15>{}); return true;
    default: return false;
  }
}

constexpr int fastfood_largest = 1 << 14;

// Fastfood holds a table and a row besides: a block of 1,024 threads has too few registers for it.
template <class Body>
bool with_fastfood_plan(int64_t n, Body body) {
  return with_hadamard_plan(n, [&](auto plan) {
    if constexpr ((decltype(plan)::N) <= fastfood_largest) body(plan);
  }) && n <= fastfood_largest;
}

inline int64_t acdc_table_size(int64_t n) {
  int64_t size = 0;
  with_acdc_plan(n, [&](auto plan) { size = 2 * AcdcTables<decltype(plan)>::count; });
  return size;
}

inline int acdc_table(int64_t n, float* host) {
  const bool found =
      with_acdc_plan(n, [&](auto plan) { AcdcTables<decltype(plan)>::fill(reinterpret_cast<Complex*>(host)); });
  return found ? CK_CUDA_OK : CK_CUDA_ERROR_UNSUPPORTED;
}

inline int check_acdc(const ck_cuda_acdc* c, int64_t rows) {
  if (c == nullptr || rows < 0 || c->k < 1 || c->columns_in < 0 || c->columns_out < 0) return CK_CUDA_ERROR_ARGUMENT;
  if (!acdc_has_plan(c->n)) return CK_CUDA_ERROR_UNSUPPORTED;
  if (c->columns_in > c->n || c->columns_out > c->n) return CK_CUDA_ERROR_ARGUMENT;
  const bool needs_a = c->k > 1 || !(c->flags & CK_CUDA_ACDC_FIRST_FIXED);
  if (c->d == nullptr || c->tables == nullptr || (needs_a && c->a == nullptr)) return CK_CUDA_ERROR_ARGUMENT;
  return aligned(c->a) && aligned(c->d) && aligned(c->bias) && aligned(c->permutation) && aligned(c->tables) ? CK_CUDA_OK : CK_CUDA_ERROR_ARGUMENT;
}

// The longest cascade of a device whose blocks take so many bytes of shared memory; 0 where it has none.
inline int64_t longest_acdc_for(int64_t shared_bytes, bool has_clusters) {
  int64_t found = 0;
  for (int64_t n = acdc_smallest; n <= acdc_largest; n *= 2)
    with_acdc_plan(n, [&](auto plan) {
      using P = decltype(plan);
      if (P::shared_bytes <= shared_bytes && (P::ranks == 1 || has_clusters)) found = n;
    });
  return found;
}

inline AcdcTask acdc_task(const ck_cuda_acdc* c, int64_t rows) {
  const int k = static_cast<int>(c->k);
  return {rows,
          k,
          (c->flags & CK_CUDA_ACDC_RELU) != 0,
          (c->flags & CK_CUDA_ACDC_INDEX_16) != 0,
          c->a,
          c->d,
          c->bias,
          k - ((c->flags & CK_CUDA_ACDC_FIRST_FIXED) != 0),
          k > 1 ? c->permutation : nullptr,
          reinterpret_cast<const Complex*>(c->tables)};
}

template <class Backend>
int acdc_forward_call(Backend backend, int dtype, const ck_cuda_acdc* c, const void* x, void* y, int64_t rows,
                      int64_t x_stride, int64_t y_stride) {
  if (const int error = check_acdc(c, rows)) return error;
  if (rows == 0) return CK_CUDA_OK;
  if (x == nullptr || y == nullptr) return CK_CUDA_ERROR_ARGUMENT;
  int error = CK_CUDA_OK;
  with_acdc_plan(c->n, [&](auto plan) {
    error = backend.template acdc_forward<decltype(plan)>(acdc_task(c, rows),
                                                          make_rows(x, dtype, x_stride, c->columns_in, rows),
                                                          make_rows(y, dtype, y_stride, c->columns_out, rows));
  });
  return error;
}

// How many teams run at a time: a block's at least, at most what the device holds, the rows ask for and memory serves.
template <class P>
int64_t teams_for(int64_t most, int64_t rows, int64_t team_floats, int64_t workspace_bytes) {
  const int64_t served = workspace_bytes / (4 * team_floats);
  const int64_t wanted = (rows + P::teams - 1) / P::teams * P::teams;
  const int64_t teams = most < wanted ? most : wanted;
  return (teams < served ? teams : served) / P::teams * P::teams;
}

constexpr int64_t workspace_limit = int64_t{256} << 20;  // bytes asked for, unless one block alone needs more

template <class P>
int64_t workspace_for(int64_t most, int64_t rows, int64_t team_floats) {
  const int64_t least = P::teams * team_floats * 4;
  const int64_t teams = teams_for<P>(most, rows, team_floats, least > workspace_limit ? least : workspace_limit);
  return (teams > P::teams ? teams : P::teams) * team_floats * 4;
}

template <class Backend>
int64_t acdc_workspace(Backend backend, int64_t n, int64_t k, int64_t rows) {
  int64_t bytes = 0;
  if (k < 1 || rows < 0) return 0;
  with_acdc_plan(n, [&](auto plan) {
    using P = decltype(plan);
    bytes = workspace_for<P>(backend.template acdc_teams<P>(), rows, acdc_team_floats(n, k));
  });
  return bytes;
}

template <class Backend>
int64_t fastfood_workspace(Backend backend, int64_t n, int64_t blocks, int64_t rows) {
  int64_t bytes = 0;
  if (blocks < 1 || rows < 0) return 0;
  with_fastfood_plan(n, [&](auto plan) {
    using P = decltype(plan);
    bytes = workspace_for<P>(backend.template fastfood_teams<P>(), rows, fastfood_team_floats(n, blocks));
  });
  return bytes;
}

template <class Backend>
int acdc_backward_call(Backend backend, int dtype, const ck_cuda_acdc* c, const void* x, const void* grad_y,
                       void* grad_x, float* grad_a, float* grad_d, float* grad_bias, int64_t rows, int64_t x_stride,
                       int64_t grad_y_stride, int64_t grad_x_stride, void* workspace, int64_t workspace_bytes) {
  if (const int error = check_acdc(c, rows)) return error;
  if (rows < 1 || x == nullptr || grad_y == nullptr || grad_x == nullptr || !aligned(workspace))
    return CK_CUDA_ERROR_ARGUMENT;
  int error = CK_CUDA_OK;
  with_acdc_plan(c->n, [&](auto plan) {
    using P = decltype(plan);
    const AcdcTask task = acdc_task(c, rows);
    const int64_t floats = acdc_team_floats(c->n, c->k);
    const int64_t teams = teams_for<P>(backend.template acdc_teams<P>(), rows, floats, workspace_bytes);
    const AcdcBackward back = {make_rows(x, dtype, x_stride, c->columns_in, rows),
                               make_rows(grad_y, dtype, grad_y_stride, c->columns_out, rows),
                               make_rows(grad_x, dtype, grad_x_stride, c->columns_in, rows),
                               static_cast<float*>(workspace), teams};
    error = teams < 1 ? CK_CUDA_ERROR_ARGUMENT : backend.template acdc_backward<P>(task, back);
    const int64_t all = c->k * c->n, skipped = (task.k - task.a_rows) * c->n, stride = acdc_team_sums(c->n, c->k);
    const float* sums = back.workspace;
    if (!error && grad_a) error = backend.reduce(sums + skipped, stride, teams, all - skipped, grad_a);
    if (!error && grad_d) error = backend.reduce(sums + all, stride, teams, all, grad_d);
    if (!error && grad_bias) error = backend.reduce(sums + 2 * all, stride, teams, all, grad_bias);
  });
  return error;
}

inline int check_fastfood(const ck_cuda_fastfood* c, int64_t rows) {
  if (c == nullptr || rows < 0 || c->blocks < 1 || c->width < 1 || c->columns_in < 0) return CK_CUDA_ERROR_ARGUMENT;
  if (!with_fastfood_plan(c->n, [](auto) {})) return CK_CUDA_ERROR_UNSUPPORTED;
  if (c->columns_in > c->n || c->width > c->blocks * c->n) return CK_CUDA_ERROR_ARGUMENT;
  if (c->blocks * c->n > INT32_MAX) return CK_CUDA_ERROR_UNSUPPORTED;
  if (c->B == nullptr || c->G == nullptr || c->S == nullptr || c->permutation == nullptr) return CK_CUDA_ERROR_ARGUMENT;
  return aligned(c->B) && aligned(c->G) && aligned(c->permutation) ? CK_CUDA_OK : CK_CUDA_ERROR_ARGUMENT;
}

inline FastfoodTask fastfood_task(const ck_cuda_fastfood* c, int64_t rows) {
  return {rows, static_cast<int>(c->blocks), static_cast<int>(c->width), c->B, c->G, c->S, c->permutation,
          (c->flags & CK_CUDA_FASTFOOD_INDEX_16) != 0};
}

template <class Backend>
int fastfood_forward_call(Backend backend, int dtype, const ck_cuda_fastfood* c, const void* x, void* y, int64_t rows,
                          int64_t x_stride, int64_t y_stride) {
  if (const int error = check_fastfood(c, rows)) return error;
  if (rows == 0) return CK_CUDA_OK;
  if (x == nullptr || y == nullptr) return CK_CUDA_ERROR_ARGUMENT;
  int error = CK_CUDA_OK;
  with_fastfood_plan(c->n, [&](auto plan) {
    error = backend.template fastfood_forward<decltype(plan)>(fastfood_task(c, rows),
                                                              make_rows(x, dtype, x_stride, c->columns_in, rows),
                                                              make_rows(y, dtype, y_stride, c->width, rows));
  });
  return error;
}

template <class Backend>
int fastfood_backward_call(Backend backend, int dtype, const ck_cuda_fastfood* c, const void* x, const void* grad_y,
                           void* grad_x, float* grad_b, float* grad_g, float* grad_s, int64_t rows, int64_t x_stride,
                           int64_t grad_y_stride, int64_t grad_x_stride, void* workspace, int64_t workspace_bytes) {
  if (const int error = check_fastfood(c, rows)) return error;
  if (rows < 1 || x == nullptr || grad_y == nullptr || grad_x == nullptr || !aligned(workspace))
    return CK_CUDA_ERROR_ARGUMENT;
  int error = CK_CUDA_OK;
  with_fastfood_plan(c->n, [&](auto plan) {
    using P = decltype(plan);
    const int64_t floats = fastfood_team_floats(c->n, c->blocks);
    const int64_t teams = teams_for<P>(backend.template fastfood_teams<P>(), rows, floats, workspace_bytes);
    const FastfoodBackward back = {make_rows(x, dtype, x_stride, c->columns_in, rows),
                                   make_rows(grad_y, dtype, grad_y_stride, c->width, rows),
                                   make_rows(grad_x, dtype, grad_x_stride, c->columns_in, rows),
                                   static_cast<float*>(workspace), teams};
    error = teams < 1 ? CK_CUDA_ERROR_ARGUMENT : backend.template fastfood_backward<P>(fastfood_task(c, rows), back);
    const int64_t all = c->blocks * c->n, stride = fastfood_team_sums(c->n, c->blocks);
    const float* sums = back.workspace;
    if (!error && grad_b) error = backend.reduce(sums, stride, teams, all, grad_b);
    if (!error && grad_g) error = backend.reduce(sums + all, stride, teams, all, grad_g);
    if (!error && grad_s) error = backend.reduce(sums + 2 * all, stride, teams, c->width, grad_s);
  });
  return error;
}

template <class Backend>
int bend_call(Backend backend, int dtype, void* y, int64_t rows, int64_t width, int64_t y_stride, bool is_rbf) {
  if (rows < 0 || width < 1) return CK_CUDA_ERROR_ARGUMENT;
  if (rows == 0) return CK_CUDA_OK;
  if (y == nullptr) return CK_CUDA_ERROR_ARGUMENT;
  const float scale = is_rbf ? static_cast<float>(std::sqrt(1.0 / static_cast<double>(width))) : 0.f;
  return backend.bend(Bend{y, rows, width, y_stride, scale}, dtype);
}

template <class Backend>
int fwht_call(Backend backend, int dtype, const void* x, void* y, int64_t rows, int64_t n, int64_t x_stride,
              int64_t y_stride) {
  if (rows < 0) return CK_CUDA_ERROR_ARGUMENT;
  if (!with_hadamard_plan(n, [](auto) {})) return CK_CUDA_ERROR_UNSUPPORTED;
  if (rows == 0) return CK_CUDA_OK;
  if (x == nullptr || y == nullptr) return CK_CUDA_ERROR_ARGUMENT;
  int error = CK_CUDA_OK;
  with_hadamard_plan(n, [&](auto plan) {
    error = backend.template fwht<decltype(plan)>(rows, make_rows(x, dtype, x_stride, n, rows),
                                                  make_rows(y, dtype, y_stride, n, rows));
  });
  return error;
}

}  // namespace ck
