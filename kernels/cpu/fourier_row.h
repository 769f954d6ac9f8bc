// The layers between Fourier transforms over one row at a time, the row lying across the lanes (row_plan.h).
//
// As with rows on lanes the spectra of the layer's own vectors are made by the same passes, once a call; nothing is packed.
#pragma once

#include "gather.h"
#include "row_lanes.h"

namespace ck::CK_ISA {

static int64_t row_floats(const RowView& plan) { return plan.n + 2 * W; }

// `pairs` (fourier_plan.h): neighbours are re and im of one number.
template <class Get>
CK_INLINE void enter_pairs(const RowView& plan, float* z, const Get& get) {
  for (int64_t i = 0; i < plan.n; i += 2 * W) {
    const V low = get(i), high = get(i + W);
    store(z + i, shuffle(low, high, [](int j) { return 2 * j; }));
    store(z + i + W, shuffle(low, high, [](int j) { return 2 * j + 1; }));
  }
}

static void leave_pairs(const float* z, float* y, int64_t columns) {
  for (int64_t i = 0; i < columns; i += 2 * W) {
    const V re = load(z + i), im = load(z + i + W);
    store_part(y + i, shuffle(re, im, [](int j) { return j / 2 + j % 2 * W; }), columns - i);
    store_part(y + i + W, shuffle(re, im, [](int j) { return (W + j) / 2 + j % 2 * W; }), columns - i - W);
  }
}

// --- circular convolutions ------------------------------------------------------------------------------------------

struct Complex {
  V re, im;
};

CK_INLINE Complex operator*(Complex a, Complex b) { return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re}; }
CK_INLINE Complex operator+(Complex a, Complex b) { return {a.re + b.re, a.im + b.im}; }
CK_INLINE Complex operator-(Complex a, Complex b) { return {a.re - b.re, a.im - b.im}; }
CK_INLINE Complex number_at(const float* z) { return {load(z), load(z + W)}; }
CK_INLINE void put_at(float* z, Complex v) { store(z, v.re), store(z + W, v.im); }

// Twice the spectrum of a real row from that of its pairs, at k and, conjugate, at the mirror of k.
struct Halves {
  Complex at_k, at_mirror;
};

CK_INLINE Halves halves_of(Complex z, Complex y, Complex iw) {
  const Complex e = {z.re + y.re, z.im - y.im}, o = iw * Complex{z.re - y.re, z.im + y.im};
  return {e - o, e + o};
}

// A sum of products of Z_0, whose parts are each other's mirrors, and one of Z_{M/2}, which is its own.
struct Singles {
  float re = 0, im = 0, middle_re = 0, middle_im = 0;

  void add(const RowGroup& z, const RowGroup& c) {
    const float *y = z.far + 2 * W * (W - 1), *d = c.far + 2 * W * (W - 1);
    re += z.near[0] * c.near[0] + z.near[W] * c.near[W], im += z.near[0] * c.near[W] + z.near[W] * c.near[0];
    middle_re += y[0] * d[0] - y[W] * d[W], middle_im += y[0] * d[W] + y[W] * d[0];
  }
  void put(RowGroup& z, float scale) const {
    float* y = z.far + 2 * W * (W - 1);
    z.near[0] = scale * re, z.near[W] = scale * im, y[0] = scale * middle_re, y[W] = scale * middle_im;
  }
};

// z[0] = sum of z[t] times c[t], as spectra of real rows, over n; the buffers of a row stand one behind the other.
template <bool IS_SPECIAL>
static void convolve_group(const RowView& plan, int64_t group, int64_t terms, float* z, const float* c) {
  RowGroup x, of_c, sum;
  Singles singles;
  const float* matrix = plan.matrix + group * 4 * W * W;
  for (int64_t t = 0; t < terms; t++) {
    enter_group<IS_SPECIAL>(plan, group, z + t * row_floats(plan), x);
    enter_group<IS_SPECIAL>(plan, group, c + t * row_floats(plan), of_c);
    if (IS_SPECIAL) singles.add(x, of_c);
    for (int64_t slot = 0; slot < W; slot++) {
      const Complex iw = number_at(matrix + 4 * W * slot);
      const Halves h = halves_of(number_at(x.near_at(slot)), number_at(x.far_at(slot)), iw);
      const Halves f = halves_of(number_at(of_c.near_at(slot)), number_at(of_c.far_at(slot)), iw);
      const Complex p = h.at_k * f.at_k, q = h.at_mirror * f.at_mirror;
      Complex e = p + q, o = q - p;
      if (t) e = e + number_at(sum.near_at(slot)), o = o + number_at(sum.far_at(slot));
      put_at(sum.near_at(slot), e), put_at(sum.far_at(slot), o);
    }
  }
  const V scale = splat(0.25f / static_cast<float>(plan.n));
  for (int64_t slot = 0; slot < W; slot++) {
    const Complex iw = number_at(matrix + 4 * W * slot), e = number_at(sum.near_at(slot)), o = number_at(sum.far_at(slot));
    const Complex d = {iw.re * o.re + iw.im * o.im, iw.re * o.im - iw.im * o.re};
    put_at(x.near_at(slot), {scale * (e.re + d.re), scale * (e.im + d.im)});
    put_at(x.far_at(slot), {scale * (e.re - d.re), scale * (d.im - e.im)});
  }
  if (IS_SPECIAL) singles.put(x, 2.0f / static_cast<float>(plan.n));
  leave_group<IS_SPECIAL>(plan, group, z, x);
}

