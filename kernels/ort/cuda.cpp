#include "cuda.h"

#include <dlfcn.h>

#include <map>
#include <mutex>

#include "api.h"

namespace ck::ort {
namespace {

template <class Function>
bool find(void* library, const std::string& name, Function& to) {
  to = reinterpret_cast<Function>(dlsym(library, ("ck_cuda_" + name).c_str()));
  return to != nullptr;
}

std::unique_ptr<const Cuda> loaded(const std::string& path) {
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) return nullptr;
  decltype(&ck_cuda_version) version = nullptr;
  Cuda found{};
  bool is_whole = find(library, "version", version) && version() == CK_CUDA_VERSION;
  is_whole = is_whole && find(library, "error_string", found.error_string) && find(library, "upload", found.upload) &&
             find(library, "release", found.release) && find(library, "copy", found.copy) &&
             find(library, "probe", found.probe) && find(library, "acdc_table_size", found.acdc_table_size) &&
             find(library, "acdc_table", found.acdc_table);
  const char* const types[] = {"_f32", "_f16", "_bf16"};
  for (int i = 0; i < 3 && is_whole; i++)
    is_whole = find(library, std::string("acdc_forward") + types[i], found.acdc_forward[i]) &&
               find(library, std::string("fastfood_forward") + types[i], found.fastfood_forward[i]) &&
               find(library, std::string("bend") + types[i], found.bend[i]);
  return is_whole ? std::make_unique<const Cuda>(found) : nullptr;
}

}  // namespace

const Cuda* Cuda::load(const std::string& path) {
  static std::mutex mutex;
  static std::map<std::string, std::unique_ptr<const Cuda>> libraries;
  std::lock_guard<std::mutex> lock(mutex);
  auto& found = libraries[path];
  if (!found) found = loaded(path);
  return found.get();
}

int Cuda::typed(Element element) {
  return element == float32 ? 0 : element == float16 ? 1 : element == bfloat16 ? 2 : -1;
}

void Cuda::check(int error) const {
  if (error) throw Refusal(std::string("CUDA kernel: ") + error_string(error));
}

}  // namespace ck::ort
