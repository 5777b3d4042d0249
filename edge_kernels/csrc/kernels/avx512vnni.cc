// AVX-512: F, BW, DQ, VL, VBMI, VNNI.
#include "avx512_kernels.h"

namespace flwr_edge {

const Isa* avx512vnni_isa() {
  // Measured on Zen 4, group 64: 1 bit wins at 128 rows too; at 1024^2 and 4096^2 both are equal at
  // 9 and 9, 6 and 6, 16 and 17 rows. Others multiply twice as much a cycle.
  static const Isa isa{"avx512vnni", quantize,  nullptr, fast_tables, gemv, unpack, gemm,
                       kGemvRows,    {0, kAllRows, 8, 5, 16},         build_wide, kWideTile};
  return &isa;
}

}  // namespace flwr_edge
