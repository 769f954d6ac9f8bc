#include "numbers.h"

#include <cstring>

namespace ck::ort {
namespace {

float half_to_float(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16;
  uint32_t bits;
  if ((h & 0x7c00u) == 0x7c00u) {  // infinity and NaN
    bits = 0x7f800000u | static_cast<uint32_t>(h & 0x3ffu) << 13;
  } else if (h & 0x7c00u) {
    bits = (static_cast<uint32_t>(h & 0x7fffu) << 13) + (112u << 23);
  } else {  // zero and subnormal: a whole number of 2^-24
    const float small = static_cast<float>(h & 0x3ffu) * 0x1p-24f;
    std::memcpy(&bits, &small, 4);
  }
  bits |= sign;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

uint16_t float_to_half(float value) {  // to the nearest, ties to even
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  const uint16_t sign = static_cast<uint16_t>(bits >> 16 & 0x8000u);
  bits &= 0x7fffffffu;
  if (bits > 0x7f800000u) return sign | 0x7e00u;
  if (bits >= 0x477ff000u) return sign | 0x7c00u;  // rounds to 65536 or more
  if (bits < 0x38800000u) {                        // below 2^-14: a whole number of 2^-24
    float magnitude;
    std::memcpy(&magnitude, &bits, 4);
    const float rounded = magnitude + 0.5f;  // 0.5f has units of 2^-24
    uint32_t units;
    std::memcpy(&units, &rounded, 4);
    return sign | static_cast<uint16_t>(units - 0x3f000000u);
  }
  const uint32_t rounded = bits + 0xfffu + (bits >> 13 & 1u);
  return sign | static_cast<uint16_t>((rounded - (112u << 23)) >> 13);
}

float bfloat_to_float(uint16_t b) {
  const uint32_t bits = static_cast<uint32_t>(b) << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

uint16_t float_to_bfloat(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>(bits >> 16 | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

template <class Number, class Change>
void each(const void* from, float* to, int64_t count, Change change) {
  const Number* numbers = static_cast<const Number*>(from);
  for (int64_t i = 0; i < count; i++) to[i] = change(numbers[i]);
}

template <class Number, class Change>
void each(const float* from, void* to, int64_t count, Change change) {
  Number* numbers = static_cast<Number*>(to);
  for (int64_t i = 0; i < count; i++) numbers[i] = change(from[i]);
}

template <class Number>
std::vector<int32_t> checked(const void* from, int64_t count, int64_t limit, const char* what) {
  const Number* numbers = static_cast<const Number*>(from);
  std::vector<int32_t> found(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; i++) {
    if (numbers[i] < 0 || static_cast<uint64_t>(numbers[i]) >= static_cast<uint64_t>(limit))
      throw Refusal(std::string(what) + " holds " + std::to_string(numbers[i]) + ", not below " + std::to_string(limit));
    found[static_cast<size_t>(i)] = static_cast<int32_t>(numbers[i]);
  }
  return found;
}

void check_count(const Tensor& tensor, int64_t count, const char* what) {
  if (tensor.count() != count)
    throw Refusal(std::string(what) + " holds " + std::to_string(tensor.count()) + " numbers, not " +
                  std::to_string(count));
}

[[noreturn]] void refuse(Element element) {
  throw Refusal("no operator takes tensors of ONNX's type " + std::to_string(element));
}

}  // namespace

void to_float(const void* from, Element element, float* to, int64_t count) {
  switch (element) {
    case float32: return each<float>(from, to, count, [](float v) { return v; });
    case float64: return each<double>(from, to, count, [](double v) { return static_cast<float>(v); });
    case float16: return each<uint16_t>(from, to, count, half_to_float);
    case bfloat16: return each<uint16_t>(from, to, count, bfloat_to_float);
    case int8: return each<int8_t>(from, to, count, [](int8_t v) { return static_cast<float>(v); });  // signs
    default: refuse(element);
  }
}

void from_float(const float* from, Element element, void* to, int64_t count) {
  switch (element) {
    case float32: return each<float>(from, to, count, [](float v) { return v; });
    case float64: return each<double>(from, to, count, [](float v) { return static_cast<double>(v); });
    case float16: return each<uint16_t>(from, to, count, float_to_half);
    case bfloat16: return each<uint16_t>(from, to, count, float_to_bfloat);
    default: refuse(element);
  }
}

std::vector<float> floats(const Tensor& tensor, int64_t count, const char* what) {
  check_count(tensor, count, what);
  std::vector<float> found(static_cast<size_t>(count));
  to_float(tensor.data, tensor.element, found.data(), count);
  return found;
}

std::vector<int32_t> indices(const Tensor& tensor, int64_t count, int64_t limit, const char* what) {
  check_count(tensor, count, what);
  if (limit > INT32_MAX) throw Refusal(std::string(what) + " may be too large for an index");
  switch (tensor.element) {
    case uint8: return checked<uint8_t>(tensor.data, count, limit, what);
    case int8: return checked<int8_t>(tensor.data, count, limit, what);
    case uint16: return checked<uint16_t>(tensor.data, count, limit, what);
    case int16: return checked<int16_t>(tensor.data, count, limit, what);
    case int32: return checked<int32_t>(tensor.data, count, limit, what);
    case int64: return checked<int64_t>(tensor.data, count, limit, what);
    case uint32: return checked<uint32_t>(tensor.data, count, limit, what);
    case uint64: return checked<uint64_t>(tensor.data, count, limit, what);
    default: refuse(tensor.element);
  }
}

}  // namespace ck::ort
