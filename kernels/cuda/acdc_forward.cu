#include "device.cuh"

namespace ck {

template <class P>
__global__ void __launch_bounds__(P::block_threads, P::forward_blocks)
    acdc_forward_kernel(const AcdcTask task, const Rows x, const Rows y) {
  if constexpr (P::ranks > 1 && !CK_HAS_CLUSTERS) return;  // never started there
  extern __shared__ float4 shared[];
  DeviceBlock<P, AcdcLane> block(reinterpret_cast<float*>(shared));
  acdc_forward<P>(block, task, x, y);
}

template <class P>
int Device::acdc_forward(const AcdcTask& task, const Rows& x, const Rows& y) const {
  return launch<P>(acdc_forward_kernel<P>, grid<P>(task.rows, P::forward_blocks), task, x, y);
}

#define CK_INSTANTIATE(n) template int Device::acdc_forward<AcdcPlan<n>>(const AcdcTask&, const Rows&, const Rows&) const;
CK_FOR_ACDC_PLANS(CK_INSTANTIATE)

}  // namespace ck
