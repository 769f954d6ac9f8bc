// A cascade of diagonals between cosine transforms, W rows at a time, one on each lane.
//
// Nothing is ever put back in order: the forward transform is decimated in frequency, the backward one in time, and the
// maps between them stand in the order of reversed digits. The rows stay on the lanes from the first member to the last.
#pragma once

#include "outer.h"
#include "quads.h"
#include "rows.h"

namespace ck::CK_ISA {

// Tables of one member in the order in which the kernels read them.
struct Member {
  const uint32_t* slot;  // in floats; NULL: not permuted
  const float* a;        // NULL: 1
  const float* maps;
};

static int64_t padded(int64_t floats) { return (floats + 15) / 16 * 16; }

// The scratch: two buffers, then for each member maps, a and slots.
static int64_t buffer_floats(const CosineView& plan) { return W * buffer_vectors(plan.vectors); }
static int64_t member_floats(const CosineView& plan) { return padded(plan.quads * MAP) + 2 * padded(plan.n); }

static int64_t acdc_scratch(const ck_acdc& cascade, const CosineView& plan) {
  return 2 * buffer_floats(plan) + cascade.k * member_floats(plan);
}

static uint32_t permuted(const ck_acdc& c, int64_t at) {
  if (c.flags & CK_ACDC_INDEX_16) return static_cast<const uint16_t*>(c.permutation)[at];
  return static_cast<uint32_t>(static_cast<const int32_t*>(c.permutation)[at]);
}

template <class Index>
CK_INLINE void pack_slots(const CosineView& plan, const Index* permutation, uint32_t* slot) {
  in_first_order(plan.passes[0], [&](int64_t at, int64_t s) {
    slot[at] = W * plan.slot[permutation[makhoul_source(s, plan.n)]];
  });
}

static void pack_member(const ck_acdc& c, const CosineView& plan, int64_t k, float* memory) {
  const int64_t n = plan.n, fixed = c.flags & CK_ACDC_FIRST_FIXED ? 1 : 0, first = (k - 1) * n;
  pack_maps(plan, c.d + k * n, c.bias ? c.bias + k * n : nullptr, memory);
  float* a = memory + padded(plan.quads * MAP);
  if (k >= fixed) {
    const float* from = c.a + (k - fixed) * n;
    in_first_order(plan.passes[0], [&](int64_t at, int64_t s) { a[at] = from[makhoul_source(s, n)]; });
  }
  if (!k || !c.permutation) return;
  uint32_t* slot = reinterpret_cast<uint32_t*>(a + padded(n));
  if (c.flags & CK_ACDC_INDEX_16)
    pack_slots(plan, static_cast<const uint16_t*>(c.permutation) + first, slot);
  else
    pack_slots(plan, static_cast<const int32_t*>(c.permutation) + first, slot);
}

static Member packed_member(const ck_acdc& c, const CosineView& plan, int64_t k, const float* tables) {
  const float* memory = tables + k * member_floats(plan);
  const float* a = memory + padded(plan.quads * MAP);
  const bool is_fixed = c.flags & CK_ACDC_FIRST_FIXED && k == 0;
  return {k && c.permutation ? reinterpret_cast<const uint32_t*>(a + padded(plan.n)) : nullptr, is_fixed ? nullptr : a,
          memory};
}

// All passes but the first and last, and the maps between them; one family of blocks after the other stays in the cache.
static void middle(const CosineView& plan, const float* maps, float* z) {
  const int64_t block = plan.passes[0].step, stride = plan.passes[0].stride;
  for (int64_t f = 0; f < plan.family_count; f++) {
    const Family& family = plan.families[f];
    for (int64_t side = 0; side < 2; side++) {
      if (family.blocks[side] < 0) continue;
      float* start = z + 2 * W * stride * family.blocks[side];
      for (int64_t i = 1; i < plan.pass_count; i++)
        forward_pass(plan.passes[i], start, block);
    }
    maps = map_pairs(plan, family.first_pair, family.last_pair, z, maps);
    for (int64_t side = 0; side < 2; side++) {
      if (family.blocks[side] < 0) continue;
      float* start = z + 2 * W * stride * family.blocks[side];
      for (int64_t i = plan.pass_count - 1; i > 0; i--)
        backward_pass(plan.passes[i], start, block);
    }
  }
}

static void middle_unfused(const CosineView& plan, const float* maps, float* z) {
  const int64_t block = plan.passes[0].step;
  for (int64_t part = 0; part < plan.passes[0].radix; part++) {
    float* start = z + 2 * W * plan.passes[0].stride * part;
    for (int64_t i = 1; i < plan.pass_count; i++) forward_pass(plan.passes[i], start, block);
  }
  map_quads(plan, z, maps);
  for (int64_t part = 0; part < plan.passes[0].radix; part++) {
    float* start = z + 2 * W * plan.passes[0].stride * part;
    for (int64_t i = plan.pass_count - 1; i > 0; i--) backward_pass(plan.passes[i], start, block);
  }
}

static void acdc_forward(const AcdcCall& call) {
  const ck_acdc& c = *call.cascade;
  const CosineView& plan = call.plan;
  float *h = call.scratch, *z = h + buffer_floats(plan), *tables = z + buffer_floats(plan);
  for (int64_t k = 0; k < c.k; k++) pack_member(c, plan, k, tables + k * member_floats(plan));
  for (int64_t i = 0; i < 2 * W; i++)  // the number beside an odd m
    h[(plan.vectors - 2) * W + i] = z[(plan.vectors - 2) * W + i] = 0.0f;
  const Pass& outer = plan.passes[0];
  for (int64_t row = 0; row < call.rows; row += W) {
    const int64_t rows = call.rows - row < W ? call.rows - row : W;
    float *from = h, *to = z;
    enter_rows(call.x + row * call.x_stride, rows, call.x_stride, c.columns_in, plan, from);
    for (int64_t k = 0; k < c.k; k++) {
      const Member member = packed_member(c, plan, k, tables);
      if (member.slot) {  // else in place: another buffer's lines less to fetch
        float* const free = from;
        from = to, to = free;
      }
      first_pass({member.slot ? to : from, member.slot, member.a}, from, outer);
      (plan.fused ? middle : middle_unfused)(plan, member.maps, from);
      last_pass(from, from, outer, c.flags & CK_ACDC_RELU && k + 1 < c.k);
    }
    leave_rows(from, plan, call.y + row * call.y_stride, rows, call.y_stride, c.columns_out);
  }
}

}  // namespace ck::CK_ISA
