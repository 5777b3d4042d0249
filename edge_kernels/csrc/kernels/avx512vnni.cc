// AVX-512: F, BW, DQ, VL, VBMI, VNNI.
#include "avx512_kernels.h"

namespace flwr_edge {

const Isa* avx512vnni_isa() {
  // Measured on Zen 4, group 64: 1 bit wins at 128 rows too; at 1024^2 and 4096^2 both are equal at
  // 7 and 7, 4 and 4, 13 and 14 rows. Others multiply twice as much a cycle.
  static const Isa isa{"avx512vnni", quantize,  nullptr, fast_tables, gemv, unpack, gemm,
                       kGemvRows,    {0, kAllRows, 6, 4, 14},         build_wide, kWideTile,
                       unpack_and_multiply,           kFusedRows};
  return &isa;
}

}  // namespace flwr_edge
