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

#define CK_VERSION 4

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

/* The library is an onnxruntime custom-operator library too: its path goes to register_custom_ops_library.
 * How many nodes of models onnxruntime has made with this library, ever since it was loaded. */
CK_API int64_t ck_onnx_kernels(void);
/* 1 where the operators entered the session options that the calling thread registered last, 0 where the runtime has
 * not the interface that they need. */
CK_API int ck_onnx_registered(void);
/* The calling thread's next registration is for sessions with CUDA's provider: the operators run on the CUDA kernels'
 * library at `path`, layers without a kernel there on their bodies. 0 where it does not load; NULL: for the CPU again. */
CK_API int ck_onnx_cuda(const char* path);

/* For benchmarks: `count` rounds of fused multiply-adds, as many as this core can do; the operations of one round. */
CK_API int ck_fma_f32(int64_t count);

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

/* The gradients of the same call from gy, that of y. All of gx (rows, columns_in), ga (like a), gd and gbias (k, n) are
 * overwritten; ga is not touched where `a` has no rows, gbias may be NULL. Nothing need be kept from the forward call. */
CK_API int ck_acdc_backward_f32(const ck_acdc* cascade, const float* x, const float* gy, float* gx, float* ga,
                                float* gd, float* gbias, int64_t rows, int64_t x_stride, int64_t gy_stride,
                                int64_t gx_stride, int64_t threads, const ck_pool* pool);

/* y = x H, Walsh-Hadamard in natural order, not normalised (H H = n I); n a power of two. x and y may be the same. */
CK_API int ck_fwht_f32(const float* x, float* y, int64_t rows, int64_t n, int64_t x_stride, int64_t y_stride,
                       int64_t threads, const ck_pool* pool);

/* Fastfood: p = s * scale * H G P H (b * x) in `blocks` blocks of d = 2^k, put one after the other and cut to `width`.
 * P is h[i] = h[permutation[i]]; x is filled up to d with zeros. y holds p + bias (linear), max(p, 0) (ReLU), or
 * rbf_scale * cos(p) and then rbf_scale * sin(p) (2 width columns). */
enum { CK_FASTFOOD_LINEAR = 0, CK_FASTFOOD_RELU = 1, CK_FASTFOOD_RBF = 2 };
enum { CK_FASTFOOD_INDEX_16 = 1 }; /* permutations are uint16_t, else int32_t */
typedef struct ck_fastfood {
  int64_t d, blocks, columns_in, width; /* columns_in <= d; (blocks - 1) d < width <= blocks d */
  int64_t features, flags;
  float scale, rbf_scale;
  const float *b, *g;      /* (blocks, d) */
  const float* s;          /* (width) */
  const void* permutation; /* (blocks, d) */
  const float* bias;       /* (width); may be NULL, and is with ReLU and rbf */
} ck_fastfood;

CK_API int ck_fastfood_forward_f32(const ck_fastfood* stack, const float* x, float* y, int64_t rows, int64_t x_stride,
                                   int64_t y_stride, int64_t threads, const ck_pool* pool);
/* Gradients of a loss whose gradient by y is grad_y: by x (rows, columns_in), b, g (blocks, d) and s (width), all dense
 * and overwritten. grad_x may be NULL, and so may the other three together. */
CK_API int ck_fastfood_backward_f32(const ck_fastfood* stack, const float* x, const float* grad_y, float* grad_x,
                                    float* grad_b, float* grad_g, float* grad_s, int64_t rows, int64_t x_stride,
                                    int64_t y_stride, int64_t threads, const ck_pool* pool);

/* Monarch: x in `blocks` blocks i of p neighbours, outputs u * blocks + j in classes j:
 * h[i] = first[i] x[i], y[j] = second[j] h[., j] + bias. Missing inputs are 0, surplus outputs are left out. */
typedef struct ck_monarch {
  int64_t blocks, rank, p, q;
  int64_t columns_in, columns_out; /* <= blocks p, <= blocks q */
  const float* first;              /* (blocks, blocks rank, p), rows by (class, rank) */
  const float* second;             /* (blocks, q, blocks rank), columns by (block, rank) */
  const float* bias;               /* (columns_out) or NULL */
} ck_monarch;

