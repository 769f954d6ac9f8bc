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

struct Op : CustomOp {
  Op(const Kind& made, std::string called, Element type);
  const Kind& kind;
  std::string name;
  Element element;
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
    *kernel = new Made{Kernel(op_of(op).kind, api, info), api};
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

Op::Op(const Kind& made, std::string called, Element type)
    : CustomOp{}, kind(made), name(std::move(called)), element(type) {
  version = api_version;
  get_name = [](const CustomOp* op) -> const char* { return op_of(op).name.c_str(); };
  get_execution_provider = [](const CustomOp*) -> const char* { return nullptr; };  // the CPU's
  get_input_type = input_type;
  get_input_count = [](const CustomOp* op) -> size_t { return op_of(op).kind.inputs; };
  get_output_type = [](const CustomOp* op, size_t) -> Element { return op_of(op).element; };
  get_output_count = [](const CustomOp*) -> size_t { return 1; };
  get_input_characteristic = [](const CustomOp* op, size_t index) -> Characteristic {
    return index < op_of(op).kind.required ? required : optional;
  };
  get_output_characteristic = [](const CustomOp*, size_t) -> Characteristic { return required; };
  get_input_memory_type = [](const CustomOp*, size_t) -> MemoryType { return default_memory; };
  create_kernel_v2 = ck::ort::create_kernel;
  compute_v2 = ck::ort::compute;
  destroy = [](void* kernel) { delete static_cast<Made*>(kernel); };
  get_start_version = [](const CustomOp*) -> int { return 1; };
  get_end_version = [](const CustomOp*) -> int { return INT32_MAX; };
}

const std::vector<std::unique_ptr<const Op>>& ops() {
  static const std::vector<std::unique_ptr<const Op>> all = [] {
    std::vector<std::unique_ptr<const Op>> made;
    for (const Kind& kind : kinds())
      for (int i = 1; i <= names_of_a_kind; i++)
        for (Element element : {float32, float64, float16, bfloat16})
          made.push_back(
              std::make_unique<const Op>(kind, i == 1 ? kind.name : kind.name + ("_" + std::to_string(i)), element));
    return made;
  }();
  return all;
}

// The domain for one runtime: made once, as sessions keep pointers into it, and never given back.
Status* domain_of(const Api& api, Domain** found) {
  static std::mutex mutex;
  static std::map<const Table*, Domain*> domains;
  return guarded(api, [&] {
    std::lock_guard<std::mutex> lock(mutex);
    Domain*& domain = domains[api.table()];
    if (!domain) {
      Domain* fresh = nullptr;
      api.call<create_custom_op_domain>(&domain_name[0], &fresh);
      for (const auto& op : ops()) api.call<custom_op_domain_add>(fresh, static_cast<const CustomOp*>(op.get()));
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
  const Table* table = base ? base->get_api(wanted_version()) : nullptr;
  if (!table) return nullptr;  // the runtime is older than the interface that is needed: the functions' bodies run
  const Api api(table);
  Domain* domain = nullptr;
  if (Status* error = domain_of(api, &domain)) return error;
  using Add = Status*(CK_ORT_CALL*)(SessionOptions*, Domain*);
  Status* error = reinterpret_cast<Add>(table->at[add_custom_op_domain])(options, domain);
  is_registered = !error;
  return error;
}

extern "C" int64_t ck_onnx_kernels(void) { return ck::ort::kernels_made; }

extern "C" int ck_onnx_registered(void) { return ck::ort::is_registered; }
