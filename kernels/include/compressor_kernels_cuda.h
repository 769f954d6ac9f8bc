/* The CUDA kernels' C interface. No torch, no onnxruntime: pointers to device memory, sizes, and a stream.
 *
 * Every function returns 0, or an error code that `ck_cuda_error_string` words; kernels are only started, on `stream`
 * (a cudaStream_t), and no function but the three for memory allocates, waits or keeps state, so all may be called from
 * several threads and be captured in a graph. `*_stride` is the distance of two rows in elements. x, y and their gradients are float,
 * half or bfloat16 (suffix f32, f16, bf16), of any alignment; parameters and their gradients are float, contiguous and
 * aligned to 16 bytes, and so are permutations; arithmetic is in float. The same arguments on the same device give the
 * same bytes.
 */
#ifndef COMPRESSOR_KERNELS_CUDA_H
#define COMPRESSOR_KERNELS_CUDA_H

#include <stdint.h>

#define CK_CUDA_API __attribute__((visibility("default")))

#ifdef __cplusplus
extern "C" {
#endif

#define CK_CUDA_VERSION 4

enum {
  CK_CUDA_OK = 0,
  CK_CUDA_ERROR_ARGUMENT = 1,    /* a size is negative, a pointer NULL or not aligned, or the workspace too small */
  CK_CUDA_ERROR_UNSUPPORTED = 3, /* right, but there is no kernel for this size: take another path */
  CK_CUDA_ERROR_RUNTIME = 1000,  /* plus a cudaError_t */
};

/* A cascade y = ((x * a) C * d + bias) C^T, k times; before each member but the first a ReLU (where asked) and then
 * h[i] = h[permutation[i]]. The input is filled up to n with zeros, the first `columns_out` outputs are kept.
 * n is a power of two, 128 to 65,536; past 16,384 a row is one of a cluster of blocks, which not every device has. */
enum {
  CK_CUDA_ACDC_RELU = 1,
  CK_CUDA_ACDC_FIRST_FIXED = 4, /* a of the first member is 1 and not stored: `a` has k - 1 rows */
  CK_CUDA_ACDC_INDEX_16 = 8,    /* permutations are uint16_t, else int32_t */
};
typedef struct ck_cuda_acdc {
  int64_t n, k, columns_in, columns_out; /* columns_in, columns_out <= n */
  int64_t flags;
  const float* a;          /* (k or k - 1, n) */
  const float* d;          /* (k, n) */
  const float* bias;       /* (k, n) or NULL */
  const void* permutation; /* (k - 1, n) or NULL */
  const float* tables;     /* ck_cuda_acdc_table_size(n) floats of ck_cuda_acdc_table, copied to the device */
} ck_cuda_acdc;

/* Fastfood: y = S H (G * permuted(H (B * x))) for each of `blocks` blocks, side by side, the first `width` kept.
 * n is a power of two, 64 to 16,384; the input is filled up to n with zeros. H is not normalised. */
enum { CK_CUDA_FASTFOOD_INDEX_16 = 1 }; /* permutations are uint16_t, else int32_t */
typedef struct ck_cuda_fastfood {
  int64_t n, blocks, width, columns_in;
  int64_t flags;
  const float* B;             /* (blocks, n) */
  const float* G;             /* (blocks, n) */
  const float* S;             /* (width,) */
  const void* permutation;    /* (blocks, n) */
} ck_cuda_fastfood;

CK_CUDA_API int ck_cuda_version(void);
CK_CUDA_API const char* ck_cuda_error_string(int error);

/* Whether the present device runs these kernels (an error where none was compiled for it), how many bytes of shared
 * memory a block may take there, and the longest cascade. Of the other kernels a row of n takes 4 n bytes. Where a device
 * has less, a call returns an error. */
CK_CUDA_API int ck_cuda_probe(int64_t* shared_bytes, int64_t* longest_acdc);

/* The twiddles of length n: how many floats (0: no kernel for n), and their values, into host memory. */
CK_CUDA_API int64_t ck_cuda_acdc_table_size(int64_t n);
CK_CUDA_API int ck_cuda_acdc_table(int64_t n, float* host);

/* Memory of the present device for who has no other: filled from the host's, given back; and bytes copied either way,
 * after all that `stream` was given before. */
CK_CUDA_API int ck_cuda_upload(const void* host, int64_t bytes, void** device);
CK_CUDA_API int ck_cuda_release(void* device);
CK_CUDA_API int ck_cuda_copy(void* to, const void* from, int64_t bytes, void* stream);

/* Bytes of device memory that a backward call wants. With less it takes fewer blocks at a time; 0: no kernel for n. */
CK_CUDA_API int64_t ck_cuda_acdc_workspace(int64_t n, int64_t k, int64_t rows);
CK_CUDA_API int64_t ck_cuda_fastfood_workspace(int64_t n, int64_t blocks, int64_t rows);

/* Gradients: grad_a (k or k - 1, n), grad_d and grad_bias (k, n), grad_B and grad_G (blocks, n), grad_S (width,) are
 * overwritten; each may be NULL. */
#define CK_CUDA_DECLARE(type)                                                                                         \
  CK_CUDA_API int ck_cuda_acdc_forward_##type(const ck_cuda_acdc* cascade, const void* x, void* y, int64_t rows,       \
                                              int64_t x_stride, int64_t y_stride, void* stream);                      \
  CK_CUDA_API int ck_cuda_acdc_backward_##type(                                                                       \
      const ck_cuda_acdc* cascade, const void* x, const void* grad_y, void* grad_x, float* grad_a, float* grad_d,      \
      float* grad_bias, int64_t rows, int64_t x_stride, int64_t grad_y_stride, int64_t grad_x_stride, void* workspace, \
      int64_t workspace_bytes, void* stream);                                                                         \
  CK_CUDA_API int ck_cuda_fastfood_forward_##type(const ck_cuda_fastfood* stack, const void* x, void* y, int64_t rows, \
                                                  int64_t x_stride, int64_t y_stride, void* stream);                  \
  CK_CUDA_API int ck_cuda_fastfood_backward_##type(                                                                   \
      const ck_cuda_fastfood* stack, const void* x, const void* grad_y, void* grad_x, float* grad_B, float* grad_G,    \
      float* grad_S, int64_t rows, int64_t x_stride, int64_t grad_y_stride, int64_t grad_x_stride, void* workspace,    \
      int64_t workspace_bytes, void* stream);                                                                         \
  /* The features of the products in y (rows, width), in place: ReLU, or with `is_rbf` their cosines, and behind them    \
   * their sines, times sqrt(1 / width). */                                                                            \
  CK_CUDA_API int ck_cuda_bend_##type(void* y, int64_t rows, int64_t width, int64_t y_stride, int is_rbf,              \
                                      void* stream);                                                                  \
  /* y = x H in natural order, not normalised; n a power of two, 64 to 32,768. */                                     \
  CK_CUDA_API int ck_cuda_fwht_##type(const void* x, void* y, int64_t rows, int64_t n, int64_t x_stride,               \
                                      int64_t y_stride, void* stream);
CK_CUDA_DECLARE(f32)
CK_CUDA_DECLARE(f16)
CK_CUDA_DECLARE(bf16)

#ifdef __cplusplus
}
#endif
#endif