CK_API int ck_monarch_forward_f32(const ck_monarch* stack, const float* x, float* y, int64_t rows, int64_t x_stride,
                                  int64_t y_stride, int64_t threads, const ck_pool* pool);
/* Gradients by x (rows, columns_in), dense, or NULL, and by first and second, of their shapes, from that by y. */
CK_API int ck_monarch_backward_f32(const ck_monarch* stack, const float* x, const float* grad_y, float* grad_x,
                                   float* grad_first, float* grad_second, int64_t rows, int64_t x_stride,
                                   int64_t y_stride, int64_t threads, const ck_pool* pool);

/* y = x W^T + bias, W (columns_out, columns_in) in compressed sparse rows of vectors, each of them `block` neighbours in a
 * column: `lengths` holds how many each row of vectors has, `columns` and `values` row after row where they stand and what
 * they are. Those of the last row are whole too, also past columns_out. Whole numbers of 1, 2 (unsigned) or 4 bytes. */
typedef struct ck_csr {
  int64_t columns_in, columns_out, block, count;
  int64_t column_bytes, length_bytes;
  const void* columns; /* (count), each below columns_in */
  const void* lengths; /* (columns_out / block, rounded up), together count */
  const float* values; /* (count, block) */
  const float* bias;   /* (columns_out) or NULL */
} ck_csr;

CK_API int ck_csr_forward_f32(const ck_csr* matrix, const float* x, float* y, int64_t rows, int64_t x_stride,
                              int64_t y_stride, int64_t threads, const ck_pool* pool);
/* Gradients by x (rows, columns_in), dense, and by the values (count, block), from that by y; either may be NULL. */
CK_API int ck_csr_backward_f32(const ck_csr* matrix, const float* x, const float* grad_y, float* grad_x,
                               float* grad_values, int64_t rows, int64_t x_stride, int64_t y_stride, int64_t threads,
                               const ck_pool* pool);

/* The layers between Fourier transforms; no gradients of theirs. n, or 2 n of AFDF, is even without a prime factor above
 * 7; else CK_ERROR_UNSUPPORTED. x is filled up to n with zeros, the first `columns_out` outputs are kept. `bias`
 * (columns_out) or NULL. */

/* y = sum of C(c_t) S_t x + bias, C(c)_ij = c[(i - j) mod n], S_t = diag(signs_t). */
typedef struct ck_circulant {
  int64_t n, terms, columns_in, columns_out; /* columns_in, columns_out <= n */
  int64_t sign_bytes;                        /* 1: int8_t, 4: float */
  const float* c;                            /* (terms, n) */
  const void* signs;                         /* (terms, columns_in) */
  const float* bias;
} ck_circulant;

CK_API int ck_circulant_forward_f32(const ck_circulant* layer, const float* x, float* y, int64_t rows, int64_t x_stride,
                                    int64_t y_stride, int64_t threads, const ck_pool* pool);

/* y = sum of Z_1(g_j) Z_-1(h_j) x + bias, Z_f(v)_ij = v[i - j] where i >= j, else f v[n + i - j]. */
typedef struct ck_toeplitz {
  int64_t n, rank, columns_in, columns_out;
  const float *g, *h; /* (rank, n) */
  const float* bias;
} ck_toeplitz;

CK_API int ck_toeplitz_forward_f32(const ck_toeplitz* layer, const float* x, float* y, int64_t rows, int64_t x_stride,
                                   int64_t y_stride, int64_t threads, const ck_pool* pool);

/* y = Re(x A_1 F D_1 F^-1 ... A_k F D_k F^-1) + bias, complex diagonals, F the unitary Fourier transform. */
typedef struct ck_afdf {
  int64_t n, k, columns_in, columns_out;
  const float *a, *d; /* (k, 2, n): real and imaginary parts */
  const float* bias;
} ck_afdf;

CK_API int ck_afdf_forward_f32(const ck_afdf* layer, const float* x, float* y, int64_t rows, int64_t x_stride,
                               int64_t y_stride, int64_t threads, const ck_pool* pool);

#ifdef __cplusplus
}
#endif
#endif
