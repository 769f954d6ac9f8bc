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

// Two tables of one shape: of Toeplitz or AFDF, with `numbers` of each member's in a row of either.
template <class Pair, auto forward, int64_t numbers>
class TwoTables final : public Layer {
 public:
  TwoTables(const Attributes& attributes, const char* members, const std::vector<Tensor>& tables, const char* what)
      : n_(attributes.number("size", 1)), members_(attributes.number(members, 1)),
        columns_out_(attributes.number("out_features", 1)),
        first_(floats(tables[0], numbers * members_ * n_, what)),
        second_(floats(tables[1], numbers * members_ * n_, what)) {}

  int64_t columns_out() const override { return columns_out_; }

  int64_t work() const override { return n_ * 32 * numbers * (members_ + 1); }

  int run(const float* x, float* y, int64_t rows, int64_t columns, const ck_pool* pool) const override {
    const Pair layer{n_, members_, columns, columns_out_, first_.data(), second_.data(), nullptr};
    return forward(&layer, x, y, rows, columns, columns_out_, pool->threads, pool);
  }

 private:
  const int64_t n_, members_, columns_out_;
  const std::vector<float> first_, second_;
};

using Toeplitz = TwoTables<ck_toeplitz, ck_toeplitz_forward_f32, 1>;
using Afdf = TwoTables<ck_afdf, ck_afdf_forward_f32, 2>;

}  // namespace

std::unique_ptr<const Layer> make_circulant(const Attributes& attributes, const std::vector<Tensor>& tables) {
  return std::make_unique<const Circulant>(attributes, tables);
}

std::unique_ptr<const Layer> make_toeplitz(const Attributes& attributes, const std::vector<Tensor>& tables) {
  return std::make_unique<const Toeplitz>(attributes, "rank", tables, "a table of Toeplitz");
}

std::unique_ptr<const Layer> make_afdf(const Attributes& attributes, const std::vector<Tensor>& tables) {
  return std::make_unique<const Afdf>(attributes, "depth", tables, "a table of AFDF");
}

}  // namespace ck::ort
