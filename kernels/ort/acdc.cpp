// The operator ACDC: inputs x, a (K, N), d (K, N), then beta (K, N) where `bias`, then perm (K - 1, N) where `permuted`.
#include "layers.h"
#include "numbers.h"

namespace ck::ort {
namespace {

// The cascade in one kernel; its tables are those of the CPU's, and the twiddles.
class DeviceAcdc final : public DeviceLayer {
 public:
  DeviceAcdc(const Cuda& cuda, const ck_acdc& c, Upload a, Upload d, Upload bias, Upload permutation, Upload twiddles)
      : cuda_(cuda), a_(std::move(a)), d_(std::move(d)), bias_(std::move(bias)), permutation_(std::move(permutation)),
        twiddles_(std::move(twiddles)) {
    cascade_ = {c.n, c.k, 0, c.columns_out, 0, a_.as<float>(), d_.as<float>(), bias_.as<float>(),
                permutation_.as<void>(), twiddles_.as<float>()};
    if (c.flags & CK_ACDC_RELU) cascade_.flags |= CK_CUDA_ACDC_RELU;
    if (c.flags & CK_ACDC_INDEX_16) cascade_.flags |= CK_CUDA_ACDC_INDEX_16;
  }

  int run(int typed, const void* x, void* y, int64_t rows, int64_t columns, void* stream) const override {
    ck_cuda_acdc cascade = cascade_;
    cascade.columns_in = columns;
    return cuda_.acdc_forward[typed](&cascade, x, y, rows, columns, cascade.columns_out, stream);
  }

 private:
  const Cuda& cuda_;
  const Upload a_, d_, bias_, permutation_, twiddles_;
  ck_cuda_acdc cascade_;
};

class Acdc final : public Layer {
 public:
  Acdc(const Attributes& attributes, const std::vector<Tensor>& tables) {
    const bool has_bias = attributes.number("bias", 0), is_permuted = attributes.number("permuted", 0);
    if (tables.size() != 2u + has_bias + is_permuted)
      throw Refusal("ACDC has " + std::to_string(tables.size()) + " tables, other than its attributes say");
    const std::string& basis = attributes.words.at("basis");
    if (basis != "dct" && basis != "dct2d") throw Refusal("ACDC has no basis '" + basis + "'");
    const int64_t n = attributes.number("size", 1), k = attributes.number("depth", 1);
    a_ = floats(tables[0], k * n, "ACDC's a"), d_ = floats(tables[1], k * n, "ACDC's d");
    if (has_bias) bias_ = floats(tables[2], k * n, "ACDC's beta");
    const bool is_small = n <= UINT16_MAX + 1;
    if (is_permuted) {
      permutation_ = indices(tables[2 + has_bias], (k - 1) * n, n, "ACDC's perm");
      if (is_small) small_permutation_.assign(permutation_.begin(), permutation_.end());
    }
    cascade_ = {n, k, n, attributes.number("out_features", 1), 0, a_.data(), d_.data(), nullptr, nullptr};
    if (basis == "dct2d") cascade_.flags |= CK_ACDC_SEPARABLE;
    if (attributes.number("relu", 0)) cascade_.flags |= CK_ACDC_RELU;
    if (has_bias) cascade_.bias = bias_.data();
    if (is_permuted && k > 1) {
      cascade_.permutation = is_small ? static_cast<const void*>(small_permutation_.data()) : permutation_.data();
      if (is_small) cascade_.flags |= CK_ACDC_INDEX_16;
    }
  }

  int64_t columns_out() const override { return cascade_.columns_out; }

  int64_t work() const override { return cascade_.k * cascade_.n * 32; }

  int run(const float* x, float* y, int64_t rows, int64_t columns, const ck_pool* pool) const override {
    ck_acdc cascade = cascade_;
    cascade.columns_in = columns;
    return ck_acdc_forward_f32(&cascade, x, y, rows, columns, cascade.columns_out, pool->threads, pool);
  }

  std::unique_ptr<const DeviceLayer> on_device(const Cuda& cuda) const override {
    const int64_t size = cuda.acdc_table_size(cascade_.n);
    if (!size || cascade_.flags & CK_ACDC_SEPARABLE) return nullptr;
    int64_t shared_bytes = 0, longest = 0;
    cuda.check(cuda.probe(&shared_bytes, &longest));
    if (cascade_.n > longest) return nullptr;
    std::vector<float> twiddles(static_cast<size_t>(size));
    cuda.check(cuda.acdc_table(cascade_.n, twiddles.data()));
    Upload permutation = small_permutation_.empty() ? Upload(cuda, permutation_) : Upload(cuda, small_permutation_);
    return std::make_unique<const DeviceAcdc>(cuda, cascade_, Upload(cuda, a_), Upload(cuda, d_), Upload(cuda, bias_),
                                              std::move(permutation), Upload(cuda, twiddles));
  }

 private:
  std::vector<float> a_, d_, bias_;
  std::vector<int32_t> permutation_;
  std::vector<uint16_t> small_permutation_;
  ck_acdc cascade_;
};

}  // namespace

std::unique_ptr<const Layer> make_acdc(const Attributes& attributes, const std::vector<Tensor>& tables) {
  return std::make_unique<const Acdc>(attributes, tables);
}

}  // namespace ck::ort
