// The operator Monarch: inputs x, first (k, k rank, p), second (k, q, k rank), then bias (out_features) where there is
// one.
#include "layers.h"
#include "numbers.h"

namespace ck::ort {
namespace {

// Sizes from a file are multiplied only after they were found to be those of a tensor that is there.
void check(const Tensor& table, const std::vector<int64_t>& sizes, const char* what) {
  if (table.sizes == sizes) return;
  throw Refusal(std::string(what) + " is not of the sizes that the attributes say");
}

class Monarch final : public Layer {
 public:
  Monarch(const Attributes& attributes, const std::vector<Tensor>& tables) {
    stack_.blocks = attributes.number("blocks", 1), stack_.rank = attributes.number("rank", 1);
    stack_.columns_out = attributes.number("out_features", 1);
    const int64_t hidden = stack_.blocks * stack_.rank;
    if (tables[0].sizes.size() != 3 || tables[1].sizes.size() != 3) throw Refusal("Monarch's tables have not three axes");
    stack_.p = tables[0].sizes[2], stack_.q = tables[1].sizes[1];
    check(tables[0], {stack_.blocks, hidden, stack_.p}, "Monarch's first");
    check(tables[1], {stack_.blocks, stack_.q, hidden}, "Monarch's second");
    first_ = floats(tables[0], tables[0].count(), "Monarch's first");
    second_ = floats(tables[1], tables[1].count(), "Monarch's second");
    if (tables.size() > 2) bias_ = floats(tables[2], stack_.columns_out, "Monarch's bias");
    stack_.first = first_.data(), stack_.second = second_.data(), stack_.bias = bias_.empty() ? nullptr : bias_.data();
  }

  int64_t columns_out() const override { return stack_.columns_out; }

  int64_t work() const override { return stack_.blocks * stack_.blocks * stack_.rank * (stack_.p + stack_.q); }

  int run(const float* x, float* y, int64_t rows, int64_t columns, const ck_pool* pool) const override {
    ck_monarch stack = stack_;
    stack.columns_in = columns;
    return ck_monarch_forward_f32(&stack, x, y, rows, columns, stack.columns_out, pool->threads, pool);
  }

 private:
  std::vector<float> first_, second_, bias_;
  ck_monarch stack_{};
};

}  // namespace

std::unique_ptr<const Layer> make_monarch(const Attributes& attributes, const std::vector<Tensor>& tables) {
  return std::make_unique<const Monarch>(attributes, tables);
}

}  // namespace ck::ort
