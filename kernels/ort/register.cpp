// RegisterCustomOps: the entry point that onnxruntime calls.
//
// A file's functions are named after the kind of layer and numbered, `ACDC`, `ACDC_2`, ...: one name for each shape in
// it, as each has a body of its own. Every name of a kind stands for the same native operator, which reads all that it
// must know from the node. A name that is not registered here runs its body.
#include <atomic>
#include <cstdlib>
#include <map>
#include <mutex>
#include <string>

#include "kernel.h"

namespace ck::ort {
namespace {

constexpr int names_of_a_kind = 32;
constexpr char domain_name[] = "compressor";

std::atomic<int64_t> kernels_made{0};
thread_local bool is_registered = false;
thread_local const Cuda* wanted_cuda = nullptr;  // the next session's

struct Op : CustomOp {
  Op(const Kind& made, std::string called, Element type, const Cuda* library);
  const Kind& kind;
  std::string name;
  Element element;
  const Cuda* cuda;  // NULL for the CPU's operator
};

const Op& op_of(const CustomOp* op) { return *static_cast<const Op*>(op); }

// No exception passes into the runtime: it becomes a status.
template <class Body>
Status* guarded(const Api& api, Body&& body) {
  try {
    body();
    return nullptr;
  } catch (const std::exception& error) {
    return api.status(error.what());
  } catch (...) {
    return api.status("unknown error");
  }
}

struct Made {
  Kernel kernel;
  Api api;
};

Status* CK_ORT_CALL create_kernel(const CustomOp* op, const Table* table, const KernelInfo* info, void** kernel) {
  const Api api(table);
  return guarded(api, [&] {
    *kernel = new Made{Kernel(op_of(op).kind, api, info, op_of(op).cuda), api};
    kernels_made++;
  });
}

Status* CK_ORT_CALL compute(void* kernel, KernelContext* context) {
  const Made& made = *static_cast<const Made*>(kernel);
  return guarded(made.api, [&] { made.kernel.compute(context); });
}

Element CK_ORT_CALL input_type(const CustomOp* op, size_t index) {
  return op_of(op).kind.is_float[index] ? op_of(op).element : any_type;
}

// With COMPRESSOR_KERNELS_ORT_EMULATION, for tests, the operators for a GPU are the CPU's, in place of its own.
bool is_emulation() { return std::getenv("COMPRESSOR_KERNELS_ORT_EMULATION") != nullptr; }

Op::Op(const Kind& made, std::string called, Element type, const Cuda* library)
    : CustomOp{}, kind(made), name(std::move(called)), element(type), cuda(library) {
  version = api_version;
  get_name = [](const CustomOp* op) -> const char* { return op_of(op).name.c_str(); };
  get_execution_provider = [](const CustomOp* op) -> const char* {
    return op_of(op).cuda && !is_emulation() ? "CUDAExecutionProvider" : nullptr;  // nothing: the CPU's
  };
  get_input_type = input_type;
  get_input_count = [](const CustomOp* op) -> size_t { return op_of(op).kind.inputs; };
  get_output_type = [](const CustomOp* op, size_t) -> Element { return op_of(op).element; };
  get_output_count = [](const CustomOp*) -> size_t { return 1; };
  get_input_characteristic = [](const CustomOp* op, size_t index) -> Characteristic {
    return index < op_of(op).kind.required ? required : optional;
  };
  get_output_characteristic = [](const CustomOp*, size_t) -> Characteristic { return required; };
  get_input_memory_type = [](const CustomOp* op, size_t index) -> MemoryType {
    return op_of(op).cuda && index ? cpu_input : default_memory;
  };
  create_kernel_v2 = ck::ort::create_kernel;
  compute_v2 = ck::ort::compute;
  destroy = [](void* kernel) { delete static_cast<Made*>(kernel); };
  get_start_version = [](const CustomOp*) -> int { return 1; };
  get_end_version = [](const CustomOp*) -> int { return INT32_MAX; };
}

// With `cuda` only the kinds that have a kernel on a GPU, for the others are to run their bodies there; of those also the
// CPU's operators, for a name that is registered has no body any more, whatever its type and wherever it lands.
void add_ops(const Api& api, Domain* domain, const Cuda* cuda) {
  const auto add = [&](const Kind& kind, const std::string& name, Element element, const Cuda* library) {
    const CustomOp* op = new Op(kind, name, element, library);  // as long as the domain, for ever
    api.call<custom_op_domain_add>(domain, op);
  };
  for (const Kind& kind : kinds()) {
    if (cuda && !kind.has_cuda) continue;
    for (int i = 1; i <= names_of_a_kind; i++) {
      const std::string name = i == 1 ? kind.name : kind.name + ("_" + std::to_string(i));
      for (Element element : {float32, float64, float16, bfloat16}) {
        const bool is_on_gpu = cuda && Cuda::typed(element) >= 0;
        if (is_on_gpu) add(kind, name, element, cuda);
        if (!is_on_gpu || !is_emulation()) add(kind, name, element, nullptr);
      }
    }
  }
}

// The domain for one runtime and kind of session: made once, as sessions keep pointers into it, and never given back.
Status* domain_of(const Api& api, const Cuda* cuda, Domain** found) {
  static std::mutex mutex;
  static std::map<std::pair<const Table*, const Cuda*>, Domain*> domains;
  return guarded(api, [&] {
    std::lock_guard<std::mutex> lock(mutex);
    Domain*& domain = domains[{api.table(), cuda}];
    if (!domain) {
      Domain* fresh = nullptr;
      api.call<create_custom_op_domain>(&domain_name[0], &fresh);
      add_ops(api, fresh, cuda);
      domain = fresh;
    }
    *found = domain;
  });
}

// The version of the interface that is asked for; COMPRESSOR_KERNELS_ORT_API, for tests, asks for another.
uint32_t wanted_version() {
  const char* said = std::getenv("COMPRESSOR_KERNELS_ORT_API");
  return said ? static_cast<uint32_t>(std::strtoul(said, nullptr, 10)) : api_version;
}

}  // namespace
}  // namespace ck::ort

extern "C" CK_API ck::ort::Status* CK_ORT_CALL RegisterCustomOps(ck::ort::SessionOptions* options,
                                                                const ck::ort::TableBase* base) {
  using namespace ck::ort;
  is_registered = false;
  const Cuda* const cuda = wanted_cuda;
  wanted_cuda = nullptr;
  const Table* table = base ? base->get_api(wanted_version()) : nullptr;
  if (!table) return nullptr;  // the runtime is older than the interface that is needed: the functions' bodies run
  const Api api(table);
  Domain* domain = nullptr;
  if (Status* error = domain_of(api, cuda, &domain)) return error;
  using Add = Status*(CK_ORT_CALL*)(SessionOptions*, Domain*);
  Status* error = reinterpret_cast<Add>(table->at[add_custom_op_domain])(options, domain);
  is_registered = !error;
  return error;
}

extern "C" int ck_onnx_cuda(const char* path) {
  ck::ort::wanted_cuda = path ? ck::ort::Cuda::load(path) : nullptr;
  return ck::ort::wanted_cuda != nullptr;
}

extern "C" int64_t ck_onnx_kernels(void) { return ck::ort::kernels_made; }

extern "C" int ck_onnx_registered(void) { return ck::ort::is_registered; }