static void convolve(const RowView& plan, int64_t terms, float* z, const float* c) {
  convolve_group<true>(plan, 0, terms, z, c);
  for (int64_t group = 1; group < plan.groups; group++) convolve_group<false>(plan, group, terms, z, c);
  columns_backward(plan, z);
}

// The columns' transforms of `count` vectors of length n.
static void enter_vectors(const RowView& plan, const float* vectors, int64_t count, float* z) {
  for (int64_t t = 0; t < count; t++, vectors += plan.n, z += row_floats(plan)) {
    enter_pairs(plan, z, [&](int64_t i) { return loadu(vectors + i); });
    columns_forward(plan, z);
  }
}

// --- circulant ------------------------------------------------------------------------------------------------------

CK_INLINE V load_signs(const ck_circulant& c, int64_t term, int64_t i) {
  const int64_t from = term * c.columns_in + i, count = c.columns_in - i;
  if (c.sign_bytes == 4) return load_part(static_cast<const float*>(c.signs) + from, count);
  const int8_t* signs = static_cast<const int8_t*>(c.signs) + from;
  V v = zero();
  for (int64_t j = 0; j < W && j < count; j++) v[j] = static_cast<float>(signs[j]);
  return v;
}

static int64_t circulant_row_scratch(const ck_circulant& c, const RowView& plan) {
  return 2 * c.terms * row_floats(plan);
}

static void circulant_row_forward(const FourierRowCall<ck_circulant>& call) {
  const ck_circulant& c = *call.layer;
  const RowView& plan = call.plan;
  float *z = call.scratch, *spectra = z + c.terms * row_floats(plan);
  for (int64_t t = 0; t < 2 * c.terms; t++) clear_dummy(plan, z + t * row_floats(plan));
  enter_vectors(plan, c.c, c.terms, spectra);
  for (int64_t row = 0; row < call.rows; row++) {
    const float* x = call.x + row * call.x_stride;
    for (int64_t t = 0; t < c.terms; t++) {
      float* to = z + t * row_floats(plan);
      enter_pairs(plan, to, [&](int64_t i) { return load_part(x + i, c.columns_in - i) * load_signs(c, t, i); });
      columns_forward(plan, to);
    }
    convolve(plan, c.terms, z, spectra);
    leave_pairs(z, call.y + row * call.y_stride, c.columns_out);
  }
}

// --- Toeplitz-like ----------------------------------------------------------------------------------------------------

CK_INLINE Complex turn_at(const float* twist, int64_t v) {
  const V low = loadu(twist + 2 * W * v), high = loadu(twist + 2 * W * v + W);
  return {shuffle(low, high, [](int j) { return 2 * j; }), shuffle(low, high, [](int j) { return 2 * j + 1; })};
}

// `halves`, turned: v[m] and v[m + M] are re and im of one number.
static void enter_halves(const RowView& plan, const float* twist, const float* v, int64_t count, float* z) {
  for (int64_t i = 0; i < plan.length; i++)
    put_at(z + 2 * W * i, turn_at(twist, i) * Complex{load_part(v + i * W, count - i * W),
                                                      load_part(v + plan.m + i * W, count - plan.m - i * W)});
  columns_forward(plan, z);
}

static void leave_halves(const RowView& plan, const float* twist, float* z, float* v) {
  columns_backward(plan, z);
  for (int64_t i = 0; i < plan.length; i++) {
    const Complex turn = turn_at(twist, i), number = Complex{turn.re, -turn.im} * number_at(z + 2 * W * i);
    store(v + i * W, number.re), store(v + plan.m + i * W, number.im);
  }
}

// to = x times h, number by number, over M.
template <bool IS_SPECIAL>
static void multiply_group(const RowView& plan, int64_t group, const float* x, const float* h, float* to) {
  RowGroup a, b;
  enter_group<IS_SPECIAL>(plan, group, x, a);
  enter_group<IS_SPECIAL>(plan, group, h, b);
  const V whole = splat(1.0f / static_cast<float>(plan.m));
  for (int64_t slot = 0; slot < W; slot++) {
    const Complex near = number_at(a.near_at(slot)) * number_at(b.near_at(slot));
    const Complex far = number_at(a.far_at(slot)) * number_at(b.far_at(slot));
    put_at(a.near_at(slot), {whole * near.re, whole * near.im});
    put_at(a.far_at(slot), {whole * far.re, whole * far.im});
  }
  leave_group<IS_SPECIAL>(plan, group, to, a);
}

