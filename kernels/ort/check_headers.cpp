// Compiles only if abi.h agrees with onnxruntime's own headers. No part of the library: tests compile it where headers
// are found, g++ -std=c++17 -fsyntax-only -I<folder of onnxruntime_c_api.h> check_headers.cpp.
#include <cstddef>

#include "abi.h"
#include "onnxruntime_c_api.h"

namespace ck::ort {

#define CK_SLOT(place, name) static_assert(offsetof(OrtApi, name) == (place) * sizeof(void*), #name)
CK_SLOT(create_status, CreateStatus);
CK_SLOT(create_custom_op_domain, CreateCustomOpDomain);
CK_SLOT(custom_op_domain_add, CustomOpDomain_Add);
CK_SLOT(add_custom_op_domain, AddCustomOpDomain);
CK_SLOT(get_tensor_mutable_data, GetTensorMutableData);
CK_SLOT(get_tensor_element_type, GetTensorElementType);
CK_SLOT(get_dimensions_count, GetDimensionsCount);
CK_SLOT(get_dimensions, GetDimensions);
CK_SLOT(get_tensor_type_and_shape, GetTensorTypeAndShape);
CK_SLOT(kernel_info_attribute_int64, KernelInfoGetAttribute_int64);
CK_SLOT(kernel_info_attribute_string, KernelInfoGetAttribute_string);
CK_SLOT(kernel_context_input_count, KernelContext_GetInputCount);
CK_SLOT(kernel_context_input, KernelContext_GetInput);
CK_SLOT(kernel_context_output, KernelContext_GetOutput);
CK_SLOT(release_status, ReleaseStatus);
CK_SLOT(release_tensor_type_and_shape, ReleaseTensorTypeAndShapeInfo);
CK_SLOT(kernel_context_gpu_stream, KernelContext_GetGPUComputeStream);
CK_SLOT(kernel_info_input_count, KernelInfo_GetInputCount);
CK_SLOT(kernel_info_constant_input, KernelInfoGetConstantInput_tensor);
CK_SLOT(kernel_context_parallel_for, KernelContext_ParallelFor);

#define CK_FIELD(field, name) static_assert(offsetof(CustomOp, field) == offsetof(OrtCustomOp, name), #name)
CK_FIELD(version, version);
CK_FIELD(create_kernel, CreateKernel);
CK_FIELD(get_name, GetName);
CK_FIELD(get_execution_provider, GetExecutionProviderType);
CK_FIELD(get_input_type, GetInputType);
CK_FIELD(get_input_count, GetInputTypeCount);
CK_FIELD(get_output_type, GetOutputType);
CK_FIELD(get_output_count, GetOutputTypeCount);
CK_FIELD(compute, KernelCompute);
CK_FIELD(destroy, KernelDestroy);
CK_FIELD(get_input_characteristic, GetInputCharacteristic);
CK_FIELD(get_output_characteristic, GetOutputCharacteristic);
CK_FIELD(get_input_memory_type, GetInputMemoryType);
CK_FIELD(get_variadic_input_min_arity, GetVariadicInputMinArity);
CK_FIELD(get_variadic_input_homogeneity, GetVariadicInputHomogeneity);
CK_FIELD(get_variadic_output_min_arity, GetVariadicOutputMinArity);
CK_FIELD(get_variadic_output_homogeneity, GetVariadicOutputHomogeneity);
CK_FIELD(create_kernel_v2, CreateKernelV2);
CK_FIELD(compute_v2, KernelComputeV2);
CK_FIELD(infer_output_shape, InferOutputShapeFn);
CK_FIELD(get_start_version, GetStartVersion);
CK_FIELD(get_end_version, GetEndVersion);
CK_FIELD(get_may_inplace, GetMayInplace);
CK_FIELD(release_may_inplace, ReleaseMayInplace);
CK_FIELD(get_alias_map, GetAliasMap);
CK_FIELD(release_alias_map, ReleaseAliasMap);
static_assert(ORT_API_VERSION > 17 ? sizeof(CustomOp) <= sizeof(OrtCustomOp) : true, "OrtCustomOp grows at its end");
static_assert(offsetof(TableBase, get_api) == offsetof(OrtApiBase, GetApi), "OrtApiBase");

#define CK_VALUE(ours, theirs) static_assert(static_cast<int>(ours) == static_cast<int>(theirs), #theirs)
CK_VALUE(any_type, ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED);
CK_VALUE(float32, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT);
CK_VALUE(uint8, ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8);
CK_VALUE(int8, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8);
CK_VALUE(uint16, ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16);
CK_VALUE(int16, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16);
CK_VALUE(int32, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32);
CK_VALUE(int64, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64);
CK_VALUE(float16, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16);
CK_VALUE(float64, ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE);
CK_VALUE(uint32, ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT32);
CK_VALUE(uint64, ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT64);
CK_VALUE(bfloat16, ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16);
CK_VALUE(required, INPUT_OUTPUT_REQUIRED);
CK_VALUE(optional, INPUT_OUTPUT_OPTIONAL);
CK_VALUE(cpu_input, OrtMemTypeCPUInput);
CK_VALUE(default_memory, OrtMemTypeDefault);
CK_VALUE(fail, ORT_FAIL);

}  // namespace ck::ort
