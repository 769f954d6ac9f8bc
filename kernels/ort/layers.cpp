#include "layers.h"

namespace ck::ort {

const std::vector<Kind>& kinds() {
  static const std::vector<Kind> all = {
      {"ACDC", 5, 3, {true, true, true, false, false},
       {"size", "depth", "relu", "bias", "permuted", "out_features"}, {"basis"}, make_acdc},
  };
  return all;
}

}  // namespace ck::ort
