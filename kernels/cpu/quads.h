// What happens to four numbers Z_k, Z_{M-k} between the two transforms of a member of the cascade.
//
// unpack by T, times d, plus bias, pack by T^t: z' = (T^t diag(d) T) z + T^t bias, one symmetric 4 x 4 map: ten numbers
// and four. They stand quad by quad: 00 01 02 03 11 12 13 22 23 33, then the four.
#pragma once

#include "butterfly.h"
#include "table.h"

namespace ck::CK_ISA {

constexpr int MAP = 14;

CK_INLINE void map_quad(const float* c, V& zr, V& zi, V& yr, V& yi) {
  const V m01 = splat(c[1]), m02 = splat(c[2]), m03 = splat(c[3]), m12 = splat(c[5]), m13 = splat(c[6]),
          m23 = splat(c[8]);
  const V p = splat(c[10]) + splat(c[0]) * zr + m01 * zi + m02 * yr + m03 * yi;
  const V q = splat(c[11]) + m01 * zr + splat(c[4]) * zi + m12 * yr + m13 * yi;
  const V r = splat(c[12]) + m02 * zr + m12 * zi + splat(c[7]) * yr + m23 * yi;
  const V s = splat(c[13]) + m03 * zr + m13 * zi + m23 * yr + splat(c[9]) * yi;
  zr = p, zi = q, yr = r, yi = s;
}

// The maps of all quads for one member, 16 quads at a time.
static void pack_maps(const CosineView& plan, const float* d, const float* bias, float* maps) {
  constexpr int B = 16;
  for (int64_t first = 0; first < plan.quads; first += B) {
    const int count = plan.quads - first < B ? static_cast<int>(plan.quads - first) : B;
    float t[8][B] = {}, e[4][B] = {}, b[4][B] = {}, out[MAP][B];
    for (int j = 0; j < count; j++) {
      const int32_t* index = plan.index + 4 * (first + j);
      for (int i = 0; i < 8; i++) t[i][j] = plan.matrix[i * plan.quads + first + j];
      for (int i = 0; i < 4; i++) {
        e[i][j] = index[i] < 0 ? 0.0f : d[index[i]];
        b[i][j] = bias && index[i] >= 0 ? bias[index[i]] : 0.0f;
      }
    }
    for (int j = 0; j < B; j++) {
      const float row[4][4] = {{t[0][j], -t[1][j], t[2][j], t[3][j]},
                               {-t[1][j], -t[0][j], -t[3][j], t[2][j]},
                               {t[4][j], -t[5][j], t[6][j], t[7][j]},
                               {t[5][j], t[4][j], t[7][j], -t[6][j]}};
      int at = 0;
#pragma GCC unroll 4
      for (int p = 0; p < 4; p++) {
#pragma GCC unroll 4
        for (int q = p; q < 4; q++)
          out[at++][j] = row[0][p] * e[0][j] * row[0][q] + row[1][p] * e[1][j] * row[1][q] +
                         row[2][p] * e[2][j] * row[2][q] + row[3][p] * e[3][j] * row[3][q];
        out[10 + p][j] =
            row[0][p] * b[0][j] + row[1][p] * b[1][j] + row[2][p] * b[2][j] + row[3][p] * b[3][j];
      }
    }
    for (int j = 0; j < count; j++)
      for (int i = 0; i < MAP; i++) maps[(first + j) * MAP + i] = out[i][j];
  }
}

CK_INLINE void load_group(const float* z, V re[4], V im[4]) {
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) re[i] = load(z + 2 * W * i), im[i] = load(z + 2 * W * i + W);
}

CK_INLINE void store_group(float* z, const V re[4], const V im[4]) {
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) store(z + 2 * W * i, re[i]), store(z + 2 * W * i + W, im[i]);
}

