#include "device.cuh"

namespace ck {

template <class P>
__global__ void __launch_bounds__(P::threads, P::fwht_blocks)
    fwht_kernel(const int64_t rows, const Rows x, const Rows y) {
  extern __shared__ float4 shared[];
  DeviceBlock<P, HadamardLane> block(reinterpret_cast<float*>(shared));
  fwht<P>(block, rows, x, y);
}

template <class P>
int Device::fwht(int64_t rows, const Rows& x, const Rows& y) const {
  return launch<P>(fwht_kernel<P>, grid<P>(rows, P::fwht_blocks), rows, x, y);
}

#define CK_INSTANTIATE(p) template int Device::fwht<HadamardPlan<p>>(int64_t, const Rows&, const Rows&) const;
CK_FOR_FASTFOOD_PLANS(CK_INSTANTIATE)
CK_INSTANTIATE(15)

}  // namespace ck
