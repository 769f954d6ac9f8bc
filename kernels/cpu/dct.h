// The cosine transform by itself, W rows at a time: the first half of a member of the cascade, or the second.
#pragma once

#include "acdc_backward.h"

namespace ck::CK_ISA {

// The coefficients' buffer h has them in their own order, `stride` vectors apart; what a quad has not is read as zero and not written.
static void unpack_quads(const CosineView& plan, const float* z, float* h, int64_t stride) {
  for (int64_t quad = 0; quad < plan.quads; quad++) {
    const float *first = z + 2 * W * int64_t{plan.position[2 * quad]};
    const float *second = z + 2 * W * int64_t{plan.position[2 * quad + 1]};
    const V zr = load(first), zi = load(first + W), yr = load(second), yi = load(second + W);
    V t[8];
    CK_UNROLL(8)
    for (int i = 0; i < 8; i++) t[i] = splat(plan.matrix[i * plan.quads + quad]);
    const V x[4] = {t[0] * zr - t[1] * zi + t[2] * yr + t[3] * yi, t[2] * yi - t[1] * zr - t[0] * zi - t[3] * yr,
                    t[4] * zr - t[5] * zi + t[6] * yr + t[7] * yi, t[5] * zr + t[4] * zi + t[7] * yr - t[6] * yi};
    const int32_t* index = plan.index + 4 * quad;
    for (int i = 0; i < 4; i++)
      if (index[i] >= 0) store(h + W * stride * index[i], x[i]);
  }
}

static void pack_quads(const CosineView& plan, const float* h, int64_t stride, float* z) {
  for (int64_t quad = 0; quad < plan.quads; quad++) {
    const int32_t* index = plan.index + 4 * quad;
    V t[8], x[4];
    CK_UNROLL(8)
    for (int i = 0; i < 8; i++) t[i] = splat(plan.matrix[i * plan.quads + quad]);
    for (int i = 0; i < 4; i++) x[i] = index[i] < 0 ? zero() : load(h + W * stride * index[i]);
    float *first = z + 2 * W * int64_t{plan.position[2 * quad]};
    float *second = z + 2 * W * int64_t{plan.position[2 * quad + 1]};
    store(first, t[0] * x[0] - t[1] * x[1] + t[4] * x[2] + t[5] * x[3]);
    store(first + W, t[4] * x[3] - t[1] * x[0] - t[0] * x[1] - t[5] * x[2]);
    if (is_alone(plan, quad)) continue;
    store(second, t[2] * x[0] - t[3] * x[1] + t[6] * x[2] + t[7] * x[3]);
    store(second + W, t[3] * x[0] + t[2] * x[1] + t[7] * x[2] - t[6] * x[3]);
  }
}

// The innermost radix over the whole buffer, where the plan keeps it apart.
static void innermost(const CosineView& plan, float* z, bool is_forward) {
  if (!plan.fused) return;
  const Pass& outer = plan.passes[0];
  for (int64_t part = 0; part < outer.radix; part++)
    for (int64_t j = 0; j < outer.step; j += 4) {
      float* group = z + 2 * W * (outer.stride * part + j);
      transform_group(group, group, is_forward);
    }
}

static int64_t dct_scratch(const CosineView& plan) { return 2 * buffer_floats(plan); }

static void dct(const DctCall& call) {
  CosineView natural = call.plan;
  natural.slot = call.natural;
  const CosineView& plan = call.plan;
  const Pass& outer = plan.passes[0];
  float *h = call.scratch, *z = h + buffer_floats(plan);
  for (int64_t i = 0; i < 2 * buffer_floats(plan); i++) h[i] = 0.0f;
  for (int64_t row = 0; row < call.rows; row += W) {
    const int64_t rows = call.rows - row < W ? call.rows - row : W;
    const float* x = call.x + row * call.x_stride;
    float* y = call.y + row * call.y_stride;
    if (call.is_inverse) {
      enter_rows(x, rows, call.x_stride, plan.n, natural, h);
      pack_quads(plan, h, 1, z);
      innermost(plan, z, false);
      inner_backward(plan, z);
      last_pass(z, h, outer, false);
      leave_rows(h, plan, y, rows, call.y_stride, plan.n);
    } else {
      enter_rows(x, rows, call.x_stride, plan.n, plan, h);
      first_pass({h, nullptr, nullptr}, z, outer);
      inner_forward(plan, z);
      innermost(plan, z, true);
      unpack_quads(plan, z, h, 1);
      leave_rows(h, natural, y, rows, call.y_stride, plan.n);
    }
  }
}

}  // namespace ck::CK_ISA
