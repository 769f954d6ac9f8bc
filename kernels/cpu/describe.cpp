// ck_describe: which path an op takes.
#include <cstdio>

#include "table.h"

extern "C" int ck_describe(const char* op, int64_t n, int64_t batch, char* text, int64_t size) {
  if (!op || !text || size < 1 || n < 1 || batch < 0) return CK_ERROR_ARGUMENT;
  std::snprintf(text, static_cast<size_t>(size), "%s matrix", ck::kernels().name);
  return CK_OK;
}
