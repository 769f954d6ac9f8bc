// The operators between Fourier transforms. Circulant: inputs x, c (terms, N), s (terms, columns of x). Toeplitz: x,
// G (rank, N), H (rank, N). AFDF: x, a (depth, 2, N), d (depth, 2, N).
#include "layers.h"
#include "numbers.h"

namespace ck::ort {
namespace {

class Circulant final : public Layer {
 public:
  Circulant(const Attributes& attributes, const std::vector<Tensor>& tables) {
    layer_.n = attributes.number("size", 1), layer_.terms = attributes.number("terms", 1);
    layer_.columns_out = attributes.number("out_features", 1);
    c_ = floats(tables[0], layer_.terms * layer_.n, "Circulant's c");
    signs_ = floats(tables[1], tables[1].count(), "Circulant's s");
    layer_.sign_bytes = 4, layer_.c = c_.data(), layer_.signs = signs_.data();
  }

  int64_t columns_out() const override { return layer_.columns_out; }

  int64_t work() const override { return layer_.n * 16 * (layer_.terms + 1); }

  int run(const float* x, float* y, int64_t rows, int64_t columns, const ck_pool* pool) const override {
    ck_circulant layer = layer_;
    layer.columns_in = columns;
    if (static_cast<int64_t>(signs_.size()) != layer.terms * columns)
      throw Refusal("Circulant has " + std::to_string(signs_.size()) + " signs, of an input with " +
                    std::to_string(columns) + " columns");
    return ck_circulant_forward_f32(&layer, x, y, rows, columns, columns_out(), pool->threads, pool);
  }

 private:
  std::vector<float> c_, signs_;
  ck_circulant layer_{};
};

class Toeplitz final : public Layer {
 public:
  Toeplitz(const Attributes& attributes, const std::vector<Tensor>& tables) {
    layer_.n = attributes.number("size", 1), layer_.rank = attributes.number("rank", 1);
    layer_.columns_out = attributes.number("out_features", 1);
    g_ = floats(tables[0], layer_.rank * layer_.n, "Toeplitz's G");
    h_ = floats(tables[1], layer_.rank * layer_.n, "Toeplitz's H");
    layer_.g = g_.data(), layer_.h = h_.data();
  }

  int64_t columns_out() const override { return layer_.columns_out; }

  int64_t work() const override { return layer_.n * 32 * (layer_.rank + 1); }

  int run(const float* x, float* y, int64_t rows, int64_t columns, const ck_pool* pool) const override {
    ck_toeplitz layer = layer_;
    layer.columns_in = columns;
    return ck_toeplitz_forward_f32(&layer, x, y, rows, columns, columns_out(), pool->threads, pool);
  }

 private:
  std::vector<float> g_, h_;
  ck_toeplitz layer_{};
};

class Afdf final : public Layer {
 public:
  Afdf(const Attributes& attributes, const std::vector<Tensor>& tables) {
    layer_.n = attributes.number("size", 1), layer_.k = attributes.number("depth", 1);
    layer_.columns_out = attributes.number("out_features", 1);
    a_ = floats(tables[0], 2 * layer_.k * layer_.n, "AFDF's a");
    d_ = floats(tables[1], 2 * layer_.k * layer_.n, "AFDF's d");
    layer_.a = a_.data(), layer_.d = d_.data();
  }

  int64_t columns_out() const override { return layer_.columns_out; }

  int64_t work() const override { return layer_.n * 64 * layer_.k; }

  int run(const float* x, float* y, int64_t rows, int64_t columns, const ck_pool* pool) const override {
    ck_afdf layer = layer_;
    layer.columns_in = columns;
    return ck_afdf_forward_f32(&layer, x, y, rows, columns, columns_out(), pool->threads, pool);
  }

 private:
  std::vector<float> a_, d_;
  ck_afdf layer_{};
};

}  // namespace

std::unique_ptr<const Layer> make_circulant(const Attributes& attributes, const std::vector<Tensor>& tables) {
  return std::make_unique<const Circulant>(attributes, tables);
}

std::unique_ptr<const Layer> make_toeplitz(const Attributes& attributes, const std::vector<Tensor>& tables) {
  return std::make_unique<const Toeplitz>(attributes, tables);
}

std::unique_ptr<const Layer> make_afdf(const Attributes& attributes, const std::vector<Tensor>& tables) {
  return std::make_unique<const Afdf>(attributes, tables);
}

}  // namespace ck::ort
