// The C interface on the device, and the sum over teams.
#include "device.cuh"

namespace ck {

constexpr int reduce_width = 32, reduce_teams = 32;

// One column a lane; the teams dealt out to the warps of a block, always alike.
__global__ void __launch_bounds__(reduce_width* reduce_teams)
    reduce_kernel(const float* sums, int64_t stride, int64_t teams, int64_t count, float* to) {
  __shared__ float part[reduce_teams][reduce_width];
  const int64_t column = static_cast<int64_t>(blockIdx.x) * reduce_width + threadIdx.x;
  float sum = 0;
  if (column < count)
    for (int64_t team = threadIdx.y; team < teams; team += reduce_teams) sum += sums[team * stride + column];
  part[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || column >= count) return;
  for (int i = 1; i < reduce_teams; ++i) sum += part[i][threadIdx.x];
  to[column] = sum;
}

int Device::reduce(const float* sums, int64_t stride, int64_t teams, int64_t count, float* to) const {
  if (count == 0) return CK_CUDA_OK;
  const auto blocks = static_cast<unsigned>((count + reduce_width - 1) / reduce_width);
  reduce_kernel<<<blocks, dim3(reduce_width, reduce_teams), 0, stream>>>(sums, stride, teams, count, to);
  return runtime_error(cudaGetLastError());
}

int Device::probe(int64_t* shared_bytes, int64_t* longest_acdc) const {
  cudaFuncAttributes attributes;
  int device = 0, bytes = 0;
  cudaError_t error = cudaFuncGetAttributes(&attributes, reduce_kernel);
  if (error == cudaSuccess) error = cudaGetDevice(&device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  *shared_bytes = bytes;
  *longest_acdc = longest_acdc_for(bytes, has_clusters());
  (void)cudaGetLastError();  // else the caller's next question about errors would find this one
  return runtime_error(error);
}

int Device::upload(const void* host, int64_t bytes, void** device) const {
  cudaError_t error = cudaMalloc(device, static_cast<size_t>(bytes));
  if (error != cudaSuccess) return runtime_error(error);
  error = cudaMemcpy(*device, host, static_cast<size_t>(bytes), cudaMemcpyHostToDevice);
  if (error != cudaSuccess) cudaFree(*device);
  return runtime_error(error);
}

int Device::release(void* device) const { return runtime_error(cudaFree(device)); }

int Device::copy(void* to, const void* from, int64_t bytes) const {
  const cudaError_t error = cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDefault, stream);
  return runtime_error(error == cudaSuccess ? cudaStreamSynchronize(stream) : error);
}

inline const char* error_string(int error) {
  if (error >= CK_CUDA_ERROR_RUNTIME) return cudaGetErrorString(static_cast<cudaError_t>(error - CK_CUDA_ERROR_RUNTIME));
  return error == CK_CUDA_OK               ? "no error"
         : error == CK_CUDA_ERROR_ARGUMENT ? "wrong argument"
                                           : "no kernel for this size";
}

}  // namespace ck

#define CK_NAME(name) ck_cuda_##name
#define CK_BACKEND(stream) (ck::Device{static_cast<cudaStream_t>(stream)})
#include "entries.inc"
