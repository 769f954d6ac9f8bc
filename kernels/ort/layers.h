// What the registered operators compute: a layer read from a node's attributes and tables, and run on rows of floats.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "api.h"
#include "cuda.h"
#include "compressor_kernels.h"

namespace ck::ort {

// A node's attributes, read once.
class Attributes {
 public:
  std::map<std::string, int64_t> numbers;
  std::map<std::string, std::string> words;

  int64_t number(const char* name, int64_t least) const {
    const int64_t found = numbers.at(name);
    if (found < least || found > INT32_MAX)
      throw Refusal(std::string("attribute ") + name + " is " + std::to_string(found));
    return found;
  }
};

class Layer {
 public:
  virtual ~Layer() = default;
  virtual int64_t columns_out() const = 0;
  // Multiply-adds of a row, roughly: how much work is worth another thread.
  virtual int64_t work() const = 0;
  // y (rows, columns_out) = x (rows, columns); a code of compressor_kernels.h. Throws a Refusal where x does not fit.
  virtual int run(const float* x, float* y, int64_t rows, int64_t columns, const ck_pool* pool) const = 0;
  // The layer with its tables on the present device; NULL where there is no kernel for it there.
  virtual std::unique_ptr<const DeviceLayer> on_device(const Cuda&) const { return nullptr; }
};

// One kind of operator. Inputs: x, then tables of x's type where `is_float`, else of any; the last may be missing.
struct Kind {
  const char* name;
  size_t inputs, required;
  std::vector<bool> is_float;
  std::vector<const char*> numbers, words;
  std::unique_ptr<const Layer> (*make)(const Attributes&, const std::vector<Tensor>& tables);
  bool has_cuda = false;
};

const std::vector<Kind>& kinds();

std::unique_ptr<const Layer> make_acdc(const Attributes&, const std::vector<Tensor>& tables);
std::unique_ptr<const Layer> make_afdf(const Attributes&, const std::vector<Tensor>& tables);
std::unique_ptr<const Layer> make_circulant(const Attributes&, const std::vector<Tensor>& tables);
std::unique_ptr<const Layer> make_fastfood(const Attributes&, const std::vector<Tensor>& tables);
std::unique_ptr<const Layer> make_monarch(const Attributes&, const std::vector<Tensor>& tables);
std::unique_ptr<const Layer> make_phd(const Attributes&, const std::vector<Tensor>& tables);
std::unique_ptr<const Layer> make_sparse(const Attributes&, const std::vector<Tensor>& tables);
std::unique_ptr<const Layer> make_sparse_vectors(const Attributes&, const std::vector<Tensor>& tables);
std::unique_ptr<const Layer> make_shared_sparse(const Attributes&, const std::vector<Tensor>& tables);
std::unique_ptr<const Layer> make_toeplitz(const Attributes&, const std::vector<Tensor>& tables);

}  // namespace ck::ort
