// ck_describe: which path an op takes.
#include <cstdio>
#include <cstring>
#include <string>

#include "cosine.h"
#include "parallel.h"
#include "row_plan.h"
#include "table.h"

namespace ck {
namespace {

std::string passes_of(const std::vector<Pass>& passes) {
  std::string text;
  for (const Pass& pass : passes) text += (text.empty() ? "" : ".") + std::to_string(pass.radix);
  return text;
}

std::string described(const char* op, int64_t n, int64_t batch) {
  const Kernels& build = kernels();
  const std::string name = build.name;
  if (!CosinePlan::supports(n)) return name + " matrix";
  const bool is_single = !std::strcmp(op, "acdc") && RowPlan::supports(n, build.lanes) && 2 * batch < build.lanes;
  if (is_single) {
    const RowPlan& plan = cached<RowPlan::Key, RowPlan>({n, build.lanes});
    return name + " fft " + passes_of(plan.passes) + "." + std::to_string(plan.lanes) + ", a row across lanes";
  }
  const CosinePlan& plan = cached<CosinePlan::Key, CosinePlan>({n, build.radix});
  return name + " fft " + passes_of(plan.passes) + (plan.fused ? ".4" : "") + ", rows on lanes";
}

}  // namespace
}  // namespace ck

extern "C" int ck_describe(const char* op, int64_t n, int64_t batch, char* text, int64_t size) {
  if (!op || !text || size < 1 || n < 1 || batch < 0) return CK_ERROR_ARGUMENT;
  return ck::guarded([&] {
    std::snprintf(text, static_cast<size_t>(size), "%s", ck::described(op, n, batch).c_str());
    return static_cast<int>(CK_OK);
  });
}
