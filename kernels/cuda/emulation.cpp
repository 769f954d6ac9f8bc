// The CUDA kernels' own arithmetic, index maps and barriers on the host, behind the same C interface: their test.
#include "emulator.h"

namespace ck {
inline const char* error_string(int error) {
  return error == CK_CUDA_OK ? "no error" : error == CK_CUDA_ERROR_ARGUMENT ? "wrong argument" : "no kernel for this size";
}
}  // namespace ck

#define CK_NAME(name) ck_cuda_##name
#define CK_BACKEND(stream) ((void)(stream), ck::Emulator{})
#include "entries.inc"

extern "C" __attribute__((visibility("default"))) void ck_emulator_counts(int64_t* to) {
  const ck::EmulatorCounts& c = ck::emulator_counts;
  const int64_t found[4] = {c.races, c.unwritten, c.passes, c.fewest};
  for (int i = 0; i < 4; ++i) to[i] = found[i];
  ck::emulator_counts = {};
}
