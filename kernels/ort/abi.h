// The part of onnxruntime's C interface that custom operators need, declared by hand: no header of it is needed to build,
// and one library loads in every onnxruntime from 1.17 on.
//
// The interface is a table of function pointers that only ever grows at its end: a function is known by its place.
// check_headers.cpp compares every place below with real headers where there are some.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(_WIN32)
#define CK_ORT_CALL __stdcall
#else
#define CK_ORT_CALL
#endif

namespace ck::ort {

constexpr uint32_t api_version = 17;  // the first with KernelContext_ParallelFor and versions of operators

// Opaque to us.
struct Status;
struct SessionOptions;
struct Domain;
struct Value;
struct TypeAndShape;
struct KernelInfo;
struct KernelContext;
struct ShapeInferContext;

struct Table {
  void (*at[275])();
};

struct TableBase {
  const Table*(CK_ORT_CALL* get_api)(uint32_t version);  // NULL where the runtime has no such version
  const char*(CK_ORT_CALL* get_version_string)();
};

enum Slot : size_t {
  create_status = 0,
  create_custom_op_domain = 26,
  custom_op_domain_add = 27,
  add_custom_op_domain = 28,
  get_tensor_mutable_data = 51,
  get_tensor_element_type = 60,
  get_dimensions_count = 61,
  get_dimensions = 62,
  get_tensor_type_and_shape = 65,
  kernel_info_attribute_int64 = 86,
  kernel_info_attribute_string = 87,
  kernel_context_input_count = 88,
  kernel_context_input = 90,
  kernel_context_output = 91,
  release_status = 93,
  release_tensor_type_and_shape = 99,
  kernel_context_gpu_stream = 193,
  kernel_info_input_count = 230,
  kernel_info_constant_input = 249,
  kernel_context_parallel_for = 274,
};

// Types of a tensor's elements.
enum Element : int32_t {
  any_type = 0,
  float32 = 1,
  uint8 = 2,
  int8 = 3,
  uint16 = 4,
  int16 = 5,
  int32 = 6,
  int64 = 7,
  float16 = 10,
  float64 = 11,
  uint32 = 12,
  uint64 = 13,
  bfloat16 = 16,
};

enum Characteristic : int32_t { required = 0, optional = 1 };
enum MemoryType : int32_t { cpu_input = -2, default_memory = 0 };
enum Error : int32_t { fail = 1 };

// One operator, as onnxruntime sees it. What is newer than api_version, or only for variadic operators, is never called.
struct CustomOp {
  uint32_t version;
  void*(CK_ORT_CALL* create_kernel)(const CustomOp*, const Table*, const KernelInfo*);
  const char*(CK_ORT_CALL* get_name)(const CustomOp*);
  const char*(CK_ORT_CALL* get_execution_provider)(const CustomOp*);
  Element(CK_ORT_CALL* get_input_type)(const CustomOp*, size_t);
  size_t(CK_ORT_CALL* get_input_count)(const CustomOp*);
  Element(CK_ORT_CALL* get_output_type)(const CustomOp*, size_t);
  size_t(CK_ORT_CALL* get_output_count)(const CustomOp*);
  void(CK_ORT_CALL* compute)(void*, KernelContext*);
  void(CK_ORT_CALL* destroy)(void*);
  Characteristic(CK_ORT_CALL* get_input_characteristic)(const CustomOp*, size_t);
  Characteristic(CK_ORT_CALL* get_output_characteristic)(const CustomOp*, size_t);
  MemoryType(CK_ORT_CALL* get_input_memory_type)(const CustomOp*, size_t);
  int(CK_ORT_CALL* get_variadic_input_min_arity)(const CustomOp*);
  int(CK_ORT_CALL* get_variadic_input_homogeneity)(const CustomOp*);
  int(CK_ORT_CALL* get_variadic_output_min_arity)(const CustomOp*);
  int(CK_ORT_CALL* get_variadic_output_homogeneity)(const CustomOp*);
  Status*(CK_ORT_CALL* create_kernel_v2)(const CustomOp*, const Table*, const KernelInfo*, void**);
  Status*(CK_ORT_CALL* compute_v2)(void*, KernelContext*);
  Status*(CK_ORT_CALL* infer_output_shape)(const CustomOp*, ShapeInferContext*);
  int(CK_ORT_CALL* get_start_version)(const CustomOp*);
  int(CK_ORT_CALL* get_end_version)(const CustomOp*);
  size_t(CK_ORT_CALL* get_may_inplace)(int**, int**);
  void(CK_ORT_CALL* release_may_inplace)(int*, int*);
  size_t(CK_ORT_CALL* get_alias_map)(int**, int**);
  void(CK_ORT_CALL* release_alias_map)(int*, int*);
};
static_assert(sizeof(CustomOp) == 26 * sizeof(void*), "onnxruntime's OrtCustomOp has 26 places");
static_assert(sizeof(Element) == sizeof(int) && sizeof(Characteristic) == sizeof(int), "C enumerations are ints");
static_assert(sizeof(Table) == 275 * sizeof(void*), "the table of API 17 up to the last place that is used");

}  // namespace ck::ort
