/* The native kernels' C interface. No torch, no onnxruntime, no Python: pointers and sizes.
 *
 * Every function returns 0, or an error code that `ck_error_string` words. Matrices are row major, `*_stride` is the
 * distance of two rows in elements; rows may be unaligned, and output may not overlap input unless a function says so.
 * Functions may be called from several threads at once. `pool` is the caller's own thread pool; with NULL, `threads`
 * threads of the library's take part. The same arguments and the same number of threads give the same bytes.
 */
#ifndef COMPRESSOR_KERNELS_H
#define COMPRESSOR_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define CK_API __attribute__((visibility("default")))
#else
#define CK_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define CK_VERSION 1

enum {
  CK_OK = 0,
  CK_ERROR_ARGUMENT = 1,    /* a size is negative, a pointer NULL, or an option unknown */
  CK_ERROR_MEMORY = 2,      /* scratch or tables did not fit */
  CK_ERROR_UNSUPPORTED = 3, /* right, but not built: take another path */
};

/* Runs fn(user, i) for i = 0 ... total - 1, in any order, and returns when all are done. */
typedef struct ck_pool {
  void (*parallel_for)(void* ctx, void (*fn)(void* user, size_t index), size_t total, void* user);
  void* ctx;
  int64_t threads;
} ck_pool;

CK_API int ck_version(void);
CK_API const char* ck_error_string(int error);
/* The path that `op` ("dct", "acdc", ...) takes for N = n and a batch, as text: "avx2 fft 8.4.4.4, rows on lanes". */
CK_API int ck_describe(const char* op, int64_t n, int64_t batch, char* text, int64_t size);

/* Orthonormal DCT-II along each row, y = x C, and its inverse y = x C^T. */
CK_API int ck_dct_f32(const float* x, float* y, int64_t rows, int64_t n, int64_t x_stride, int64_t y_stride,
                      int64_t threads, const ck_pool* pool);
CK_API int ck_idct_f32(const float* x, float* y, int64_t rows, int64_t n, int64_t x_stride, int64_t y_stride,
                       int64_t threads, const ck_pool* pool);

/* A cascade y = ((x * a) C * d + bias) C^T, k times; before each member but the first a ReLU (where asked) and then
 * h[i] = h[permutation[i]]. The input is filled up to n with zeros, the first `columns_out` outputs are kept. */
enum {
  CK_ACDC_RELU = 1,
  CK_ACDC_SEPARABLE = 2,   /* C = C_n1 (x) C_n2, the most square n1 <= n2, instead of the DCT of length n */
  CK_ACDC_FIRST_FIXED = 4, /* a of the first member is 1 and not stored: `a` has k - 1 rows */
  CK_ACDC_INDEX_16 = 8,    /* permutations are uint16_t, else int32_t */
};
typedef struct ck_acdc {
  int64_t n, k, columns_in, columns_out; /* columns_in, columns_out <= n */
  int64_t flags;
  const float* a;          /* (k or k - 1, n) */
  const float* d;          /* (k, n) */
  const float* bias;       /* (k, n) or NULL */
  const void* permutation; /* (k - 1, n) or NULL */
} ck_acdc;

CK_API int ck_acdc_forward_f32(const ck_acdc* cascade, const float* x, float* y, int64_t rows, int64_t x_stride,
                               int64_t y_stride, int64_t threads, const ck_pool* pool);

#ifdef __cplusplus
}
#endif
#endif
