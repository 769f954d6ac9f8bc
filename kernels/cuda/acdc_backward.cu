#include "device.cuh"

namespace ck {

template <class P>
__global__ void __launch_bounds__(P::block_threads, P::backward_blocks)
    acdc_backward_kernel(const AcdcTask task, const AcdcBackward back) {
  if constexpr (P::ranks > 1 && !CK_HAS_CLUSTERS) return;  // never started there
  extern __shared__ float4 shared[];
  DeviceBlock<P, AcdcLane> block(reinterpret_cast<float*>(shared));
  acdc_backward<P>(block, task, back);
}

template <class P>
int Device::acdc_backward(const AcdcTask& task, const AcdcBackward& back) const {
  return launch<P>(acdc_backward_kernel<P>, back.teams / P::teams, task, back);
}

#define CK_INSTANTIATE(n) template int Device::acdc_backward<AcdcPlan<n>>(const AcdcTask&, const AcdcBackward&) const;
CK_FOR_ACDC_PLANS(CK_INSTANTIATE)

}  // namespace ck
