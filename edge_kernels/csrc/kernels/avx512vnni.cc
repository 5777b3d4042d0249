// AVX-512: F, BW, DQ, VL, VBMI, VNNI.
#include "avx512_kernels.h"

namespace flwr_edge {

const Isa* avx512vnni_isa() {
  static const Isa isa{"avx512vnni", quantize, nullptr, fast_tables, gemv, unpack, gemm};
  return &isa;
}

}  // namespace flwr_edge
