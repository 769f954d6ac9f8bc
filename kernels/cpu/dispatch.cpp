// Which build of the kernels this machine runs, and the words for errors.
#include <cstdlib>
#include <cstring>

#include "table.h"

namespace ck {
namespace {

struct Choice {
  bool runs;
  const Kernels& (*table)();
};

// Those that were compiled, the best first.
const Kernels& best() {
#if defined(__x86_64__)
  __builtin_cpu_init();
#endif
  const Choice choices[] = {
#ifdef CK_HAS_avx512
      {__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("fma"),
       avx512::table},
#endif
#ifdef CK_HAS_avx2
      {__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"), avx2::table},
#endif
#ifdef CK_HAS_sse4
      {true, sse4::table},
#endif
#ifdef CK_HAS_wide
      {__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"), wide::table},
#endif
#ifdef CK_HAS_neon
      {true, neon::table},
#endif
  };
  const char* wanted = std::getenv("COMPRESSOR_KERNELS_ISA");
  for (const Choice& choice : choices)
    if (choice.runs && (!wanted || !std::strcmp(wanted, choice.table().name))) return choice.table();
  for (const Choice& choice : choices)
    if (choice.runs) return choice.table();
  std::abort();  // every machine runs sse4 or neon
}

}  // namespace

const Kernels& kernels() {
  static const Kernels& chosen = best();
  return chosen;
}

}  // namespace ck

extern "C" int ck_version(void) { return CK_VERSION; }

extern "C" const char* ck_error_string(int error) {
  switch (error) {
    case CK_OK: return "no error";
    case CK_ERROR_ARGUMENT: return "an argument is out of range";
    case CK_ERROR_MEMORY: return "out of memory";
    case CK_ERROR_UNSUPPORTED: return "not supported by this build";
    default: return "unknown error";
  }
}

extern "C" int ck_fma_f32(int64_t count) { return ck::kernels().fma_rounds(count); }