// The row itself, and of each term its number, both vectors of the layer; and a row in its own order.
static int64_t toeplitz_row_scratch(const ck_toeplitz& t, const RowView& plan) {
  return (3 * t.rank + 2) * row_floats(plan);
}

static void toeplitz_row_forward(const FourierRowCall<ck_toeplitz>& call) {
  const ck_toeplitz& t = *call.layer;
  const RowView& plan = call.plan;
  const int64_t size = row_floats(plan);
  float *z = call.scratch, *of_g = z + t.rank * size, *of_h = of_g + t.rank * size, *of_x = of_h + t.rank * size;
  float* v = of_x + size;
  for (int64_t i = 0; i < 3 * t.rank + 1; i++) clear_dummy(plan, z + i * size);
  enter_vectors(plan, t.g, t.rank, of_g);
  for (int64_t j = 0; j < t.rank; j++) enter_halves(plan, call.twist, t.h + j * t.n, t.n, of_h + j * size);
  for (int64_t row = 0; row < call.rows; row++) {
    enter_halves(plan, call.twist, call.x + row * call.x_stride, t.columns_in, of_x);
    for (int64_t j = 0; j < t.rank; j++) {
      multiply_group<true>(plan, 0, of_x, of_h + j * size, z + j * size);
      for (int64_t group = 1; group < plan.groups; group++)
        multiply_group<false>(plan, group, of_x, of_h + j * size, z + j * size);
      leave_halves(plan, call.twist, z + j * size, v);
      enter_vectors(plan, v, 1, z + j * size);
    }
    convolve(plan, t.rank, z, of_g);
    leave_pairs(z, call.y + row * call.y_stride, t.columns_out);
  }
}

// --- AFDF -------------------------------------------------------------------------------------------------------------

// The diagonal, re before im, at the frequencies of a slot and their mirrors.
template <bool IS_SPECIAL>
CK_INLINE void load_diagonal(const RowView& plan, int64_t group, int64_t slot, const float* d, V& near, V& far) {
  const int64_t k = group * W + plan.length * slot;
  near = loadu(d + k);
  far = IS_SPECIAL ? reverse_from_1(loadu(d + plan.m - k - W)) : reverse(loadu(d + plan.m - k - W + 1));
  if (IS_SPECIAL) {
    const int64_t first = slot < W / 2 ? k : k - plan.m / 2 + plan.length / 2;
    near[0] = d[first], far[0] = d[first ? plan.m - first : plan.m / 2];
  }
}

template <bool IS_SPECIAL>
static void scale_group(const RowView& plan, int64_t group, const float* d, float* z) {
  RowGroup both;
  enter_group<IS_SPECIAL>(plan, group, z, both);
  const V whole = splat(1.0f / static_cast<float>(plan.m));
  for (int64_t slot = 0; slot < W; slot++) {
    Complex near, far;
    load_diagonal<IS_SPECIAL>(plan, group, slot, d, near.re, far.re);
    load_diagonal<IS_SPECIAL>(plan, group, slot, d + plan.m, near.im, far.im);
    put_at(both.near_at(slot), number_at(both.near_at(slot)) * Complex{whole * near.re, whole * near.im});
    put_at(both.far_at(slot), number_at(both.far_at(slot)) * Complex{whole * far.re, whole * far.im});
  }
  leave_group<IS_SPECIAL>(plan, group, z, both);
}

static int64_t afdf_row_scratch(const ck_afdf&, const RowView& plan) { return row_floats(plan); }

static void afdf_row_forward(const FourierRowCall<ck_afdf>& call) {
  const ck_afdf& c = *call.layer;
  const RowView& plan = call.plan;
  float* z = call.scratch;
  clear_dummy(plan, z);
  for (int64_t row = 0; row < call.rows; row++) {
    const float* x = call.x + row * call.x_stride;
    for (int64_t k = 0; k < c.k; k++) {
      const float *a = c.a + 2 * k * c.n, *d = c.d + 2 * k * c.n;
      for (int64_t i = 0; i < plan.length; i++) {
        const Complex h = k ? number_at(z + 2 * W * i) : Complex{load_part(x + i * W, c.columns_in - i * W), zero()};
        put_at(z + 2 * W * i, h * Complex{loadu(a + i * W), loadu(a + c.n + i * W)});
      }
      columns_forward(plan, z);
      scale_group<true>(plan, 0, d, z);
      for (int64_t group = 1; group < plan.groups; group++) scale_group<false>(plan, group, d, z);
      columns_backward(plan, z);
    }
    float* y = call.y + row * call.y_stride;
    for (int64_t i = 0; i * W < c.columns_out; i++) store_part(y + i * W, load(z + 2 * W * i), c.columns_out - i * W);
  }
}

}  // namespace ck::CK_ISA
