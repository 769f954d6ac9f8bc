#include "device.cuh"

namespace ck {

template <class P>
__global__ void __launch_bounds__(P::threads, P::fastfood_blocks)
    fastfood_forward_kernel(const FastfoodTask task, const Rows x, const Rows y) {
  extern __shared__ float4 shared[];
  DeviceBlock<P, HadamardLane> block(reinterpret_cast<float*>(shared));
  fastfood_forward<P>(block, task, x, y);
}

template <class P>
__global__ void __launch_bounds__(P::threads, P::backward_blocks)
    fastfood_backward_kernel(const FastfoodTask task, const FastfoodBackward back) {
  extern __shared__ float4 shared[];
  DeviceBlock<P, HadamardLane> block(reinterpret_cast<float*>(shared));
  fastfood_backward<P>(block, task, back);
}

template <class P>
int Device::fastfood_forward(const FastfoodTask& task, const Rows& x, const Rows& y) const {
  return launch<P>(fastfood_forward_kernel<P>, grid<P>(task.rows * task.blocks, P::fastfood_blocks), task, x, y);
}

template <class P>
int Device::fastfood_backward(const FastfoodTask& task, const FastfoodBackward& back) const {
  return launch<P>(fastfood_backward_kernel<P>, back.teams / P::teams, task, back);
}

#define CK_INSTANTIATE(p)                                                                                      \
  template int Device::fastfood_forward<HadamardPlan<p>>(const FastfoodTask&, const Rows&, const Rows&) const; \
  template int Device::fastfood_backward<HadamardPlan<p>>(const FastfoodTask&, const FastfoodBackward&) const;
CK_FOR_FASTFOOD_PLANS(CK_INSTANTIATE)

}  // namespace ck
