// The CUDA kernels' library beside this one, and layers whose tables lie in a GPU's memory.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "abi.h"
#include "compressor_kernels_cuda.h"

namespace ck::ort {

// The library's functions that a session needs; those of several types are found by `typed`.
struct Cuda {
  decltype(&ck_cuda_error_string) error_string;
  decltype(&ck_cuda_probe) probe;
  decltype(&ck_cuda_acdc_table_size) acdc_table_size;
  decltype(&ck_cuda_acdc_table) acdc_table;
  decltype(&ck_cuda_upload) upload;
  decltype(&ck_cuda_release) release;
  decltype(&ck_cuda_copy) copy;
  decltype(&ck_cuda_acdc_forward_f32) acdc_forward[3];  // float, half, bfloat16
  decltype(&ck_cuda_fastfood_forward_f32) fastfood_forward[3];
  decltype(&ck_cuda_bend_f32) bend[3];

  // The library at `path`, loaded once and never given back; NULL where it does not load or is of another version.
  static const Cuda* load(const std::string& path);

  // The place of an element type above; -1 where the kernels do not take it.
  static int typed(Element element);

  // A Refusal with the library's words for a code that is not 0.
  void check(int error) const;
};

// A copy of host memory on the device.
class Upload {
 public:
  Upload() = default;
  template <class T>
  Upload(const Cuda& cuda, const std::vector<T>& table) : cuda_(&cuda) {
    if (!table.empty()) cuda.check(cuda.upload(table.data(), static_cast<int64_t>(table.size() * sizeof(T)), &data_));
  }
  Upload(Upload&& other) noexcept : cuda_(other.cuda_), data_(other.data_) { other.data_ = nullptr; }
  Upload& operator=(Upload&&) = delete;
  ~Upload() {
    if (data_) cuda_->release(data_);
  }

  template <class T>
  const T* as() const {
    return static_cast<const T*>(data_);
  }

 private:
  const Cuda* cuda_ = nullptr;
  void* data_ = nullptr;
};

// A layer with its tables on the device.
class DeviceLayer {
 public:
  virtual ~DeviceLayer() = default;
  // y (rows, columns_out) = x (rows, columns), dense, of the type at `typed`; a code of compressor_kernels_cuda.h.
  virtual int run(int typed, const void* x, void* y, int64_t rows, int64_t columns, void* stream) const = 0;
};

}  // namespace ck::ort
