// The AVX-512 kernels: compiled once for F, BW, DQ, VL and once more with VBMI and VNNI.
// Everything has internal linkage and uses no inline function of a shared header, so that no
// other unit can end up with AVX-512 code.
#pragma once

#if defined(__GNUC__) && !defined(__clang__)
// GCC 12 warns about its own _mm512_undefined_*.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#else
#include <immintrin.h>
#endif

#include "isa.h"

// Arrays of vectors live in registers only if all loops over them are unrolled, and GCC unrolls
// them early enough only inside of another loop: so what works on vectors is inlined into one.
#define FLWR_UNROLL _Pragma("GCC unroll 16")
#define FLWR_INLINE inline __attribute__((always_inline))

namespace flwr_edge {
namespace {

constexpr int kRowVectors = 4;      // 64 rows as vectors of 16
constexpr int kSteps = kTile / 4;   // four inputs each
#ifdef __AVX512VNNI__
constexpr bool kVnni = true;
#else
constexpr bool kVnni = false;
#endif

// Sizes of tiles, as in Weights.
struct Strides {
  size_t code, scale;  // bytes of a tile's codes; of its scales and zero points
  bool paired;         // only tiles of even index carry scales

  explicit Strides(const Weights& w)
      : code(size_t(w.bits) * 8 * kLine),
        scale(w.group == 0 ? 0
                           : size_t(w.group == 32 ? 2 : 1) * kTile * 2 *
                                 (w.values == Values::kZeroPoints ? 2 : 1)),
        paired(w.group == 128) {}

  size_t offset(int64_t tile) const {
    return size_t(tile) * code + size_t(paired ? (tile + 1) / 2 : tile) * scale;
  }
  bool carries(int64_t tile) const { return !(paired && tile % 2); }
};

FLWR_INLINE __m512i load(const void* from) { return _mm512_loadu_si512(from); }

// Computes v here and once: GCC would load a line again for each use, where loads are scarce, and
// reorder sums until registers run out.
FLWR_INLINE __m512i pin(__m512i v) {
  asm("" : "+v"(v));
  return v;
}

// The same four bytes in each dword. Four, not halves of eight: those would go through a register
// and cost a vector pipe.
FLWR_INLINE __m512i broadcast(const void* four) {
  int32_t value;
  __builtin_memcpy(&value, four, 4);
  return _mm512_set1_epi32(value);
}

FLWR_INLINE __m512i load_lanes(const void* from) {
  return _mm512_broadcast_i32x4(_mm_loadu_si128(static_cast<const __m128i*>(from)));
}

FLWR_INLINE __m512 load_halves(const uint8_t* from) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
}

FLWR_INLINE void prefetch(const uint8_t* line) {
  _mm_prefetch(reinterpret_cast<const char*>(line), _MM_HINT_T0);
}

// What a symmetric or ternary code has to lose: value = code - zero (1 bit: 2 code - 1).
FLWR_INLINE int fixed_zero(const Weights& w) {
  return w.values == Values::kZeroPoints ? 0 : w.values == Values::kTernary ? 1 : 1 << (w.bits - 1);
}

}  // namespace
}  // namespace flwr_edge

#include "avx512_activation.h"
#include "avx512_gemm.h"
#include "avx512_gemv.h"
#ifdef __AVX512VNNI__
#include "avx512_fused.h"
#endif
