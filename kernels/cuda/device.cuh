// The backend on the device: a block's threads as they are, its exchange memory, and how a kernel is started.
#pragma once

#include <cooperative_groups.h>
#include <cuda_runtime.h>

#include "calls.h"

namespace ck {

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
#define CK_HAS_CLUSTERS 1
#else
#define CK_HAS_CLUSTERS 0
#endif

inline __device__ int cluster_rank() {
#if CK_HAS_CLUSTERS
  return static_cast<int>(cooperative_groups::this_cluster().block_rank());
#else
  return 0;
#endif
}

inline __device__ void cluster_sync() {
#if CK_HAS_CLUSTERS
  cooperative_groups::this_cluster().sync();
#endif
}

// A row's part of the exchange memory. Where a cluster of blocks has the row, each holds `share` elements of it.
template <class T, int ranks, int share>
struct DeviceView {
  T* data;

  __device__ __forceinline__ T get(int i) const { return *at(i); }
  __device__ __forceinline__ void put(int i, T value) const { *at(i) = value; }

 private:
  __device__ __forceinline__ T* at(int i) const {
#if CK_HAS_CLUSTERS
    if constexpr (ranks > 1) return cooperative_groups::this_cluster().map_shared_rank(data + i % share, i / share);
#endif
    return data + i;
  }
};

template <class P, template <class> class Lane>
class DeviceBlock {
 public:
  __device__ __forceinline__ explicit DeviceBlock(float* shared) {
    const int thread = threadIdx.x + (P::ranks > 1 ? cluster_rank() * P::block_threads : 0);
    lane_.t = thread % P::T;
    lane_.team = thread / P::T;
    memory_ = shared + lane_.team * P::pitch * 2;
    if constexpr (P::ranks > 1) cluster_sync();  // all blocks of the cluster are there
  }
  // No block ends while another may still read its memory.
  __device__ __forceinline__ ~DeviceBlock() {
    if constexpr (P::ranks > 1) cluster_sync();
  }

  __device__ __forceinline__ int64_t first() const { return blockIdx.x / P::ranks; }
  __device__ __forceinline__ int64_t count() const { return gridDim.x / P::ranks; }
  __device__ __forceinline__ int64_t team(const Lane<P>& lane) const { return first() * P::teams + lane.team; }
  template <class T>
  using View = DeviceView<T, P::ranks, P::pitch * 8 / static_cast<int>(sizeof(T)) / P::ranks>;
  __device__ __forceinline__ View<Complex> points(const Lane<P>&) { return {reinterpret_cast<Complex*>(memory_)}; }
  __device__ __forceinline__ View<float> floats(const Lane<P>&) { return {memory_}; }
  __device__ __forceinline__ View<Four> fours(const Lane<P>&) { return {reinterpret_cast<Four*>(memory_)}; }

  // A step's thread number is one that the compiler does not know to be that of the step before: else it keeps the
  // addresses of one step for the next and has too few registers for the row itself.
  template <class Step>
  __device__ __forceinline__ void each(Step step) {
    lane_.t = __shfl_xor_sync(0xffffffffu, lane_.t, 0);
    step(lane_);
  }
  // A row that lies in one warp needs no more than that warp.
  __device__ __forceinline__ void sync() {
    if constexpr (P::ranks > 1) {
      cluster_sync();
    } else if constexpr (P::one_warp) {
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

// Whether blocks of the present device run in clusters.
inline bool has_clusters() {
  int device = 0, found = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return false;
  return cudaDeviceGetAttribute(&found, cudaDevAttrClusterLaunch, device) == cudaSuccess && found != 0;
}

struct Device {
  cudaStream_t stream;

  template <class P>
  int64_t acdc_teams() const { return most_groups<P>(P::backward_blocks) * P::teams; }
  template <class P>
  int64_t fastfood_teams() const { return most_groups<P>(P::backward_blocks) * P::teams; }

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
  int probe(int64_t* shared_bytes, int64_t* longest_acdc) const;
  int upload(const void* host, int64_t bytes, void** device) const;
  int release(void* device) const;
  int copy(void* to, const void* from, int64_t bytes) const;
  int reduce(const float* sums, int64_t stride, int64_t teams, int64_t count, float* to) const;

  // Blocks, or clusters of them, that run at a time.
  template <class P>
  int64_t most_groups(int blocks_per_sm) const {
    const int64_t found = processors() * blocks_per_sm / P::ranks;
    return found < 1 ? 1 : found;
  }

  // As many as run at a time, each for several rows, so that tables come from the cache.
  template <class P>
  int64_t grid(int64_t rows, int blocks_per_sm) const {
    const int64_t wanted = (rows + P::teams - 1) / P::teams, most = most_groups<P>(blocks_per_sm);
    return wanted < most ? wanted : most;
  }

  template <class P, class Kernel, class... Arguments>
  int launch(Kernel kernel, int64_t groups, const Arguments&... arguments) const {
    if (P::ranks > 1 && !has_clusters()) return CK_CUDA_ERROR_UNSUPPORTED;
    if (P::shared_bytes > 48 * 1024) {
      const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, P::shared_bytes);
      if (error != cudaSuccess) return runtime_error(error);
    }
    cudaLaunchAttribute cluster = {};
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim = {static_cast<unsigned>(P::ranks), 1, 1};
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(static_cast<unsigned>(groups * P::ranks));
    config.blockDim = dim3(P::block_threads);
    config.dynamicSmemBytes = P::shared_bytes;
    config.stream = stream;
    config.attrs = &cluster;
    config.numAttrs = P::ranks > 1;
    const cudaError_t error = cudaLaunchKernelEx(&config, kernel, arguments...);
    const cudaError_t last = cudaGetLastError();  // and so that the caller's next question does not find this one
    return runtime_error(error != cudaSuccess ? error : last);
  }
};

}  // namespace ck

#define CK_FOR_ACDC_PLANS(instantiate) \
  instantiate(128) instantiate(256) instantiate(512) instantiate(1024) instantiate(2048) instantiate(4096) \
      instantiate(8192) instantiate(16384) instantiate(32768) instantiate(65536)
#define CK_FOR_FASTFOOD_PLANS(instantiate) \
  instantiate(6) instantiate(7) instantiate(8) instantiate(9) instantiate(10) instantiate(11) instantiate(12) \
      instantiate(13) instantiate(14)
