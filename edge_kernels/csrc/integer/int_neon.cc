#include "int_neon.h"

namespace flwr_edge::integer {

const Kernels* neon() {
  static const Kernels kernels{product<false, 2>, scalar()->transpose};
  return &kernels;
}

}  // namespace flwr_edge::integer
