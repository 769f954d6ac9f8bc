// ck_describe: which path an op takes.
#include <cstdio>
#include <cstring>
#include <string>

#include "cosine.h"
#include "fourier_plan.h"
#include "parallel.h"
#include "row_plan.h"
#include "separable_plan.h"
#include "table.h"

namespace ck {
namespace {

std::string passes_of(const std::vector<Pass>& passes) {
  std::string text;
  for (const Pass& pass : passes) text += (text.empty() ? "" : ".") + std::to_string(pass.radix);
  return text;
}

std::string cosine_path(int64_t n, int64_t radix) {
  const CosinePlan& plan = cached<CosinePlan::Key, CosinePlan>({n, radix});
  return "fft " + passes_of(plan.passes) + (plan.fused ? ".4" : "");
}

std::string separable_path(int64_t n, int64_t batch, const Kernels& build) {
  const int64_t side = SeparablePlan::short_side(n);
  if (!SeparablePlan::supports(n)) return " matrix";
  const bool is_single = SeparablePlan::single_rows(n, batch, build.lanes) == batch;
  return " columns " + cosine_path(side, build.radix) + ", rows " + cosine_path(n / side, build.radix) +
         (is_single ? ", a row across lanes" : ", rows on lanes");
}

// Of the layers but the cosine cascades; empty for those.
std::string structured_path(const char* op, int64_t n, int64_t batch) {
  if (!std::strcmp(op, "fwht")) return " row by row";
  if (!std::strcmp(op, "fastfood")) return takes_four_rows(n, batch) ? " four rows at a time" : " row by row";
  if (!std::strcmp(op, "monarch")) return batch < 12 ? " dot products" : " classes on lanes, packed";
  if (!std::strcmp(op, "csr")) return batch < 4 ? " row by row" : " up to 32 rows on lanes";
  return "";
}

std::string described(const char* op, int64_t n, int64_t batch) {
  const Kernels& build = kernels();
  const std::string name = build.name;
  const std::string structured = structured_path(op, n, batch);
  if (!structured.empty()) return name + structured;
  if (!std::strcmp(op, "acdc2d")) return name + separable_path(n, batch, build);
  const bool is_fourier = !std::strcmp(op, "circulant") || !std::strcmp(op, "toeplitz") || !std::strcmp(op, "afdf");
  if (!std::strcmp(op, "afdf")) n *= 2;  // of a real transform with as many complex numbers
  if (!CosinePlan::supports(n)) return name + " matrix";
  const bool is_single = is_fourier ? goes_across_lanes(n, batch, build.lanes)
                                    : !std::strcmp(op, "acdc") && RowPlan::supports(n, build.lanes) &&
                                          batch < build.lanes && single_rows(batch, build.lanes) == batch;
  if (is_single) {
    const RowPlan& plan = cached<RowPlan::Key, RowPlan>({n, build.lanes});
    return name + " fft " + passes_of(plan.passes) + "." + std::to_string(plan.lanes) + ", a row across lanes";
  }
  return name + " " + cosine_path(n, build.radix) + ", rows on lanes";
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
