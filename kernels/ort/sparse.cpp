// The operators that end in sparse rows. Sparse: inputs x, columns, lengths, values. SparseShared: x, columns, lengths,
// codebook, codes. PHD: x, signs (d), positions (n, count), P (n, count): sparse rows of a Walsh-Hadamard transform.
#include "layers.h"
#include "numbers.h"

namespace ck::ort {
namespace {

// A matrix in compressed sparse rows, kept in four-byte places.
struct Rows {
  std::vector<int32_t> columns, lengths;
  std::vector<float> values;
  int32_t width = 0;  // one more than the largest column

  void set_width() {
    for (int32_t column : columns) width = column >= width ? column + 1 : width;
  }

  int64_t count() const { return static_cast<int64_t>(columns.size()); }

  int run(const float* x, float* y, int64_t rows, int64_t columns_in, const ck_pool* pool) const {
    if (columns_in < width)
      throw Refusal("the input has " + std::to_string(columns_in) + " columns, the matrix " + std::to_string(width));
    const int64_t columns_out = static_cast<int64_t>(lengths.size());
    const ck_csr matrix = {columns_in, columns_out, count(), 4, 4, columns.data(), lengths.data(), values.data(), nullptr};
    return ck_csr_forward_f32(&matrix, x, y, rows, columns_in, columns_out, pool->threads, pool);
  }
};

class Sparse final : public Layer {
 public:
  Sparse(const std::vector<Tensor>& tables, bool is_shared) {
    const int64_t count = tables[0].count(), outputs = tables[1].count();
    matrix_.columns = indices(tables[0], count, INT32_MAX, "a sparse matrix's columns");
    matrix_.lengths = indices(tables[1], outputs, count + 1, "a sparse matrix's lengths");
    int64_t total = 0;
    for (int32_t length : matrix_.lengths) total += length;
    if (total != count || !outputs)
      throw Refusal("a sparse matrix's lengths sum up to " + std::to_string(total) + ", not " + std::to_string(count));
    if (!is_shared) {
      matrix_.values = floats(tables[2], count, "a sparse matrix's values");
    } else {
      const std::vector<float> codebook = floats(tables[2], tables[2].count(), "a codebook");
      for (int32_t code : indices(tables[3], count, tables[2].count(), "a sparse matrix's codes"))
        matrix_.values.push_back(codebook[static_cast<size_t>(code)]);
    }
    matrix_.set_width();
  }

  int64_t columns_out() const override { return static_cast<int64_t>(matrix_.lengths.size()); }

  int64_t work() const override { return matrix_.count(); }

  int run(const float* x, float* y, int64_t rows, int64_t columns, const ck_pool* pool) const override {
    return matrix_.run(x, y, rows, columns, pool);
  }

 private:
  Rows matrix_;
};

class Phd final : public Layer {
 public:
  Phd(const Attributes& attributes, const std::vector<Tensor>& tables) : d_(attributes.number("d", 1)) {
    signs_ = floats(tables[0], tables[0].count(), "PHD's signs");
    if (tables[2].sizes.size() != 2) throw Refusal("PHD's P is no matrix");
    const int64_t outputs = tables[2].sizes[0], each = tables[2].sizes[1];
    matrix_.columns = indices(tables[1], outputs * each, d_, "PHD's positions");
    matrix_.values = floats(tables[2], outputs * each, "PHD's P");
    matrix_.lengths.assign(static_cast<size_t>(outputs), static_cast<int32_t>(each));
    if (signs_.size() != static_cast<size_t>(d_)) throw Refusal("PHD's signs are " + std::to_string(signs_.size()));
    matrix_.set_width();
  }

  int64_t columns_out() const override { return static_cast<int64_t>(matrix_.lengths.size()); }

  int64_t work() const override { return d_ * 8 + matrix_.count(); }

  int run(const float* x, float* y, int64_t rows, int64_t columns, const ck_pool* pool) const override {
    if (columns > d_) throw Refusal("PHD of " + std::to_string(d_) + " has " + std::to_string(columns) + " columns");
    std::vector<float> h(static_cast<size_t>(rows * d_));
    for (int64_t r = 0; r < rows; r++)
      for (int64_t i = 0; i < columns; i++)
        h[static_cast<size_t>(r * d_ + i)] = x[r * columns + i] * signs_[static_cast<size_t>(i)];
    const int error = ck_fwht_f32(h.data(), h.data(), rows, d_, d_, d_, pool->threads, pool);
    return error ? error : matrix_.run(h.data(), y, rows, d_, pool);
  }

 private:
  int64_t d_;
  std::vector<float> signs_;
  Rows matrix_;
};

}  // namespace

std::unique_ptr<const Layer> make_phd(const Attributes& attributes, const std::vector<Tensor>& tables) {
  return std::make_unique<const Phd>(attributes, tables);
}

std::unique_ptr<const Layer> make_sparse(const Attributes&, const std::vector<Tensor>& tables) {
  return std::make_unique<const Sparse>(tables, false);
}

std::unique_ptr<const Layer> make_shared_sparse(const Attributes&, const std::vector<Tensor>& tables) {
  return std::make_unique<const Sparse>(tables, true);
}

}  // namespace ck::ort
