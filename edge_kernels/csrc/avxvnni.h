// AVX-VNNI's one instruction, for units that are compiled for AVX2 and run where the CPU has it.
#pragma once

#include <immintrin.h>

// FLWR_EDGE_EVEX, for tests alone: AVX-512's encoding, so that the same code runs on CPUs that have
// the instruction in that form only. Nothing else differs.
#ifdef FLWR_EDGE_EVEX
#define FLWR_EDGE_ENCODING "%{evex%}"
#else
#define FLWR_EDGE_ENCODING "%{vex%}"
#endif

namespace flwr_edge {
namespace {

// Adds to each dword the products of its four bytes: x unsigned, w signed.
inline __attribute__((always_inline)) __m256i add_products(__m256i sum, __m256i x, __m256i w) {
  asm(FLWR_EDGE_ENCODING " vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(x), "xm"(w));
  return sum;
}

}  // namespace
}  // namespace flwr_edge
