// The gradients of a Fastfood stack. The middle is computed again, not kept from the forward pass:
// h = H (b * x), p = P h, u = H (g * p), product = scale * s * u; then back through each.
#pragma once

#include "fastfood.h"

namespace ck::CK_ISA {

// The gradient by the products u * s from that by the features, for rows of `count`.
static __attribute__((noinline)) void product_gradient(const ck_fastfood& f, const float* u, const float* s,
                                                       const float* grad_y, float* gradient, int64_t count) {
  for (int64_t i = 0; i < count; i++) gradient[i] = u[i] * s[i];
  if (f.features == CK_FASTFOOD_RELU) {
    for (int64_t i = 0; i < count; i++) gradient[i] = gradient[i] > 0 ? grad_y[i] : 0.0f;
    return;
  }
  const bool small = are_small(gradient, count);
  for (int64_t i = 0; i < count; i += W) {
    const int64_t here = count - i < W ? count - i : W;
    float product[W] = {}, cosine[W], sine[W];
    for (int64_t j = 0; j < here; j++) product[j] = gradient[i + j];
    V c, z;
    if (small) small_sincos(loadu(product), c, z);
    else library_sincos(loadu(product), c, z);
    storeu(cosine, c), storeu(sine, z);
    for (int64_t j = 0; j < here; j++)
      gradient[i + j] = f.rbf_scale * (grad_y[f.width + i + j] * cosine[j] - grad_y[i + j] * sine[j]);
  }
}

// From the gradient q by g * p: that by g is added to, that by h is put back through the permutation.
template <int R>
static __attribute__((noinline)) void through_permutation(const Block& k, const float* q, const float* p,
                                                          const int32_t* from, float* h, float* grad_g) {
  for (int64_t e = 0; e < k.d; e += W) {
    V by_g[R];
    const V g = loadu(k.g + e);
    for_each_vector<R>([&](auto which) {
      constexpr int J = decltype(which)::value;
      const V gradient = loadu(q + e * R + J * W);
      by_g[J] = gradient * loadu(p + e * R + J * W);
      const V back = gradient * spread<R, J>(g);
      if constexpr (R == 4) {
        put_pieces(h, from + (e * R / W + J) * (W / 4), back);
      } else {
        float lane[W];
        storeu(lane, back);
        for (int i = 0; i < W; i++) h[k.permutation.at(e + i)] = lane[i];
      }
    });
    turn<R>(by_g);
    V sum = by_g[0];
    CK_UNROLL(4)
    for (int r = 1; r < R; r++) sum += by_g[r];
    storeu(grad_g + e, loadu(grad_g + e) + sum);
  }
}

// sums[i] += the sum over R rows of a * b
template <int R>
static __attribute__((noinline)) void add_products(const float* a, int64_t a_stride, const float* b, int64_t b_stride,
                                                   float scale, float* sums, int64_t count) {
  for (int64_t i = 0; i < count; i++) {
    float sum = a[i] * b[i];
    for (int r = 1; r < R; r++) sum += a[r * a_stride + i] * b[r * b_stride + i];
    sums[i] += scale * sum;
  }
}

// grad_x = z * b, or plus that.
static __attribute__((noinline)) void add_input(const float* z, const float* b, float* grad_x, int64_t count,
                                                bool is_first) {
  if (is_first)
    for (int64_t i = 0; i < count; i++) grad_x[i] = z[i] * b[i];
  else
    for (int64_t i = 0; i < count; i++) grad_x[i] += z[i] * b[i];
}

// Buffers of R rows each, and s * scale filled up with zeros.
struct Middle {
  float *h, *p, *q, *s;
};

template <int R, int C>
static void backward_rows(const FastfoodCall& c, const Block& k, int64_t row, const Middle& m) {
  const int64_t stride = R * C, total = R * k.d / W, columns = k.stack->columns_in;
  const float* x = c.x + row * c.x_stride;
  enter<R, C>(x, c.x_stride, columns, k.b, m.h, 0, k.d);
  distant(m.h, stride, total);
  if constexpr (R == 4)
    for (int64_t v = 0; v < total; v++) storeu(m.p + v * W, pieces(m.h, c.places + v * (W / 4)));
  else
    for (int64_t i = 0; i < k.d; i++) m.p[i] = m.h[k.permutation.at(i)];
  weighted_in_order<R>(m.p, k.g, m.q, stride, total, Parts::whole(k.d));

  leave_to_rows<R, C>(m.q, m.h, k.d);  // u
  const float* gradient = c.grad_y + row * c.y_stride + k.first;
  int64_t step = c.y_stride;
  if (k.stack->features != CK_FASTFOOD_LINEAR) {
    for (int r = 0; r < R; r++)
      product_gradient(*k.stack, m.h + r * k.d, m.s, gradient + r * step, m.q + r * k.d, k.columns);
    gradient = m.q, step = k.d;
  }
  add_products<R>(m.h, k.d, gradient, step, k.stack->scale, c.grad_s + k.first, k.columns);
  enter<R, C>(gradient, step, k.columns, m.s, m.h, 0, k.d);
  distant(m.h, stride, total);  // the gradient by g * p

  through_permutation<R>(k, m.h, m.p, c.places, m.q, c.grad_g + k.first);
  distant(m.q, stride, total);
  leave_to_rows<R, C>(m.q, m.h, k.d);  // the gradient by b * x
  add_products<R>(m.h, k.d, x, c.x_stride, 1.0f, c.grad_b + k.first, columns);
  if (!c.grad_x) return;
  for (int r = 0; r < R; r++) add_input(m.h + r * k.d, k.b, c.grad_x + (row + r) * columns, columns, k.first == 0);
}

// d < W: one row, plainly.
static void short_backward(const FastfoodCall& c, const Block& k, int64_t row, const float* s) {
  const int64_t d = k.d, columns = k.stack->columns_in;
  const float* x = c.x + row * c.x_stride;
  float z[W], h[W], p[W], u[W], bent[W];
  for (int64_t i = 0; i < d; i++) z[i] = i < columns ? x[i] * k.b[i] : 0.0f;
  short_fwht(z, h, d);
  for (int64_t i = 0; i < d; i++) p[i] = h[k.permutation.at(i)], z[i] = p[i] * k.g[i];
  short_fwht(z, u, d);
  const float* gradient = c.grad_y + row * c.y_stride + k.first;
  if (k.stack->features != CK_FASTFOOD_LINEAR) {
    product_gradient(*k.stack, u, s, gradient, bent, k.columns);
    gradient = bent;
  }
  add_products<1>(u, 0, gradient, 0, k.stack->scale, c.grad_s + k.first, k.columns);
  for (int64_t i = 0; i < d; i++) z[i] = i < k.columns ? gradient[i] * s[i] : 0.0f;
  short_fwht(z, u, d);
  for (int64_t i = 0; i < d; i++) {
    c.grad_g[k.first + i] += u[i] * p[i];
    h[k.permutation.at(i)] = u[i] * k.g[i];
  }
  short_fwht(h, z, d);
  add_products<1>(z, 0, x, 0, 1.0f, c.grad_b + k.first, columns);
  if (c.grad_x) add_input(z, k.b, c.grad_x + row * columns, columns, k.first == 0);
}

static void backward_block(const FastfoodCall& c, const Block& k) {
  const Middle m{c.scratch, c.scratch + 4 * k.d, c.scratch + 8 * k.d, c.scratch + 12 * k.d};
  for (int64_t i = 0; i < k.d; i++) m.s[i] = i < k.columns ? k.s[i] * k.stack->scale : 0.0f;
  int64_t row = 0;
  if (k.d < W) {
    for (; row < c.rows; row++) short_backward(c, k, row, m.s);
    return;
  }
  if (takes_four_rows(k.d, c.rows)) {
    find_places(k.permutation, c.places, k.d, Parts::whole(k.d));
    with_groups<4>(k.d, [&](auto groups) {
      for (; row + 4 <= c.rows; row += 4) backward_rows<4, decltype(groups)::value>(c, k, row, m);
    });
  }
  with_groups<1>(k.d, [&](auto groups) {
    for (; row < c.rows; row++) backward_rows<1, decltype(groups)::value>(c, k, row, m);
  });
}

static void fastfood_backward(const FastfoodCall& c) {
  for (int64_t m = 0; m < c.stack->blocks; m++) backward_block(c, Block(*c.stack, m));
}

}  // namespace ck::CK_ISA
