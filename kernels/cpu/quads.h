// What happens to four numbers Z_k, Z_{M-k} between the two transforms of a member of the cascade.
//
// unpack by T, times d, plus bias, pack by T^t: z' = (T^t diag(d) T) z + T^t bias, one symmetric 4 x 4 map: ten numbers
// and four. They stand quad by quad: 00 01 02 03 11 12 13 22 23 33, then the four.
#pragma once

#include "butterfly.h"
#include "gather.h"
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

// What the maps of W quads are made of: T and the coefficients' numbers, each of the four in a vector of its own.
struct QuadTable {
  const float* matrix;
  int64_t stride;
  const int32_t* index;
};

// The quads from `first` on: as they stand in the plan, or a copy where fewer than W are left or a coefficient is missing.
CK_INLINE QuadTable quad_table(const CosineView& plan, int64_t first, float* matrix, int32_t* index) {
  if (first && first + W <= plan.quads) return {plan.matrix + first, plan.quads, plan.index + 4 * first};
  for (int64_t j = 0; j < W; j++) {
    const int64_t quad = first + j < plan.quads ? first + j : plan.quads - 1;
    for (int64_t i = 0; i < 8; i++) matrix[i * W + j] = plan.matrix[i * plan.quads + quad];
    for (int64_t i = 0; i < 4; i++) {
      const int32_t at = plan.index[4 * quad + i];
      index[4 * j + i] = at < 0 ? 0 : at;  // its part of T is zero
    }
  }
  return {matrix, W, index};
}

CK_INLINE void gather_fours(const float* from, const int32_t* index, V to[4]) {
  CK_UNROLL(4)
  for (int i = 0; i < 4; i++) to[i] = numbers(from, index + i * W);
  part_fours(to);
}

// W maps side by side, entry after entry, as MAP vectors.
template <bool HAS_BIAS>
static void maps_of(const QuadTable& table, const float* d, const float* bias, float* out) {
  V t[8], e[4], b[4];
  CK_UNROLL(8)
  for (int i = 0; i < 8; i++) t[i] = loadu(table.matrix + i * table.stride);
  gather_fours(d, table.index, e);
  if (HAS_BIAS) gather_fours(bias, table.index, b);
  const V rows[4][4] = {{t[0], -t[1], t[2], t[3]}, {-t[1], -t[0], -t[3], t[2]}, {t[4], -t[5], t[6], t[7]}, {t[5], t[4], t[7], -t[6]}};
  int at = 0;
  CK_UNROLL(4)
  for (int p = 0; p < 4; p++) {
    V scaled[4];
    CK_UNROLL(4)
    for (int i = 0; i < 4; i++) scaled[i] = rows[i][p] * e[i];
    CK_UNROLL(4)
    for (int q = p; q < 4; q++, at++)
      store(out + W * at, scaled[0] * rows[0][q] + scaled[1] * rows[1][q] + scaled[2] * rows[2][q] + scaled[3] * rows[3][q]);
    store(out + W * (10 + p), HAS_BIAS ? rows[0][p] * b[0] + rows[1][p] * b[1] + rows[2][p] * b[2] + rows[3][p] * b[3] : zero());
  }
}

// The maps of all quads for one member.
static void pack_maps(const CosineView& plan, const float* d, const float* bias, float* maps) {
  alignas(64) float matrix[8 * W], out[MAP * W];
  int32_t index[4 * W];
  for (int64_t first = 0; first < plan.quads; first += W, maps += W * MAP) {
    const QuadTable table = quad_table(plan, first, matrix, index);
    if (bias)
      maps_of<true>(table, d, bias, out);
    else
      maps_of<false>(table, d, bias, out);
    const int64_t count = plan.quads - first < W ? plan.quads - first : W;
    if constexpr (W <= MAP) {
      for (int c = 0; c < MAP; c += W) {
        const int entry = c + W <= MAP ? c : MAP - W;  // some of them twice
        V r[W];
        load_transposed([&](int64_t j) { return out + W * (entry + j); }, r);
        CK_UNROLL(8)
        for (int64_t j = 0; j < W; j++)
          if (j < count) storeu(maps + j * MAP + entry, r[j]);
      }
    } else {
      for (int64_t j = 0; j < count; j++)
        for (int i = 0; i < MAP; i++) maps[j * MAP + i] = out[W * i + j];
    }
  }
}

CK_INLINE void load_group(const float* z, V re[4], V im[4]) {
  CK_UNROLL(4)
  for (int i = 0; i < 4; i++) re[i] = load_once(z + 2 * W * i), im[i] = load_once(z + 2 * W * i + W);
}

CK_INLINE void store_group(float* z, const V re[4], const V im[4]) {
  CK_UNROLL(4)
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
    CK_UNROLL(4)
    for (int i = 0; i < 4; i++) map_quad(maps + i * MAP, ar[i], ai[i], br[3 - i], bi[3 - i]);
  }
  bf<4>(ai, ar);
  bf<4>(bi, br);
  store_group(first, ar, ai);
  store_group(second, br, bi);
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
  for (; first < last; first++, maps += 4 * MAP) map_pair(z, plan.pairs + 2 * first, maps, false);
  return maps;
}

// Whether the quad's second number is the spare one beside the data (M odd, k = 0). It is read with factors of zero and
// never written, so that a NaN in one row does not stand there for the rows after it.
CK_INLINE bool is_alone(const CosineView& plan, int64_t quad) { return plan.index[4 * quad] < 0; }

// Where the innermost pass is not of radix 4: the maps by themselves.
static void map_quads(const CosineView& plan, float* z, const float* maps) {
  for (int64_t quad = 0; quad < plan.quads; quad++, maps += MAP) {
    float *first = z + 2 * W * plan.position[2 * quad], *second = z + 2 * W * plan.position[2 * quad + 1];
    V zr = load(first), zi = load(first + W), yr = load(second), yi = load(second + W);
    map_quad(maps, zr, zi, yr, yi);
    store(first, zr), store(first + W, zi);
    if (!is_alone(plan, quad)) store(second, yr), store(second + W, yi);
  }
}

}  // namespace ck::CK_ISA
