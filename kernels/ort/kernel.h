// One node of a loaded model, and the operators that make such nodes.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "api.h"
#include "layers.h"

namespace ck::ort {

class Kernel {
 public:
  // For a node on the CPU, or with `cuda` on a GPU. Throws a Refusal where attributes or tables are not what `kind` says.
  Kernel(const Kind& kind, Api api, const KernelInfo* info, const Cuda* cuda);

  // May be called from several threads at once.
  void compute(KernelContext* context) const;

 private:
  void read_attributes(const KernelInfo* info);
  std::vector<Tensor> tables(const KernelContext* context) const;
  int run(const Layer& layer, const Tensor& x, void* y, int64_t rows, const ck_pool* pool) const;
  bool run_on_device(const Tensor& x, void* y, int64_t rows, void* stream) const;
  int run_through_host(const Layer& layer, const Tensor& x, void* y, int64_t rows, const ck_pool* pool,
                       void* stream) const;

  const Kind& kind_;
  Api api_;
  Attributes attributes_;
  std::unique_ptr<const Layer> layer_;  // nothing where a table is not a constant of the model
  const Cuda* cuda_;
  mutable std::once_flag is_on_device_;  // the session's device is the present one only when it computes
  mutable std::unique_ptr<const DeviceLayer> device_;
};

}  // namespace ck::ort
