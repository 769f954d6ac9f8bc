// Features of Fastfood's products, in place: one product at a time, whoever takes it.
#pragma once

#include <cmath>

#include "portable.h"

namespace ck {

struct Bend {
  void* data;
  int64_t rows, width, stride;
  float scale;  // of the cosines and sines; 0 for ReLU
};

template <class T>
CK_HD void bend_as(const Bend& task, int64_t at) {
  T* row = static_cast<T*>(task.data) + at / task.width * task.stride;
  const int64_t column = at % task.width;
  const float value = widen(row[column]);
  if (task.scale == 0.f) {
    narrow(value < 0.f ? 0.f : value, row[column]);
  } else {
    narrow(task.scale * cosf(value), row[column]);
    narrow(task.scale * sinf(value), row[task.width + column]);
  }
}

// Product number `at` of all rows.
CK_HD void bend(const Bend& task, int dtype, int64_t at) {
  if (dtype == F32) {
    bend_as<float>(task, at);
  } else if (dtype == F16) {
    bend_as<F16Bits>(task, at);
  } else {
    bend_as<BF16Bits>(task, at);
  }
}

}  // namespace ck
