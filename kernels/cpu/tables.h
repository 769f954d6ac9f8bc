// Numbers that depend on the length alone: made once in double, kept for the life of the process, shared by all threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <new>

namespace ck {

// Floats aligned to 64 bytes.
class Floats {
 public:
  explicit Floats(size_t count = 0) {
    if (!count) return;
    data_.reset(static_cast<float*>(std::aligned_alloc(64, (count * sizeof(float) + 63) / 64 * 64)));
    if (!data_) throw std::bad_alloc();
    for (size_t i = 0; i < count; i++) data_[i] = 0;
  }
  float* get() const { return data_.get(); }
  float& operator[](size_t i) const { return data_[i]; }

 private:
  struct Free {
    void operator()(float* p) const { std::free(p); }
  };
  std::unique_ptr<float[], Free> data_;
};

// One `Table(key)` for each key that was ever asked for. The reference stays valid. A table may ask for tables of another
// kind while it is made.
template <class Key, class Table>
const Table& cached(const Key& key) {
  static std::mutex mutex;
  static std::map<Key, std::unique_ptr<const Table>> tables;
  std::lock_guard<std::mutex> lock(mutex);
  auto& slot = tables[key];
  if (!slot) slot = std::make_unique<const Table>(key);
  return *slot;
}

// The orthonormal DCT-II matrix, entry by entry, and its transpose; rows padded with zeros to a multiple of 16.
struct DctMatrix {
  int64_t n, stride;
  Floats forward, inverse;
  explicit DctMatrix(int64_t n);
};

}  // namespace ck
