#include "kernel.h"

#include <algorithm>
#include <thread>

#include "numbers.h"

namespace ck::ort {
namespace {

constexpr int64_t work_of_a_thread = 500000;  // multiply-adds below which another thread does not pay

struct Caller {
  const Api* api;
  const KernelContext* context;
};

using Task = void (*)(void* user, size_t index);

// ck_pool's parallel_for on onnxruntime's own threads.
void on_runtime_threads(void* ctx, Task task, size_t total, void* user) {
  const Caller& caller = *static_cast<const Caller*>(ctx);
  const size_t batches_are_its_choice = 0;
  if (!caller.api->ask<kernel_context_parallel_for>(caller.context, task, total, batches_are_its_choice, user))
    for (size_t i = 0; i < total; i++) task(user, i);
}

// In how many parts the work may be cut. onnxruntime does not tell how many threads it has; parts beyond those run one
// after the other.
int64_t parts(int64_t work) {
  static const int64_t processors = std::max(1u, std::thread::hardware_concurrency());
  return std::max<int64_t>(1, std::min(processors, work / work_of_a_thread));
}

}  // namespace

Kernel::Kernel(const Kind& kind, Api api, const KernelInfo* info, const Cuda* cuda)
    : kind_(kind), api_(api), cuda_(cuda) {
  read_attributes(info);
  size_t inputs = 0;
  api_.call<kernel_info_input_count>(info, &inputs);
  std::vector<Tensor> found;
  for (size_t i = 1; i < inputs; i++) {
    int is_constant = 0;
    const Value* value = nullptr;
    if (!api_.ask<kernel_info_constant_input>(info, i, &is_constant, &value) || !is_constant || !value) return;
    found.push_back(api_.tensor(value));
  }
  layer_ = kind_.make(attributes_, found);
}

void Kernel::read_attributes(const KernelInfo* info) {
  for (const char* name : kind_.numbers)
    if (!api_.ask<kernel_info_attribute_int64>(info, name, &attributes_.numbers[name]))
      throw Refusal(std::string(kind_.name) + " has no attribute " + name);
  for (const char* name : kind_.words) {
    char text[32] = {};
    size_t size = sizeof text;
    if (!api_.ask<kernel_info_attribute_string>(info, name, text, &size))
      throw Refusal(std::string(kind_.name) + " has no attribute " + name);
    attributes_.words[name] = text;
  }
}

std::vector<Tensor> Kernel::tables(const KernelContext* context) const {
  size_t inputs = 0;
  api_.call<kernel_context_input_count>(context, &inputs);
  std::vector<Tensor> found;
  for (size_t i = 1; i < inputs; i++) found.push_back(api_.input(context, i));
  return found;
}

void Kernel::compute(KernelContext* context) const {
  std::unique_ptr<const Layer> made;
  if (!layer_) made = kind_.make(attributes_, tables(context));
  const Layer& layer = layer_ ? *layer_ : *made;
  const Tensor x = api_.input(context, 0);
  if (x.sizes.empty()) throw Refusal(std::string(kind_.name) + " takes no scalar");
  std::vector<int64_t> sizes = x.sizes;
  const int64_t columns = sizes.back();
  int64_t rows = 1;
  for (size_t i = 0; i + 1 < sizes.size(); i++) rows *= sizes[i];
  sizes.back() = layer.columns_out();
  void* y = api_.output(context, sizes);
  if (!rows || !columns) {
    if (rows) throw Refusal(std::string(kind_.name) + " takes no rows without columns");
    return;
  }
  Caller caller{&api_, context};
  const ck_pool pool{on_runtime_threads, &caller, parts(layer.work() * rows)};
  int error = 0;
  if (cuda_) {
    void* stream = nullptr;
    api_.ask<kernel_context_gpu_stream>(static_cast<const KernelContext*>(context), &stream);
    if (!run_on_device(x, y, rows, stream)) error = run_through_host(layer, x, y, rows, &pool, stream);
  } else {
    error = run(layer, x, y, rows, &pool);
  }
  if (error) throw Refusal(std::string(kind_.name) + ": " + ck_error_string(error));
}

// False where there is no kernel for this layer on the device.
bool Kernel::run_on_device(const Tensor& x, void* y, int64_t rows, void* stream) const {
  if (!layer_) return false;
  std::call_once(is_on_device_, [this] { device_ = layer_->on_device(*cuda_); });
  if (!device_) return false;
  const int error = device_->run(Cuda::typed(x.element), x.data, y, rows, x.sizes.back(), stream);
  if (error == CK_CUDA_ERROR_UNSUPPORTED) return false;
  cuda_->check(error);
  return true;
}

// What there is no kernel for on the device: the CPU's, with both ways in between.
int Kernel::run_through_host(const Layer& layer, const Tensor& x, void* y, int64_t rows, const ck_pool* pool,
                             void* stream) const {
  const int64_t size = x.element == float32 ? 4 : 2, numbers = rows * layer.columns_out();
  std::vector<char> in(static_cast<size_t>(x.count() * size)), out(static_cast<size_t>(numbers * size));
  cuda_->check(cuda_->copy(in.data(), x.data, x.count() * size, stream));
  const int error = run(layer, {in.data(), x.element, x.sizes}, out.data(), rows, pool);
  if (!error) cuda_->check(cuda_->copy(y, out.data(), numbers * size, stream));
  return error;
}

int Kernel::run(const Layer& layer, const Tensor& x, void* y, int64_t rows, const ck_pool* pool) const {
  const int64_t columns = x.sizes.back();
  if (x.element == float32)
    return layer.run(static_cast<const float*>(x.data), static_cast<float*>(y), rows, columns, pool);
  std::vector<float> in(static_cast<size_t>(rows * columns)), out(static_cast<size_t>(rows * layer.columns_out()));
  to_float(x.data, x.element, in.data(), rows * columns);
  const int error = layer.run(in.data(), out.data(), rows, columns, pool);
  if (!error) from_float(out.data(), x.element, y, rows * layer.columns_out());
  return error;
}

}  // namespace ck::ort
