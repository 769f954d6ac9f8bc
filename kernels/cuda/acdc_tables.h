// The twiddles of a plan, computed on the host in double: one array of complex floats a size, shared by all its layers.
#pragma once

#include <cmath>

#include "acdc_plan.h"
#include "dft.h"

namespace ck {

template <class P>
struct AcdcTables {
  using First = TwiddleDigits<P::R>;
  using Second = TwiddleDigits<P::R2A>;
  using Third = TwiddleDigits<P::R2B>;
  static constexpr int second_count = P::R2A > 1 ? Second::count : 0, third_count = P::R2B > 1 ? Third::count : 0;
  // After pass 1: exp(-2 pi i e j / M) for entries e of First, j < S. After pass 2: exp(-2 pi i e p / S), p < S / R2A, and
  // after its second step exp(-2 pi i e n3 / (R2B R)), n3 < R.
  static constexpr int first = 0;
  static constexpr int second = first + First::count * P::S;
  static constexpr int second_step = P::S / P::R2A;
  static constexpr int third = second + second_count * second_step;
  // exp(-i pi q / 2N) and its fifth power for q < T, then for the upper half of thread 0 (see acdc_transform.h).
  static constexpr int omega = third + third_count * P::R;
  static constexpr int omega5 = omega + P::T + 1;
  static constexpr int count = omega5 + P::T + 1;

  static void fill(Complex* to) {
    for (int e = 0; e < First::count; ++e)
      for (int j = 0; j < P::S; ++j) to[first + e * P::S + j] = turn(-double(First::exponent(e)) * j / P::M);
    for (int e = 0; e < second_count; ++e)
      for (int p = 0; p < second_step; ++p)
        to[second + e * second_step + p] = turn(-double(Second::exponent(e)) * p / P::S);
    for (int e = 0; e < third_count; ++e)
      for (int n3 = 0; n3 < P::R; ++n3)
        to[third + e * P::R + n3] = turn(-double(Third::exponent(e)) * n3 / second_step);
    for (int t = 0; t <= P::T; ++t) {
      const double q = t < P::T ? t : P::upper_of_first;
      to[omega + t] = turn(-q / (4.0 * P::N));
      to[omega5 + t] = turn(-5 * q / (4.0 * P::N));
    }
  }

 private:
  static Complex turn(double turns) {
    const double angle = 2 * 3.14159265358979323846 * turns;
    return {static_cast<float>(std::cos(angle)), static_cast<float>(std::sin(angle))};
  }
};

// Calls body(AcdcPlan<n>{}) for the plan of length n; false where there is none.
template <class Body>
bool with_acdc_plan(int64_t n, Body body) {
  switch (n) {
    case 128: body(AcdcPlan<128>{}); return true;
    case 256: body(AcdcPlan<256>{}); return true;
    case 512: body(AcdcPlan<512>{}); return true;
    case 1024: body(AcdcPlan<1024>{}); return true;
    case 2048: body(AcdcPlan<2048>{}); return true;
    case 4096: body(AcdcPlan<4096>{}); return true;
    case 8192: body(AcdcPlan<8192>{}); return true;
    case 16384: body(AcdcPlan<16384>{}); return true;
    case 32768: body(AcdcPlan<32768>{}); return true;
    case 65536: body(AcdcPlan<65536>{}); return true;
    default: return false;
  }
}

}  // namespace ck
