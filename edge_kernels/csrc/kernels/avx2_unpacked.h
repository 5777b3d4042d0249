// Unpacking, and many rows of activations times unpacked tiles. Part of avx2_kernels.h.
#pragma once

#include "avx2_common.h"

namespace flwr_edge {
namespace {

// Adds a step's values of eight rows to their sums (int16, of pairs) and writes them.
INLINE __m256i put_values(__m256i values, int32_t kept, __m256i sums, int8_t* to) {
  values = _mm256_and_si256(values, _mm256_set1_epi32(kept));
  store(to, values);
  return _mm256_add_epi16(sums, _mm256_maddubs_epi16(_mm256_set1_epi8(1), values));
}

// Codes of a step: the bits that `select` names in the rows' bytes, a plane each.
INLINE __m256i codes_of(const __m256i* bytes, int planes, __m256i select) {
  __m256i code = _mm256_setzero_si256();
  for (int p = planes - 1; p >= 0; --p) {
    const __m256i set = _mm256_cmpeq_epi8(_mm256_and_si256(bytes[p], select), select);
    code = _mm256_sub_epi8(_mm256_add_epi8(code, code), set);
  }
  return code;
}

// Eight rows, 8 (2 block half bits): the bytes of line j of each plane, four times each.
template <int bits>
INLINE void spread_bytes(const uint8_t* tile, int j, int block, __m256i bytes[4]) {
  const int h = block & 1, upper = block >> 1 & 1, odd = block >> 2;
  const __m256i order = _mm256_add_epi8(
      _mm256_broadcastsi128_si256(_mm_setr_epi32(0, 0x02020202, 0x04040404, 0x06060606)),
      _mm256_set1_epi8(char(8 * upper + odd)));
  for (int p = 0; p < bits; ++p) {
    bytes[p] = _mm256_shuffle_epi8(load(tile + (8 * p + j) * kLine + 32 * h), order);
  }
}

struct TwoSteps {
  __m256i first, second;
};

// The codes of eight rows, block by block, of the inputs 8 j .. 8 j + 7.
template <int bits>
INLINE TwoSteps step_codes(const uint8_t* tile, int j, int block) {
  if (bits == 4) {
    const __m256i nibble = _mm256_set1_epi8(15);
    const __m256i codes = load(tile + 4 * j * kLine + 32 * block);
    return {_mm256_and_si256(codes, nibble),
            _mm256_and_si256(_mm256_srli_epi16(codes, 4), nibble)};
  }
  __m256i bytes[4];
  spread_bytes<bits>(tile, j, block, bytes);
  const __m256i select = _mm256_set1_epi32(0x08040201);
  return {codes_of(bytes, bits, select), codes_of(bytes, bits, _mm256_slli_epi16(select, 4))};
}

INLINE __m256i pair_sums(__m256i v) { return _mm256_madd_epi16(v, _mm256_set1_epi16(1)); }

struct Decode {
  int zero;
  bool doubled, two_scales;
};

// Unpacks half the inputs of eight rows; returns the sums of their values, int16, of pairs.
template <int bits>
INLINE __m256i unpack_half(const uint8_t* tile, int block, int half, const int32_t kept[16],
                           Decode decode, int8_t* values) {
  const __m256i zero = _mm256_set1_epi8(char(decode.zero));
  __m256i sums = _mm256_setzero_si256();
#pragma GCC unroll 4
  for (int j = 4 * half; j < 4 * half + 4; ++j) {
    TwoSteps codes = step_codes<bits>(tile, j, block);
    if (bits == 1 && decode.doubled) {
      codes.first = _mm256_add_epi8(codes.first, codes.first);
      codes.second = _mm256_add_epi8(codes.second, codes.second);
    }
    int8_t* to = values + (2 * j * kTile + 8 * block) * 4;
    sums = put_values(_mm256_sub_epi8(codes.first, zero), kept[2 * j], sums, to);
    sums = put_values(_mm256_sub_epi8(codes.second, zero), kept[2 * j + 1], sums, to + 4 * kTile);
  }
  return sums;
}

template <int bits>
INLINE void unpack_block(const uint8_t* tile, int block, const int32_t kept[16], Decode decode,
                         int8_t* values, int32_t* value_sums) {
  __m256i first = unpack_half<bits>(tile, block, 0, kept, decode, values);
  __m256i second = unpack_half<bits>(tile, block, 1, kept, decode, values);
  if (!decode.two_scales) {
    first = _mm256_add_epi16(first, second);
    second = _mm256_setzero_si256();
  }
  store(value_sums + 8 * block, pair_sums(first));
  store(value_sums + kTile + 8 * block, pair_sums(second));
}

template <int bits>
void unpack_tile(const uint8_t* tile, const int32_t kept[16], Decode decode, int8_t* values,
                 int32_t* value_sums) {
  for (int block = 0; block < 8; ++block) {
    unpack_block<bits>(tile, block, kept, decode, values, value_sums);
  }
}

void unpack(const Weights& w, int64_t row_tile, int64_t t, int8_t* values, int32_t* value_sums) {
  const uint8_t* tile = w.row_of_tiles(row_tile) + w.tile_offset(t);
  const size_t ahead = w.tile_offset(kUnpackedAhead);
  for (size_t at = 0; at < w.tile_bytes(0); at += kLine) prefetch(tile + at, ahead);
  int32_t kept[16] = {};  // a byte of ones for each input that is no padding
  const int64_t left = w.inputs - t * kTile;
  std::memset(kept, 0xff, size_t(left < kTile ? left : kTile));
  Decode decode{w.values == Values::kTernary ? 1 : 1 << (w.bits - 1), w.bits == 1, w.group == 32};
  if (w.has_zeros()) decode.zero = decode.doubled = 0;
  switch (w.bits) {
    case 1: return unpack_tile<1>(tile, kept, decode, values, value_sums);
    case 2: return unpack_tile<2>(tile, kept, decode, values, value_sums);
    case 3: return unpack_tile<3>(tile, kept, decode, values, value_sums);
    default: return unpack_tile<4>(tile, kept, decode, values, value_sums);
  }
}

// Steps whose products of pairs fit int16: 255 * 2 * |value| each.
int steps_of(const Weights& w) {
  if (w.values == Values::kTernary) return 16;
  const int largest = w.has_zeros() ? (1 << w.bits) - 1 : 1 << (w.bits - 1);
  return largest <= 4 ? 16 : largest <= 8 ? 8 : 4;
}

#ifdef FLWR_EDGE_VNNI
// Adds the products of `run` steps to dots.
template <int count, int run>
INLINE void add_steps(const int8_t* values, const uint8_t* const rows[count], int at,
                      __m256i dots[count][2]) {
#pragma GCC unroll 16
  for (int s = 0; s < run; ++s) {
    const __m256i v0 = load(values + s * 4 * kTile), v1 = load(values + s * 4 * kTile + 32);
#pragma GCC unroll 4
    for (int i = 0; i < count; ++i) {
      const __m256i x = pinned(four_bytes(rows[i] + 4 * (at + s)));
      dots[i][0] = add_products(dots[i][0], x, v0);
      dots[i][1] = add_products(dots[i][1], x, v1);
    }
  }
}
#else
// Adds the products of `run` steps to dots.
template <int count, int run>
INLINE void add_steps(const int8_t* values, const uint8_t* const rows[count], int at,
                      __m256i dots[count][2]) {
  const __m256i ones = _mm256_set1_epi16(1);
  __m256i pairs[count][2];
  for (int i = 0; i < count; ++i) pairs[i][0] = pairs[i][1] = _mm256_setzero_si256();
#pragma GCC unroll 16
  for (int s = 0; s < run; ++s) {
    const __m256i v0 = load(values + s * 4 * kTile), v1 = load(values + s * 4 * kTile + 32);
#pragma GCC unroll 4
    for (int i = 0; i < count; ++i) {
      const __m256i x = pinned(four_bytes(rows[i] + 4 * (at + s)));
      pairs[i][0] = add_words(pairs[i][0], _mm256_maddubs_epi16(x, v0));
      pairs[i][1] = add_words(pairs[i][1], _mm256_maddubs_epi16(x, v1));
    }
  }
  for (int i = 0; i < count; ++i) {
    for (int k = 0; k < 2; ++k) {
      dots[i][k] = _mm256_add_epi32(dots[i][k], _mm256_madd_epi16(pairs[i][k], ones));
    }
  }
}
#endif

// Dot products of `count` rows of activations, less 128, with 16 rows of weights over `steps` steps.
template <int count, int run>
INLINE void dot_block(const int8_t* values, const int32_t* value_sums, const uint8_t* a,
                      int64_t a_stride, int steps, __m256i dots[count][2]) {
  const uint8_t* rows[count];
  for (int i = 0; i < count; ++i) {
    rows[i] = a + i * a_stride;
    // Or the compiler keeps the address of each step of each row, on the stack.
    __asm__ volatile("" : "+r"(rows[i]));
  }
  for (int k = 0; k < 2; ++k) {
    const __m256i start = _mm256_slli_epi32(load(value_sums + 8 * k), 7);
    for (int i = 0; i < count; ++i) dots[i][k] = _mm256_sub_epi32(_mm256_setzero_si256(), start);
  }
  for (int at = 0; at < steps; at += run, values += run * 4 * kTile) {
    add_steps<count, run>(values, rows, at, dots);
  }
}

// Where the scales and zero points of a tile's segment stand, and its place among the steps.
struct GemmSegment {
  const uint8_t* scales;  // fp16 [64], null for group 0
  const uint8_t* zeros;   // fp16 [64], float [64] for group 0; null without zero points
  int64_t t;
  int half;
  bool whole_tile;
};

// What all rows of weights share, a row of activations each.
template <int count>
struct RowScales {
  float sa[count], sums[count];
};

template <int count>
INLINE RowScales<count> row_scales(const Gemm& job, const GemmSegment& s, int64_t i) {
  RowScales<count> r{};
  for (int n = 0; n < count; ++n) {
    r.sa[n] = job.scale[(i + n) * job.scale_stride + s.t * job.scale_step];
    if (!s.zeros) continue;
    const int32_t* halves = job.sums + ((i + n) * job.weights->input_tiles + s.t) * 2;
    r.sums[n] = float(s.whole_tile ? halves[0] + halves[1] : halves[s.half]);
  }
  return r;
}

// Adds dot products with eight rows of weights to acc [count][64].
template <int count>
INLINE void scale_block(const GemmSegment& s, const RowScales<count>& r, int row,
                        const __m256i dots[count][2], int k, float* acc) {
  __m256 u[count];
  for (int n = 0; n < count; ++n) u[n] = _mm256_cvtepi32_ps(dots[n][k]);
  if (s.zeros) {
    const __m256 zeros = s.scales ? load_zeros<64>(s.zeros, row) : load_zeros<0>(s.zeros, row);
    for (int n = 0; n < count; ++n) {
      u[n] = _mm256_fnmadd_ps(zeros, _mm256_set1_ps(r.sums[n]), u[n]);
    }
  }
  const __m256 scales = s.scales ? load_halves(s.scales + 2 * row) : _mm256_setzero_ps();
  for (int n = 0; n < count; ++n) {
    const __m256 sa = _mm256_set1_ps(r.sa[n]), old = _mm256_loadu_ps(acc + n * kTile + row);
    const __m256 sum = s.scales ? _mm256_fmadd_ps(_mm256_mul_ps(u[n], sa), scales, old)
                                : _mm256_fmadd_ps(u[n], sa, old);
    _mm256_storeu_ps(acc + n * kTile + row, sum);
  }
}

// The segment by value: as a reference it would be read again after each store to acc.
template <int count, int run>
INLINE void gemm_rows(const Gemm& job, const GemmSegment s, int64_t i) {
  const int64_t tile = s.t - job.begin;
  const int8_t* values = job.values + tile * kTile * kTile + s.half * 8 * 4 * kTile;
  const int32_t* value_sums = job.value_sums + (tile * 2 + s.half) * kTile;
  const uint8_t* a = job.a + i * job.a_stride + s.t * kTile + s.half * 32;
  const RowScales<count> r = row_scales<count>(job, s, i);
  const int steps = s.whole_tile ? 16 : 8;
  const int64_t a_stride = job.a_stride;
  float* acc = job.acc + i * kTile;
  for (int row = 0; row < kTile; row += 16) {
    __m256i dots[count][2];
    dot_block<count, run>(values + 4 * row, value_sums + row, a, a_stride, steps, dots);
    for (int k = 0; k < 2; ++k) scale_block<count>(s, r, row + 8 * k, dots, k, acc);
  }
}

template <int run>
void gemm_segment(const Gemm& job, const GemmSegment& s) {
  int64_t i = 0;
  for (; i + 4 <= job.m; i += 4) gemm_rows<4, run>(job, s, i);
  if (job.m - i == 3) return gemm_rows<3, run>(job, s, i);
  if (job.m - i == 2) return gemm_rows<2, run>(job, s, i);
  if (job.m - i == 1) gemm_rows<1, run>(job, s, i);
}

GemmSegment segment_of(const Gemm& job, int64_t t, int half) {
  const Weights& w = *job.weights;
  GemmSegment s{nullptr, nullptr, t, half, w.group != 32};
  if (w.group == 0) {
    if (w.has_zeros()) s.zeros = reinterpret_cast<const uint8_t*>(w.row_zeros +
                                                                  job.row_tile * kTile);
    return s;
  }
  const int64_t carrier = w.group == 128 ? t & ~int64_t(1) : t;
  s.scales = w.row_of_tiles(job.row_tile) + w.tile_offset(carrier) + w.code_bytes() +
             half * 2 * kTile;
  if (w.has_zeros()) s.zeros = s.scales + w.halves() * 2 * kTile;
  return s;
}

void gemm(const Gemm& job) {
  const Weights& w = *job.weights;
  const int steps = kVnni ? 8 : steps_of(w);
  for (int64_t t = job.begin; t < job.end; ++t) {
    for (int half = 0; half < w.halves(); ++half) {
      const GemmSegment s = segment_of(job, t, half);
      if (steps == 16 && s.whole_tile) {
        gemm_segment<16>(job, s);
      } else if (steps >= 8) {
        gemm_segment<8>(job, s);
      } else {
        gemm_segment<4>(job, s);
      }
    }
  }
}

}  // namespace
}  // namespace flwr_edge
