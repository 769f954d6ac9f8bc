// The backend on the device: a block's threads as they are, its exchange memory, and how a kernel is started.
#pragma once

#include <cuda_runtime.h>

#include "calls.h"

namespace ck {

template <class T>
struct DeviceView {
  T* data;

  __device__ __forceinline__ T get(int i) const { return data[i]; }
  __device__ __forceinline__ void put(int i, T value) const { data[i] = value; }
};

template <class P, template <class> class Lane>
class DeviceBlock {
 public:
  __device__ __forceinline__ explicit DeviceBlock(float* shared) {
    lane_.t = threadIdx.x % P::T;
    lane_.team = threadIdx.x / P::T;
    memory_ = shared + lane_.team * P::pitch * 2;
  }

  __device__ __forceinline__ int64_t first() const { return blockIdx.x; }
  __device__ __forceinline__ int64_t count() const { return gridDim.x; }
  __device__ __forceinline__ int64_t team(const Lane<P>& lane) const { return first() * P::teams + lane.team; }
  __device__ __forceinline__ DeviceView<Complex> points(const Lane<P>&) { return {reinterpret_cast<Complex*>(memory_)}; }
  __device__ __forceinline__ DeviceView<float> floats(const Lane<P>&) { return {memory_}; }
  __device__ __forceinline__ DeviceView<Four> fours(const Lane<P>&) { return {reinterpret_cast<Four*>(memory_)}; }

  // A step's thread number is one that the compiler does not know to be that of the step before: else it keeps the
  // addresses of one step for the next and has too few registers for the row itself.
  template <class Step>
  __device__ __forceinline__ void each(Step step) {
    lane_.t = __shfl_xor_sync(0xffffffffu, lane_.t, 0);
    step(lane_);
  }
  // A row that lies in one warp needs no more than that warp.
  __device__ __forceinline__ void sync() {
    if constexpr (P::one_warp) {
      __syncwarp();
    } else {
      __syncthreads();
    }
  }

 private:
  Lane<P> lane_;
  float* memory_;
};

inline int runtime_error(cudaError_t error) { return error == cudaSuccess ? CK_CUDA_OK : CK_CUDA_ERROR_RUNTIME + error; }

// Processors of the present device; one where it does not say.
inline int64_t processors() {
  int device = 0, count = 1;
  if (cudaGetDevice(&device) != cudaSuccess) return 1;
  return cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device) == cudaSuccess ? count : 1;
}

struct Device {
  cudaStream_t stream;

  template <class P>
  int64_t acdc_teams() const { return processors() * P::backward_blocks * P::teams; }
  template <class P>
  int64_t fastfood_teams() const { return processors() * P::backward_blocks * P::teams; }

  template <class P>
  int acdc_forward(const AcdcTask& task, const Rows& x, const Rows& y) const;
  template <class P>
  int acdc_backward(const AcdcTask& task, const AcdcBackward& back) const;
  template <class P>
  int fastfood_forward(const FastfoodTask& task, const Rows& x, const Rows& y) const;
  template <class P>
  int fastfood_backward(const FastfoodTask& task, const FastfoodBackward& back) const;
  template <class P>
  int fwht(int64_t rows, const Rows& x, const Rows& y) const;
  int bend(const Bend& task, int dtype) const;
  int probe(int64_t* shared_bytes) const;
  int upload(const void* host, int64_t bytes, void** device) const;
  int release(void* device) const;
  int copy(void* to, const void* from, int64_t bytes) const;
  int reduce(const float* sums, int64_t stride, int64_t teams, int64_t count, float* to) const;

  // As many blocks as run at a time, each for several rows, so that tables come from the cache.
  template <class P>
  int64_t grid(int64_t rows, int blocks_per_sm) const {
    const int64_t wanted = (rows + P::teams - 1) / P::teams, most = processors() * blocks_per_sm;
    return wanted < most ? wanted : most;
  }

  template <class P, class Kernel, class... Arguments>
  int launch(Kernel kernel, int64_t blocks, const Arguments&... arguments) const {
    if (P::shared_bytes > 48 * 1024) {
      const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, P::shared_bytes);
      if (error != cudaSuccess) return runtime_error(error);
    }
    kernel<<<static_cast<unsigned>(blocks), P::threads, P::shared_bytes, stream>>>(arguments...);
    return runtime_error(cudaGetLastError());
  }
};

}  // namespace ck

#define CK_FOR_ACDC_PLANS(instantiate) \
  instantiate(128) instantiate(256) instantiate(512) instantiate(1024) instantiate(2048) instantiate(4096) \
      instantiate(8192) instantiate(16384)
#define CK_FOR_FASTFOOD_PLANS(instantiate) \
  instantiate(6) instantiate(7) instantiate(8) instantiate(9) instantiate(10) instantiate(11) instantiate(12) \
      instantiate(13) instantiate(14)