// Two groups of the innermost radix: forward transform, four maps, backward transform.
CK_INLINE void map_pair(float* z, const int32_t* pair, const float* maps, bool is_special) {
  float *first = z + 2 * W * pair[0], *second = z + 2 * W * pair[1];
  V ar[4], ai[4], br[4], bi[4];
  load_group(first, ar, ai);
  load_group(second, br, bi);
  bf<4>(ar, ai);
  bf<4>(br, bi);
  if (is_special) {
    map_quad(maps, ar[0], ai[0], ar[2], ai[2]);
    map_quad(maps + MAP, ar[1], ai[1], ar[3], ai[3]);
    map_quad(maps + 2 * MAP, br[0], bi[0], br[3], bi[3]);
    map_quad(maps + 3 * MAP, br[1], bi[1], br[2], bi[2]);
  } else {
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) map_quad(maps + i * MAP, ar[i], ai[i], br[3 - i], bi[3 - i]);
  }
  bf<4>(ai, ar);
  bf<4>(bi, br);
  store_group(first, ar, ai);
  store_group(second, br, bi);
}

// The same for few registers: the second group waits in memory. The barriers keep the compiler from fetching it early.
CK_INLINE void map_pair_by_halves(float* z, const int32_t* pair, const float* maps) {
  float *first = z + 2 * W * pair[0], *second = z + 2 * W * pair[1];
  alignas(64) float kept[8 * W];
  V re[4], im[4];
  load_group(second, re, im);
  bf<4>(re, im);
  store_group(kept, re, im);
  load_group(first, re, im);
  bf<4>(re, im);
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    asm volatile("" : : "r"(kept) : "memory");
    float* other = kept + 2 * W * (3 - i);
    V yr = load(other), yi = load(other + W);
    map_quad(maps + i * MAP, re[i], im[i], yr, yi);
    store(other, yr), store(other + W, yi);
  }
  bf<4>(im, re);
  store_group(first, re, im);
  asm volatile("" : : "r"(kept) : "memory");
  load_group(kept, re, im);
  bf<4>(im, re);
  store_group(second, re, im);
}

// The group with k = 0 where no other group is its own mirror.
static void map_single(float* z, const float* maps) {
  V re[4], im[4];
  for (int i = 0; i < 4; i++) re[i] = load(z + 2 * W * i), im[i] = load(z + 2 * W * i + W);
  bf<4>(re, im);
  map_quad(maps, re[0], im[0], re[2], im[2]);
  map_quad(maps + MAP, re[1], im[1], re[3], im[3]);
  bf<4>(im, re);
  for (int i = 0; i < 4; i++) store(z + 2 * W * i, re[i]), store(z + 2 * W * i + W, im[i]);
}

// The first pair of a plan is special; every pair but a single one has four maps.
static const float* map_pairs(const CosineView& plan, int64_t first, int64_t last, float* z, const float* maps) {
  if (first == 0 && last > 0) {
    if (plan.pairs[1] < 0) {
      map_single(z, maps);
      maps += 2 * MAP;
    } else {
      map_pair(z, plan.pairs, maps, true);
      maps += 4 * MAP;
    }
    first = 1;
  }
  for (; first < last; first++, maps += 4 * MAP) {
    if (FEW_REGISTERS)
      map_pair_by_halves(z, plan.pairs + 2 * first, maps);
    else
      map_pair(z, plan.pairs + 2 * first, maps, false);
  }
  return maps;
}

// Where the innermost pass is not of radix 4: the maps by themselves.
static void map_quads(const CosineView& plan, float* z, const float* maps) {
  for (int64_t quad = 0; quad < plan.quads; quad++, maps += MAP) {
    float *first = z + 2 * W * plan.position[2 * quad], *second = z + 2 * W * plan.position[2 * quad + 1];
    V zr = load(first), zi = load(first + W), yr = load(second), yi = load(second + W);
    map_quad(maps, zr, zi, yr, yi);
    store(first, zr), store(first + W, zi), store(second, yr), store(second + W, yi);
  }
}

}  // namespace ck::CK_ISA
