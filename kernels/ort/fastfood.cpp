// The operator Fastfood: inputs x, B (blocks, d), perm (blocks, d), G (blocks, d), S (at least width).
#include <cmath>

#include "layers.h"
#include "numbers.h"

namespace ck::ort {
namespace {

int64_t features_of(const std::string& word) {
  if (word == "linear") return CK_FASTFOOD_LINEAR;
  if (word == "relu") return CK_FASTFOOD_RELU;
  if (word == "rbf") return CK_FASTFOOD_RBF;
  throw Refusal("Fastfood has no features '" + word + "'");
}

// The stack in one kernel, and one more for a nonlinearity.
class DeviceFastfood final : public DeviceLayer {
 public:
  DeviceFastfood(const Cuda& cuda, const ck_fastfood& stack, Upload b, Upload g, Upload s, Upload permutation)
      : cuda_(cuda), features_(stack.features), b_(std::move(b)), g_(std::move(g)), s_(std::move(s)),
        permutation_(std::move(permutation)) {
    stack_ = {stack.d, stack.blocks, stack.width, 0, 0, b_.as<float>(), g_.as<float>(), s_.as<float>(),
              permutation_.as<void>()};
    if (stack.flags & CK_FASTFOOD_INDEX_16) stack_.flags |= CK_CUDA_FASTFOOD_INDEX_16;
  }

  int run(int typed, const void* x, void* y, int64_t rows, int64_t columns, void* stream) const override {
    ck_cuda_fastfood stack = stack_;
    stack.columns_in = columns;
    const bool is_rbf = features_ == CK_FASTFOOD_RBF;
    const int64_t stride = stack.width * (is_rbf ? 2 : 1);
    const int error = cuda_.fastfood_forward[typed](&stack, x, y, rows, columns, stride, stream);
    if (error || features_ == CK_FASTFOOD_LINEAR) return error;
    return cuda_.bend[typed](y, rows, stack.width, stride, is_rbf, stream);
  }

 private:
  const Cuda& cuda_;
  const int64_t features_;
  const Upload b_, g_, s_, permutation_;
  ck_cuda_fastfood stack_;
};

class Fastfood final : public Layer {
 public:
  Fastfood(const Attributes& attributes, const std::vector<Tensor>& tables) {
    const int64_t d = attributes.number("d", 1), blocks = attributes.number("blocks", 1);
    const int64_t width = attributes.number("width", 1);
    b_ = floats(tables[0], blocks * d, "Fastfood's B"), g_ = floats(tables[2], blocks * d, "Fastfood's G");
    permutation_ = indices(tables[1], blocks * d, d, "Fastfood's perm");
    const bool is_small = d <= UINT16_MAX + 1;
    if (is_small) small_permutation_.assign(permutation_.begin(), permutation_.end());
    const int64_t scales = tables[3].count();
    if (scales < width) throw Refusal("Fastfood's S holds " + std::to_string(scales) + " numbers, fewer than its width");
    s_ = floats(tables[3], scales, "Fastfood's S");
    stack_.d = d, stack_.blocks = blocks, stack_.width = width;
    stack_.features = features_of(attributes.words.at("features"));
    stack_.flags = is_small ? CK_FASTFOOD_INDEX_16 : 0;
    stack_.scale = 1.0f, stack_.rbf_scale = static_cast<float>(std::sqrt(1.0 / static_cast<double>(width)));
    stack_.b = b_.data(), stack_.g = g_.data(), stack_.s = s_.data();
    stack_.permutation = is_small ? static_cast<const void*>(small_permutation_.data()) : permutation_.data();
  }

  int64_t columns_out() const override { return stack_.width * (stack_.features == CK_FASTFOOD_RBF ? 2 : 1); }

  int64_t work() const override { return stack_.blocks * stack_.d * 24; }

  int run(const float* x, float* y, int64_t rows, int64_t columns, const ck_pool* pool) const override {
    ck_fastfood stack = stack_;
    stack.columns_in = columns;
    return ck_fastfood_forward_f32(&stack, x, y, rows, columns, columns_out(), pool->threads, pool);
  }

  std::unique_ptr<const DeviceLayer> on_device(const Cuda& cuda) const override {
    Upload permutation = small_permutation_.empty() ? Upload(cuda, permutation_) : Upload(cuda, small_permutation_);
    return std::make_unique<const DeviceFastfood>(cuda, stack_, Upload(cuda, b_), Upload(cuda, g_), Upload(cuda, s_),
                                                  std::move(permutation));
  }

 private:
  std::vector<float> b_, g_, s_;
  std::vector<int32_t> permutation_;
  std::vector<uint16_t> small_permutation_;
  ck_fastfood stack_{};
};

}  // namespace

std::unique_ptr<const Layer> make_fastfood(const Attributes& attributes, const std::vector<Tensor>& tables) {
  return std::make_unique<const Fastfood>(attributes, tables);
}

}  // namespace ck::ort
