// AVX-512: F, BW, DQ, VL, VBMI, VNNI.
#include "avx512_kernels.h"

namespace flwr_edge {

const Isa* avx512vnni_isa() {
  // Measured on Zen 4, group 64: at 1024^2 and 4096^2 both are equal at 16+ and 16, 8 and 5, 3 and 3,
  // 6 and 6 rows.
  static const Isa isa{"avx512vnni", quantize, nullptr, fast_tables, gemv, unpack, gemm,
                       {0, 12, 5, 3, 6}};
  return &isa;
}

}  // namespace flwr_edge
