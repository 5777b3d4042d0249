// AVX-512: F, BW, DQ, VL.
#include "avx512_kernels.h"

namespace flwr_edge {

const Isa* avx512_isa() {
  static const Isa isa{"avx512", quantize, tables, fast_tables, gemv, unpack, gemm};
  return &isa;
}

}  // namespace flwr_edge
