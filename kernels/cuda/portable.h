// What the kernels and their emulation on the host share: function attributes, complex numbers, memory access.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#define CK_HD __host__ __device__ __forceinline__
#else
#define CK_HD inline
#endif
#if defined(__CUDA_ARCH__)
#define CK_UNROLL _Pragma("unroll")
#else
#define CK_UNROLL
#endif

namespace ck {

struct alignas(8) Complex {
  float re, im;
};
struct alignas(16) Four {
  float x[4];
};

CK_HD Complex operator+(Complex a, Complex b) { return {a.re + b.re, a.im + b.im}; }
CK_HD Complex operator-(Complex a, Complex b) { return {a.re - b.re, a.im - b.im}; }
CK_HD Complex operator*(Complex a, Complex b) { return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re}; }
CK_HD Complex conj(Complex a) { return {a.re, -a.im}; }
CK_HD Complex times_i(Complex a) { return {-a.im, a.re}; }

// cos(2 pi k / 128). Constant for a constant k: no table in memory.
CK_HD constexpr float cosine_128(int k) {
  k &= 127;
  if (k > 64) k = 128 - k;
  const bool negative = k > 32;
  float c = 0;
  switch (negative ? 64 - k : k) {
    case 0: c = 1.0f; break;
    case 1: c = 0.9987954562051724f; break;
    case 2: c = 0.9951847266721969f; break;
    case 3: c = 0.989176509964781f; break;
    case 4: c = 0.9807852804032304f; break;
    case 5: c = 0.970031253194544f; break;
    case 6: c = 0.9569403357322088f; break;
    case 7: c = 0.9415440651830208f; break;
    case 8: c = 0.9238795325112867f; break;
    case 9: c = 0.9039892931234433f; break;
    case 10: c = 0.881921264348355f; break;
    case 11: c = 0.8577286100002721f; break;
    case 12: c = 0.8314696123025452f; break;
    case 13: c = 0.8032075314806449f; break;
    case 14: c = 0.773010453362737f; break;
    case 15: c = 0.7409511253549591f; break;
    case 16: c = 0.7071067811865476f; break;
    case 17: c = 0.6715589548470183f; break;
    case 18: c = 0.6343932841636455f; break;
    case 19: c = 0.5956993044924334f; break;
    case 20: c = 0.5555702330196022f; break;
    case 21: c = 0.5141027441932217f; break;
    case 22: c = 0.47139673682599764f; break;
    case 23: c = 0.4275550934302821f; break;
    case 24: c = 0.38268343236508984f; break;
    case 25: c = 0.33688985339222005f; break;
    case 26: c = 0.2902846772544623f; break;
    case 27: c = 0.24298017990326387f; break;
    case 28: c = 0.19509032201612825f; break;
    case 29: c = 0.14673047445536175f; break;
    case 30: c = 0.0980171403295606f; break;
    case 31: c = 0.049067674327418015f; break;
    default: break;
  }
  return negative ? -c : c;
}

// exp(-2 pi i k / n) for n a divisor of 128.
template <int n>
CK_HD constexpr Complex root(int k) {
  static_assert(128 % n == 0, "a root of unity of an order that divides 128");
  return {cosine_128(k * (128 / n)), -cosine_128(k * (128 / n) - 32)};
}

constexpr int log2_of(int n) { return n <= 1 ? 0 : 1 + log2_of(n / 2); }

// Blocks that a multiprocessor runs at a time, of so many threads with so many registers each (given out by eights). Its
// four parts have 512 registers for each lane of a warp.
constexpr int blocks_for(int threads, int registers) {
  const int warps = 4 * (512 / ((registers + 7) / 8 * 8));
  return warps * 32 < threads ? 1 : warps * 32 / threads;
}

// Element types of inputs and outputs; all arithmetic is in float.
enum Dtype { F32 = 0, F16 = 1, BF16 = 2 };

struct F16Bits {
  uint16_t bits;
};
struct BF16Bits {
  uint16_t bits;
};

CK_HD float widen(float v) { return v; }
CK_HD void narrow(float v, float& to) { to = v; }

#if defined(__CUDA_ARCH__)
CK_HD float widen(F16Bits v) { return __half2float(__ushort_as_half(v.bits)); }
CK_HD void narrow(float v, F16Bits& to) { to.bits = __half_as_ushort(__float2half_rn(v)); }
CK_HD void narrow(float v, BF16Bits& to) { to.bits = __bfloat16_as_ushort(__float2bfloat16_rn(v)); }
#else
inline float widen(F16Bits v) {
  _Float16 h;
  __builtin_memcpy(&h, &v, sizeof h);
  return static_cast<float>(h);
}
inline void narrow(float v, F16Bits& to) {
  const _Float16 h = static_cast<_Float16>(v);
  __builtin_memcpy(&to, &h, sizeof h);
}
inline void narrow(float v, BF16Bits& to) {
  uint32_t u;
  __builtin_memcpy(&u, &v, sizeof u);
  to.bits = static_cast<uint16_t>(v != v ? 0x7fc0u : (u + 0x7fffu + ((u >> 16) & 1u)) >> 16);  // nearest, ties to even
}
#endif
CK_HD float widen(BF16Bits v) {
#if defined(__CUDA_ARCH__)
  return __uint_as_float(static_cast<uint32_t>(v.bits) << 16);
#else
  const uint32_t u = static_cast<uint32_t>(v.bits) << 16;
  float f;
  __builtin_memcpy(&f, &u, sizeof f);
  return f;
#endif
}

// A table that no kernel writes: through the read-only cache.
template <class T>
CK_HD T fetch(const T* p) {
#if defined(__CUDA_ARCH__)
  if constexpr (sizeof(T) == 16) {
    const float4 v = __ldg(reinterpret_cast<const float4*>(p));
    return T{{v.x, v.y, v.z, v.w}};
  } else if constexpr (sizeof(T) == 8) {
    const float2 v = __ldg(reinterpret_cast<const float2*>(p));
    return T{v.x, v.y};
  } else {
    return __ldg(p);
  }
#else
  return *p;
#endif
}

// Four entries of a permutation, of 16 or 32 bits, from number 4 m on; on a boundary of four.
struct FourIndices {
  int at[4];
};

CK_HD FourIndices fetch_indices(const void* permutation, bool index_16, int64_t m) {
#if defined(__CUDA_ARCH__)
  if (index_16) {
    const ushort4 v = __ldg(static_cast<const ushort4*>(permutation) + m);
    return {{v.x, v.y, v.z, v.w}};
  }
  const int4 v = __ldg(static_cast<const int4*>(permutation) + m);
  return {{v.x, v.y, v.z, v.w}};
#else
  FourIndices found;
  for (int i = 0; i < 4; ++i)
    found.at[i] = index_16 ? static_cast<const uint16_t*>(permutation)[4 * m + i]
                           : static_cast<const int32_t*>(permutation)[4 * m + i];
  return found;
#endif
}

}  // namespace ck
