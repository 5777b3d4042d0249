// AVX2, FMA and F16C.
#include "avx2_kernels.h"

namespace flwr_edge {

const Isa* avx2_isa() {
  // Measured on Zen 3, group 64, 4096^2: 1 bit wins at 128 rows too, 2 bits lose from 24 on, 3 and 4
  // bits are equal at 16.
  static const Isa isa{"avx2", quantize, tables, fast_tables, gemv, unpack, gemm,
                       {0, kAllRows, 20, 8, 8}, {0, kAllRows, 20, 8, 8}};
  return &isa;
}

}  // namespace flwr_edge
