#include "device.cuh"

namespace ck {

constexpr int bend_threads = 256, bend_blocks = 8;  // of a multiprocessor

__global__ void __launch_bounds__(bend_threads) bend_kernel(const Bend task, const int dtype) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * bend_threads;
  for (int64_t at = static_cast<int64_t>(blockIdx.x) * bend_threads + threadIdx.x; at < task.rows * task.width; at += step)
    bend(task, dtype, at);
}

int Device::bend(const Bend& task, int dtype) const {
  const int64_t wanted = (task.rows * task.width + bend_threads - 1) / bend_threads, most = processors() * bend_blocks;
  bend_kernel<<<static_cast<unsigned>(wanted < most ? wanted : most), bend_threads, 0, stream>>>(task, dtype);
  return runtime_error(cudaGetLastError());
}

}  // namespace ck
