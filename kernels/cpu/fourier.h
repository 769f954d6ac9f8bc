// The layers between Fourier transforms, W rows at a time, one on each lane (fourier_plan.h). No transform is ever put
// back in order, and the spectra of the layer's own vectors are made by the same passes, W vectors at a time.
#pragma once

#include "dct.h"

namespace ck::CK_ISA {

// The four buffers of a call, zero beside the data.
struct Buffers {
  float *h, *z, *sum, *kept;
};

static Buffers buffers(const CosineView& plan, float* scratch) {
  const int64_t size = buffer_floats(plan);
  for (int64_t buffer = 0; buffer < 4; buffer++)
    for (int64_t i = 0; i < 2 * W; i++) scratch[buffer * size + (plan.vectors - 2) * W + i] = 0.0f;
  return {scratch, scratch + size, scratch + 2 * size, scratch + 3 * size};
}

static CosineView with_slots(CosineView plan, const uint32_t* slot) {
  plan.slot = slot;
  return plan;
}

static void to_spectrum(const CosineView& plan, const Source& source, float* z) {
  first_pass(source, z, plan.passes[0]);
  inner_forward(plan, z);
  innermost(plan, z, true);
}

// M times the inverse.
static void from_spectrum(const CosineView& plan, float* z, float* h) {
  innermost(plan, z, false);
  inner_backward(plan, z);
  last_pass(z, h, plan.passes[0], false);
}

// Calls each(m, where the m-th complex number stands in a buffer).
template <class Each>
CK_INLINE void each_number(const CosineView& plan, const Each& each) {
  const Pass& outer = plan.passes[0];
  for (int64_t part = 0, m = 0; part < outer.radix; part++)
    for (int64_t j = 0; j < outer.step; j++, m++) each(m, 2 * W * (outer.stride * part + j));
}

// to = from times factor[m], (re, im) one after the other, or times its conjugate.
template <bool IS_CONJUGATE>
static void turned(const CosineView& plan, const float* from, const float* factor, float* to) {
  each_number(plan, [&](int64_t m, int64_t at) __attribute__((always_inline)) {
    const V re = load(from + at), im = load(from + at + W), c = splat(factor[2 * m]),
            s = splat(IS_CONJUGATE ? -factor[2 * m + 1] : factor[2 * m + 1]);
    store(to + at, re * c - im * s), store(to + at + W, re * s + im * c);
  });
}

// --- circular convolutions ------------------------------------------------------------------------------------------
//
// A spectrum times another in the form of pairs: with s = E / 2n, q = D / 2n and p = -w^2 q of the filter,
// E' = s E + p D and D' = q E + s D give Z'_k = E' + D' and Z'_{M-k} = conj(E' - D'), with the 1 / M of the inverse.
// Quad 0 has Z_0, whose parts are each other's mirrors, and Z_{M/2}, which is its own; M odd: zeros beside the data.

// The filters of `count` <= W vectors of length n whose spectra stand on the lanes.
static void pack_filters(const FourierView& view, const float* z, int64_t count, float* filters) {
  const CosineView& plan = view.cosine;
  const float half = 0.5f / static_cast<float>(plan.n), whole = 1.0f / static_cast<float>(plan.m);
  for (int64_t quad = 0; quad < plan.quads; quad++) {
    const float *first = z + 2 * W * int64_t{plan.position[2 * quad]};
    const float *second = z + 2 * W * int64_t{plan.position[2 * quad + 1]};
    const float c = view.turns[2 * quad], s = view.turns[2 * quad + 1];
    for (int64_t lane = 0; lane < count; lane++) {
      float* to = filters + FILTER * (lane * plan.quads + quad);
      const float zr = first[lane], zi = first[W + lane], yr = second[lane], yi = second[W + lane];
      const float qr = half * (zr - yr), qi = half * (zi + yi);
      const float general[] = {half * (zr + yr), half * (zi - yi), qr, qi, c * qr - s * qi, c * qi + s * qr};
      const float special[] = {whole * zr, whole * zi, whole * yr, whole * yi, 0, 0};
      for (int64_t i = 0; i < FILTER; i++) to[i] = quad ? general[i] : special[i];
    }
  }
}

template <bool IS_ADDED>
CK_INLINE void put_number(float* to, V re, V im) {
  store(to, IS_ADDED ? load(to) + re : re), store(to + W, IS_ADDED ? load(to + W) + im : im);
}

// sum = z filtered, or what it was and that. They may be the same where nothing is added.
template <bool IS_ADDED>
static void filtered(const CosineView& plan, const float* z, const float* filter, float* sum) {
  const int64_t zeroth = 2 * W * int64_t{plan.position[0]}, middle = 2 * W * int64_t{plan.position[1]};
  const V re = load(z + zeroth), im = load(z + zeroth + W);
  put_number<IS_ADDED>(sum + zeroth, filter[0] * re + filter[1] * im, filter[1] * re + filter[0] * im);
  const V yr = load(z + middle), yi = load(z + middle + W);
  put_number<IS_ADDED>(sum + middle, filter[2] * yr - filter[3] * yi, filter[3] * yr + filter[2] * yi);
  for (int64_t quad = 1; quad < plan.quads; quad++) {
    const int64_t first = 2 * W * int64_t{plan.position[2 * quad]}, second = 2 * W * int64_t{plan.position[2 * quad + 1]};
    const float* f = filter + FILTER * quad;
    const V zr = load(z + first), zi = load(z + first + W), yr = load(z + second), yi = load(z + second + W);
    const V er = zr + yr, ei = zi - yi, dr = zr - yr, di = zi + yi;
    const V sr = splat(f[0]), si = splat(f[1]), qr = splat(f[2]), qi = splat(f[3]), pr = splat(f[4]), pi = splat(f[5]);
    const V ar = sr * er - si * ei + pr * dr - pi * di, ai = sr * ei + si * er + pr * di + pi * dr;
    const V br = qr * er - qi * ei + sr * dr - si * di, bi = qr * ei + qi * er + sr * di + si * dr;
    put_number<IS_ADDED>(sum + first, ar + br, ai + bi);
    put_number<IS_ADDED>(sum + second, ar - br, bi - ai);
  }
}

static void filtered(const CosineView& plan, const float* z, const float* filter, float* sum, bool is_added) {
  (is_added ? filtered<true> : filtered<false>)(plan, z, filter, sum);
}

// The filters of `count` vectors, W at a time.
static void pack_all_filters(const FourierView& view, const float* vectors, int64_t count, const Buffers& b, float* to) {
  const CosineView& plan = view.cosine;
  for (int64_t t = 0; t < count; t += W, to += W * FILTER * plan.quads) {
    const int64_t some = count - t < W ? count - t : W;
    enter_rows(vectors + t * plan.n, some, plan.n, plan.n, with_slots(plan, view.pairs), b.h);
    to_spectrum(plan, {b.h, nullptr, nullptr}, b.z);
    pack_filters(view, b.z, some, to);
  }
}

// --- circulant ------------------------------------------------------------------------------------------------------
//
// Tables: the filters, then the signs of each term in the order of the first pass.

static void circulant_pack(const FourierCall<ck_circulant>& call) {
  const ck_circulant& c = *call.layer;
  const CosineView& plan = call.plan.cosine;
  pack_all_filters(call.plan, c.c, c.terms, buffers(plan, call.scratch), call.tables);
  float* signs = call.tables + c.terms * FILTER * plan.quads;
  for (int64_t t = 0; t < c.terms; t++, signs += c.n)
    in_first_order(plan.passes[0], [&](int64_t at, int64_t s) {
      const int64_t from = t * c.columns_in + s;
      if (s >= c.columns_in)
        signs[at] = 0.0f;
      else
        signs[at] = c.sign_bytes == 1 ? static_cast<float>(static_cast<const int8_t*>(c.signs)[from])
                                      : static_cast<const float*>(c.signs)[from];
    });
}

static void circulant_forward(const FourierCall<ck_circulant>& call) {
  const ck_circulant& c = *call.layer;
  const CosineView plan = with_slots(call.plan.cosine, call.plan.pairs);
  const Buffers b = buffers(plan, call.scratch);
  const float* signs = call.tables + c.terms * FILTER * plan.quads;
  for (int64_t row = 0; row < call.rows; row += W) {
    const int64_t rows = call.rows - row < W ? call.rows - row : W;
    enter_rows(call.x + row * call.x_stride, rows, call.x_stride, c.columns_in, plan, b.h);
    for (int64_t t = 0; t < c.terms; t++) {
      to_spectrum(plan, {b.h, nullptr, signs + t * c.n}, b.z);
      filtered(plan, b.z, call.tables + t * FILTER * plan.quads, b.sum, t > 0);
    }
    from_spectrum(plan, b.sum, b.h);
    leave_rows(b.h, plan, call.y + row * call.y_stride, rows, call.y_stride, c.columns_out);
  }
}

// --- Toeplitz-like ----------------------------------------------------------------------------------------------------
//
// Tables: the filters of g; the spectra of h in the form of halves, over M, (rank, M, 2); then, for the way from halves
// to pairs, ones and slots in the order of the first pass.

static float* toeplitz_spectra(const FourierCall<ck_toeplitz>& call) {
  return call.tables + call.layer->rank * FILTER * call.plan.cosine.quads;
}

static void to_skew_spectrum(const FourierView& view, float* h, float* z) {
  turned<false>(view.cosine, h, view.twist, h);
  to_spectrum(view.cosine, {h, nullptr, nullptr}, z);
}

static void toeplitz_pack(const FourierCall<ck_toeplitz>& call) {
  const ck_toeplitz& t = *call.layer;
  const CosineView& plan = call.plan.cosine;
  const Buffers b = buffers(plan, call.scratch);
  pack_all_filters(call.plan, t.g, t.rank, b, call.tables);
  float* spectra = toeplitz_spectra(call);
  const float whole = 1.0f / static_cast<float>(plan.m);
  for (int64_t j = 0; j < t.rank; j += W) {
    const int64_t some = t.rank - j < W ? t.rank - j : W;
    enter_rows(t.h + j * t.n, some, t.n, t.n, with_slots(plan, call.plan.halves), b.h);
    to_skew_spectrum(call.plan, b.h, b.z);
    each_number(plan, [&](int64_t m, int64_t at) {
      for (int64_t lane = 0; lane < some; lane++)
        for (int64_t part = 0; part < 2; part++)
          spectra[((j + lane) * plan.m + m) * 2 + part] = whole * b.z[at + part * W + lane];
    });
  }
  float* ones = spectra + t.rank * t.n;
  uint32_t* slot = reinterpret_cast<uint32_t*>(ones + t.n);
  in_first_order(plan.passes[0], [&](int64_t at, int64_t s) { ones[at] = 1.0f, slot[at] = W * call.plan.halves[s]; });
}

static void toeplitz_forward(const FourierCall<ck_toeplitz>& call) {
  const ck_toeplitz& t = *call.layer;
  const CosineView& plan = call.plan.cosine;
  const Buffers b = buffers(plan, call.scratch);
  const float *spectra = toeplitz_spectra(call), *ones = spectra + t.rank * t.n;
  const uint32_t* slot = reinterpret_cast<const uint32_t*>(ones + t.n);
  for (int64_t row = 0; row < call.rows; row += W) {
    const int64_t rows = call.rows - row < W ? call.rows - row : W;
    enter_rows(call.x + row * call.x_stride, rows, call.x_stride, t.columns_in, with_slots(plan, call.plan.halves), b.h);
    to_skew_spectrum(call.plan, b.h, b.kept);
    for (int64_t j = 0; j < t.rank; j++) {
      turned<false>(plan, b.kept, spectra + j * t.n, b.z);
      from_spectrum(plan, b.z, b.h);
      turned<true>(plan, b.h, call.plan.twist, b.h);
      to_spectrum(plan, {b.h, slot, ones}, b.z);
      filtered(plan, b.z, call.tables + j * FILTER * plan.quads, b.sum, j > 0);
    }
    from_spectrum(plan, b.sum, b.h);
    leave_rows(b.h, with_slots(plan, call.plan.pairs), call.y + row * call.y_stride, rows, call.y_stride, t.columns_out);
  }
}

// --- AFDF -------------------------------------------------------------------------------------------------------------
//
// Tables: of each member a in order and d in that of the transform, over n, re and im one after the other.

static void afdf_pack(const FourierCall<ck_afdf>& call) {
  const ck_afdf& c = *call.layer;
  const float whole = 1.0f / static_cast<float>(c.n);
  for (int64_t k = 0; k < c.k; k++)
    for (int64_t m = 0; m < c.n; m++)
      for (int64_t part = 0; part < 2; part++) {
        const int64_t from = (2 * k + part) * c.n;
        call.tables[(2 * k * c.n + m) * 2 + part] = c.a[from + m];
        call.tables[((2 * k + 1) * c.n + m) * 2 + part] = whole * c.d[from + call.plan.frequency[m]];
      }
}

static void afdf_forward(const FourierCall<ck_afdf>& call) {
  const ck_afdf& c = *call.layer;
  const CosineView plan = with_slots(call.plan.cosine, call.plan.halves);
  const Buffers b = buffers(plan, call.scratch);
  for (int64_t row = 0; row < call.rows; row += W) {
    const int64_t rows = call.rows - row < W ? call.rows - row : W;
    enter_rows(call.x + row * call.x_stride, rows, call.x_stride, c.columns_in, plan, b.h);
    for (int64_t k = 0; k < c.k; k++) {
      turned<false>(plan, b.h, call.tables + 4 * k * c.n, b.h);
      to_spectrum(plan, {b.h, nullptr, nullptr}, b.z);
      turned<false>(plan, b.z, call.tables + (4 * k + 2) * c.n, b.z);
      from_spectrum(plan, b.z, b.h);
    }
    leave_rows(b.h, plan, call.y + row * call.y_stride, rows, call.y_stride, c.columns_out);
  }
}

}  // namespace ck::CK_ISA
