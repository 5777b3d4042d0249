// Loads, and sums that stay in registers. Part of avx2_kernels.h.
#pragma once

#include <immintrin.h>

#include <cstring>

#ifdef FLWR_EDGE_VNNI
#include "avxvnni.h"
#endif
#include "isa.h"

namespace flwr_edge {
namespace {

#define INLINE inline __attribute__((always_inline))

// With AVX-VNNI four products of bytes add up to 32 bits at once, else two to 16.
#ifdef FLWR_EDGE_VNNI
constexpr bool kVnni = true;
#else
constexpr bool kVnni = false;
#endif

// Bytes from the line that is looked up to the line that is prefetched.
constexpr size_t kAhead = 2048;

INLINE __m256i load(const void* at) { return _mm256_loadu_si256(static_cast<const __m256i*>(at)); }
INLINE void store(void* at, __m256i v) { _mm256_storeu_si256(static_cast<__m256i*>(at), v); }

INLINE void prefetch(const uint8_t* line, size_t ahead = kAhead) {
  _mm_prefetch(reinterpret_cast<const char*>(line) + ahead, _MM_HINT_T0);
}

// The same 16 entries in both lanes.
INLINE __m256i load_table(const void* at) {
  return _mm256_broadcastsi128_si256(_mm_loadu_si128(static_cast<const __m128i*>(at)));
}

INLINE __m256i four_bytes(const void* at) {
  int32_t value;
  std::memcpy(&value, at, 4);
  return _mm256_set1_epi32(value);
}

// A value that the compiler computes here, between its neighbours that are pinned too. Left alone
// it regroups long sums as trees and loads ahead, and so needs more registers than there are.
INLINE __m256i pinned(__m256i v) {
  __asm__ volatile("" : "+x"(v));
  return v;
}

INLINE __m256i add_bytes(__m256i a, __m256i b) { return pinned(_mm256_add_epi8(a, b)); }
INLINE __m256i add_words(__m256i a, __m256i b) { return pinned(_mm256_add_epi16(a, b)); }

INLINE __m256 load_halves(const uint8_t* at) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at)));
}

template <int group>
INLINE __m256 load_zeros(const uint8_t* zeros, int row) {
  if (group == 0) return _mm256_loadu_ps(reinterpret_cast<const float*>(zeros) + row);
  return load_halves(zeros + 2 * row);
}

}  // namespace
}  // namespace flwr_edge
