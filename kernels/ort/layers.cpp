#include "layers.h"

namespace ck::ort {

const std::vector<Kind>& kinds() {
  static const std::vector<Kind> all = {
      {"ACDC", 5, 3, {true, true, true, false, false},
       {"size", "depth", "relu", "bias", "permuted", "out_features"}, {"basis"}, make_acdc, true},
      {"AFDF", 3, 3, {true, true, true}, {"size", "depth", "out_features"}, {}, make_afdf},
      {"Circulant", 3, 3, {true, true, false}, {"size", "terms", "out_features"}, {}, make_circulant},
      {"Fastfood", 5, 5, {true, true, false, true, true}, {"d", "blocks", "width"}, {"features"}, make_fastfood, true},
      {"Monarch", 4, 3, {true, true, true, true}, {"blocks", "rank", "out_features"}, {}, make_monarch},
      {"PHD", 4, 4, {true, false, false, true}, {"d"}, {}, make_phd},
      {"Sparse", 4, 4, {true, false, false, true}, {}, {}, make_sparse},
      {"SparseVectors", 4, 4, {true, false, false, true}, {"block", "out_features"}, {}, make_sparse_vectors},
      {"SparseShared", 5, 5, {true, false, false, true, false}, {}, {}, make_shared_sparse},
      {"Toeplitz", 3, 3, {true, true, true}, {"size", "rank", "out_features"}, {}, make_toeplitz},
  };
  return all;
}

}  // namespace ck::ort
