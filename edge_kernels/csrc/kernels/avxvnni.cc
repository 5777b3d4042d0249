// AVX2, FMA, F16C and AVX-VNNI, which has vpdpbusd where there is no AVX-512: Alder Lake and later,
// N100, Zen 5.
#define FLWR_EDGE_VNNI
#include "avx2_kernels.h"

namespace flwr_edge {

const Isa* avxvnni_isa() {
  // Measured on Zen 4 in AVX-512's encoding, group 64, 4096^2: 1 bit wins at 128 rows too; both are
  // equal at 11, 6 and 12 rows.
  static const Isa isa{"avxvnni", quantize, tables, fast_tables, gemv, unpack, gemm,
                       {0, kAllRows, 10, 6, 10}, {0, kAllRows, 10, 6, 10}};
  return &isa;
}

}  // namespace flwr_edge
