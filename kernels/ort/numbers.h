// Tensors of any number type as the types that the kernels take.
#pragma once

#include <cstdint>
#include <vector>

#include "api.h"

namespace ck::ort {

// float32, float64, float16 and bfloat16 as float32 and back; Refusal for any other type.
void to_float(const void* from, Element element, float* to, int64_t count);
void from_float(const float* from, Element element, void* to, int64_t count);

// All numbers of a tensor, whatever its type; a Refusal that names `what` where it holds other than `count`.
std::vector<float> floats(const Tensor& tensor, int64_t count, const char* what);

// Whole numbers of any type, each within 0 ... limit - 1; else a Refusal that names `what`.
std::vector<int32_t> indices(const Tensor& tensor, int64_t count, int64_t limit, const char* what);

}  // namespace ck::ort
