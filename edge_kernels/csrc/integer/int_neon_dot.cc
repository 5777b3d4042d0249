#include "int_neon.h"

namespace flwr_edge::integer {

const Kernels* neon_dot() {
  static const Kernels kernels{product<true, 4>, scalar()->transpose};
  return &kernels;
}

}  // namespace flwr_edge::integer
