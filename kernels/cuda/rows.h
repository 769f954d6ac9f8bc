// Rows of a matrix in the caller's memory, of any of the element types, with any stride: read and written four by four.
#pragma once

#include "portable.h"

namespace ck {

// `columns` of each row exist; what is past them reads as zero and is not written. `vectors`: every group of four
// elements lies on a boundary of four elements and wholly inside or wholly outside.
struct Rows {
  void* data;
  int64_t stride, columns;
  int dtype;
  bool vectors;
};

inline Rows make_rows(const void* data, int dtype, int64_t stride, int64_t columns, int64_t rows) {
  const uintptr_t bytes = dtype == F32 ? 16 : 8;
  const bool aligned = reinterpret_cast<uintptr_t>(data) % bytes == 0 && (stride % 4 == 0 || rows < 2);
  return {const_cast<void*>(data), stride, columns, dtype, aligned && columns % 4 == 0};
}

template <class T>
struct alignas(4 * sizeof(T)) Pack {
  T x[4];
};

template <class T>
CK_HD Four read_vector(const T* row, int m) {
  const Pack<T> p = reinterpret_cast<const Pack<T>*>(row)[m];
  return {{widen(p.x[0]), widen(p.x[1]), widen(p.x[2]), widen(p.x[3])}};
}

template <class T>
CK_HD Four read_scalars(const T* row, int m, int64_t columns) {
  Four v;
  CK_UNROLL
  for (int i = 0; i < 4; ++i) v.x[i] = 4 * m + i < columns ? widen(row[4 * m + i]) : 0.f;
  return v;
}

// Calls body(i, four(index(i))) for i < count; `index` gives which group of four elements of the row.
template <int count, class T, class Index, class Body>
CK_HD void read_as(const Rows& x, int64_t row, Index index, Body body) {
  const T* from = static_cast<const T*>(x.data) + row * x.stride;
  if (x.vectors) {
    CK_UNROLL
    for (int i = 0; i < count; ++i) {
      const int m = index(i);
      body(i, 4 * m < x.columns ? read_vector(from, m) : Four{{0.f, 0.f, 0.f, 0.f}});
    }
  } else {
    CK_UNROLL
    for (int i = 0; i < count; ++i) body(i, read_scalars(from, index(i), x.columns));
  }
}

template <int count, class Index, class Body>
CK_HD void read_row(const Rows& x, int64_t row, bool exists, Index index, Body body) {
  if (!exists) {
    CK_UNROLL
    for (int i = 0; i < count; ++i) body(i, Four{{0.f, 0.f, 0.f, 0.f}});
  } else if (x.dtype == F32) {
    read_as<count, float>(x, row, index, body);
  } else if (x.dtype == F16) {
    read_as<count, F16Bits>(x, row, index, body);
  } else {
    read_as<count, BF16Bits>(x, row, index, body);
  }
}

template <int count, class T, class Index, class Value>
CK_HD void write_as(const Rows& y, int64_t row, Index index, Value value) {
  T* to = static_cast<T*>(y.data) + row * y.stride;
  CK_UNROLL
  for (int i = 0; i < count; ++i) {
    const int m = index(i);
    const Four v = value(i);
    Pack<T> p;
    CK_UNROLL
    for (int j = 0; j < 4; ++j) narrow(v.x[j], p.x[j]);
    if (y.vectors) {
      if (4 * m < y.columns) reinterpret_cast<Pack<T>*>(to)[m] = p;
    } else {
      CK_UNROLL
      for (int j = 0; j < 4; ++j)
        if (4 * m + j < y.columns) to[4 * m + j] = p.x[j];
    }
  }
}

// Writes value(i) as the group of four elements number index(i), for i < count.
template <int count, class Index, class Value>
CK_HD void write_row(const Rows& y, int64_t row, bool exists, Index index, Value value) {
  if (!exists) return;
  if (y.dtype == F32) {
    write_as<count, float>(y, row, index, value);
  } else if (y.dtype == F16) {
    write_as<count, F16Bits>(y, row, index, value);
  } else {
    write_as<count, BF16Bits>(y, row, index, value);
  }
}

// The same for single elements: body(i, element number index(i)), and writing value(i) there.
template <int count, class T, class Index, class Body>
CK_HD void read_elements_as(const Rows& x, int64_t row, Index index, Body body) {
  const T* from = static_cast<const T*>(x.data) + row * x.stride;
  CK_UNROLL
  for (int i = 0; i < count; ++i) {
    const int64_t at = index(i);
    body(i, at < x.columns ? widen(from[at]) : 0.f);
  }
}

template <int count, class Index, class Body>
CK_HD void read_elements(const Rows& x, int64_t row, bool exists, Index index, Body body) {
  if (!exists) {
    CK_UNROLL
    for (int i = 0; i < count; ++i) body(i, 0.f);
  } else if (x.dtype == F32) {
    read_elements_as<count, float>(x, row, index, body);
  } else if (x.dtype == F16) {
    read_elements_as<count, F16Bits>(x, row, index, body);
  } else {
    read_elements_as<count, BF16Bits>(x, row, index, body);
  }
}

template <int count, class T, class Index, class Value>
CK_HD void write_elements_as(const Rows& y, int64_t row, Index index, Value value) {
  T* to = static_cast<T*>(y.data) + row * y.stride;
  CK_UNROLL
  for (int i = 0; i < count; ++i) {
    const int64_t at = index(i);
    if (at < y.columns) narrow(value(i), to[at]);
  }
}

template <int count, class Index, class Value>
CK_HD void write_elements(const Rows& y, int64_t row, bool exists, Index index, Value value) {
  if (!exists) return;
  if (y.dtype == F32) {
    write_elements_as<count, float>(y, row, index, value);
  } else if (y.dtype == F16) {
    write_elements_as<count, F16Bits>(y, row, index, value);
  } else {
    write_elements_as<count, BF16Bits>(y, row, index, value);
  }
}

}  // namespace ck
