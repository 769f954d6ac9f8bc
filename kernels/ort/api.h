// onnxruntime's functions by name, with errors as exceptions.
#pragma once

#include <stdexcept>
#include <string>
#include <vector>

#include "abi.h"

namespace ck::ort {

// What onnxruntime shall report: a model that the operator cannot run, in words.
struct Refusal : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// A tensor of onnxruntime's, where its provider has it: the tables always on the CPU.
struct Tensor {
  const void* data = nullptr;
  Element element = any_type;
  std::vector<int64_t> sizes;

  int64_t count() const {
    int64_t total = 1;
    for (int64_t size : sizes) total *= size;
    return total;
  }
};

class Api {
 public:
  explicit Api(const Table* table) : table_(table) {}

  const Table* table() const { return table_; }

  Status* status(const std::string& words) const {
    using Create = Status*(CK_ORT_CALL*)(Error, const char*);
    return reinterpret_cast<Create>(table_->at[create_status])(fail, words.c_str());
  }

  // Calls the function at `slot`; false, and the runtime's error dropped, where it fails.
  template <Slot slot, class... Arguments>
  bool ask(Arguments... arguments) const {
    using Function = Status*(CK_ORT_CALL*)(Arguments...);
    Status* error = reinterpret_cast<Function>(table_->at[slot])(arguments...);
    if (error) release<release_status>(error);
    return !error;
  }

  template <Slot slot, class... Arguments>
  void call(Arguments... arguments) const {
    if (!ask<slot>(arguments...))
      throw Refusal("onnxruntime's own function " + std::to_string(slot) + " failed");
  }

  template <Slot slot, class Object>
  void release(Object* object) const {
    reinterpret_cast<void(CK_ORT_CALL*)(Object*)>(table_->at[slot])(object);
  }

  Tensor tensor(const Value* value) const {
    Tensor found;
    void* data = nullptr;
    call<get_tensor_mutable_data>(const_cast<Value*>(value), &data);
    found.data = data;
    TypeAndShape* shape = nullptr;
    call<get_tensor_type_and_shape>(value, &shape);
    size_t rank = 0;
    const bool is_right = ask<get_tensor_element_type>(static_cast<const TypeAndShape*>(shape), &found.element) &&
                          ask<get_dimensions_count>(static_cast<const TypeAndShape*>(shape), &rank);
    found.sizes.resize(rank);
    const bool has_sizes =
        is_right && ask<get_dimensions>(static_cast<const TypeAndShape*>(shape), found.sizes.data(), rank);
    release<release_tensor_type_and_shape>(shape);
    if (!has_sizes) throw Refusal("onnxruntime gave no shape of a tensor");
    return found;
  }

  Tensor input(const KernelContext* context, size_t index) const {
    const Value* value = nullptr;
    call<kernel_context_input>(context, index, &value);
    if (!value) throw Refusal("input " + std::to_string(index) + " is missing");
    return tensor(value);
  }

  void* output(KernelContext* context, const std::vector<int64_t>& sizes) const {
    Value* value = nullptr;
    void* data = nullptr;
    call<kernel_context_output>(context, size_t{0}, sizes.data(), sizes.size(), &value);
    call<get_tensor_mutable_data>(value, &data);
    return data;
  }

 private:
  const Table* table_;
};

}  // namespace ck::ort
