// The operators that end in sparse rows. Sparse: inputs x, columns, lengths, values. SparseVectors: the same of vectors,
// each of them `block` neighbours in a column. SparseShared: x, columns, lengths, codebook, codes. PHD: x, signs (d),
// positions (n, count), P (n, count): sparse rows of a Walsh-Hadamard transform.
#include "layers.h"
#include "numbers.h"

namespace ck::ort {
namespace {

// A matrix in compressed sparse rows of vectors; its columns in two bytes where they fit, as memory is what a single row
// waits for.
class Rows {
 public:
  void set(std::vector<int32_t> columns, std::vector<int32_t> row_lengths, std::vector<float> entries, int64_t outputs,
           int64_t block) {
    for (int32_t column : columns) width_ = column >= width_ ? int64_t{column} + 1 : width_;
    if (width_ <= UINT16_MAX + 1)
      small_columns_.assign(columns.begin(), columns.end());
    else
      columns_ = std::move(columns);
    lengths_ = std::move(row_lengths), values_ = std::move(entries), outputs_ = outputs, block_ = block;
  }

  int64_t count() const { return static_cast<int64_t>(values_.size()); }
  int64_t outputs() const { return outputs_; }

  int run(const float* x, float* y, int64_t rows, int64_t columns_in, const ck_pool* pool) const {
    if (columns_in < width_)
      throw Refusal("the input has " + std::to_string(columns_in) + " columns, the matrix " + std::to_string(width_));
    const bool is_small = columns_.empty();
    const void* columns = is_small ? static_cast<const void*>(small_columns_.data()) : columns_.data();
    const ck_csr matrix = {columns_in, outputs_, block_, count() / block_, is_small ? 2 : 4, 4,
                           columns, lengths_.data(), values_.data(), nullptr};
    return ck_csr_forward_f32(&matrix, x, y, rows, columns_in, outputs(), pool->threads, pool);
  }

 private:
  std::vector<int32_t> columns_, lengths_;
  std::vector<uint16_t> small_columns_;
  std::vector<float> values_;
  int64_t width_ = 0;  // one more than the largest column
  int64_t outputs_ = 0, block_ = 1;
};

class Sparse final : public Layer {
 public:
  Sparse(const std::vector<Tensor>& tables, bool is_shared, int64_t outputs, int64_t block) {
    const int64_t count = tables[0].count();
    std::vector<int32_t> columns = indices(tables[0], count, INT32_MAX, "a sparse matrix's columns");
    std::vector<int32_t> lengths =
        indices(tables[1], (outputs + block - 1) / block, count + 1, "a sparse matrix's lengths");
    std::vector<float> values;
    int64_t total = 0;
    for (int32_t length : lengths) total += length;
    if (total != count || !outputs)
      throw Refusal("a sparse matrix's lengths sum up to " + std::to_string(total) + ", not " + std::to_string(count));
    if (!is_shared) {
      values = floats(tables[2], count * block, "a sparse matrix's values");
    } else {
      const std::vector<float> codebook = floats(tables[2], tables[2].count(), "a codebook");
      for (int32_t code : indices(tables[3], count, tables[2].count(), "a sparse matrix's codes"))
        values.push_back(codebook[static_cast<size_t>(code)]);
    }
    matrix_.set(std::move(columns), std::move(lengths), std::move(values), outputs, block);
  }

  int64_t columns_out() const override { return matrix_.outputs(); }

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
    const std::vector<int32_t> lengths(static_cast<size_t>(outputs), static_cast<int32_t>(each));
    if (signs_.size() != static_cast<size_t>(d_)) throw Refusal("PHD's signs are " + std::to_string(signs_.size()));
    matrix_.set(indices(tables[1], outputs * each, d_, "PHD's positions"), lengths,
                floats(tables[2], outputs * each, "PHD's P"), outputs, 1);
  }

  int64_t columns_out() const override { return matrix_.outputs(); }

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
  return std::make_unique<const Sparse>(tables, false, tables[1].count(), 1);
}

std::unique_ptr<const Layer> make_sparse_vectors(const Attributes& attributes, const std::vector<Tensor>& tables) {
  return std::make_unique<const Sparse>(tables, false, attributes.number("out_features", 1), attributes.number("block", 1));
}

std::unique_ptr<const Layer> make_shared_sparse(const Attributes&, const std::vector<Tensor>& tables) {
  return std::make_unique<const Sparse>(tables, true, tables[1].count(), 1);
}

}  // namespace ck::ort
