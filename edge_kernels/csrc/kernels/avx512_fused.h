// The first rows of activations, multiplied while a tile is unpacked: looking codes up and
// multiplying take different vector pipes, so that the one costs little beside the other. With
// VNNI. Part of avx512_kernels.h.
#pragma once

namespace flwr_edge {
namespace {

constexpr int kFusedRows = 4;  // as many sums as registers are left

// Codes of eight inputs of all 64 rows, and their values.
template <int kBits>
struct Decoder {
  __m512i table[kBits == 4 ? 2 : kBits];
  __m512i line[kBits == 4 ? kRowVectors : kBits];

  FLWR_INLINE Decoder(int factor, int zero) {
    if (kBits == 4) {
      table[0] = _mm512_set1_epi8(15);
      table[1] = _mm512_set1_epi8(char(zero));
      return;
    }
    FLWR_UNROLL
    for (int p = 0; p < kBits; ++p) table[p] = bit_table(factor << p);
    table[0] = _mm512_sub_epi8(table[0], _mm512_set1_epi8(char(zero)));
  }

  FLWR_INLINE void read(const uint8_t* tile, int j) {
    if (kBits == 4) {
      FLWR_UNROLL
      for (int r = 0; r < kRowVectors; ++r) line[r] = load(tile + (4 * j + r) * kLine);
      return;
    }
    FLWR_UNROLL
    for (int p = 0; p < kBits; ++p) line[p] = rows_in_dwords(load(tile + (8 * p + j) * kLine));
  }

  // Of inputs 8j + 4n and the three after it.
  FLWR_INLINE __m512i values(int r, int n) const {
    if (kBits == 4) {
      const __m512i codes = n ? _mm512_srli_epi16(line[r], 4) : line[r];
      return _mm512_sub_epi8(_mm512_and_si512(codes, table[0]), table[1]);
    }
    __m512i v = _mm512_permutexvar_epi32(_mm512_srli_epi32(line[0], 8 * r + 4 * n), table[0]);
    FLWR_UNROLL
    for (int p = 1; p < kBits; ++p) {
      v = _mm512_add_epi8(
          v, _mm512_permutexvar_epi32(_mm512_srli_epi32(line[p], 8 * r + 4 * n), table[p]));
    }
    return v;
  }
};

// Half h, or the whole, of tile t.
template <int kBits, int kGroup, bool kZeros>
FLWR_INLINE void fused_half(const Gemm& job, int64_t t, int h, const uint8_t* tile,
                            Decoder<kBits>& decoder, const uint8_t* scales, const uint8_t* zeros,
                            int8_t* values, int32_t* value_sums) {
  constexpr int kOctets = kGroup == 32 ? 4 : 8;
  const __m512i ones = _mm512_set1_epi8(1);
  Ints sum[kFusedRows][kRowVectors], total[kRowVectors];
  FLWR_UNROLL
  for (int r = 0; r < kRowVectors; ++r) {
    total[r] = Ints{};
    FLWR_UNROLL
    for (int i = 0; i < kFusedRows; ++i) sum[i][r] = Ints{};
  }
  const uint8_t* a = job.a + t * kTile + 32 * h;
  _Pragma("GCC unroll 1")
  for (int j = h * kOctets; j < (h + 1) * kOctets; ++j, a += 8) {
    decoder.read(tile, j);
    FLWR_UNROLL
    for (int n = 0; n < 2; ++n) {
      __m512i v[kRowVectors];
      FLWR_UNROLL
      for (int r = 0; r < kRowVectors; ++r) {
        v[r] = pin(decoder.values(r, n));
        _mm512_storeu_si512(values + ((2 * j + n) * kRowVectors + r) * kLine, v[r]);
        total[r] = Ints(_mm512_dpbusd_epi32(__m512i(total[r]), ones, v[r]));
      }
      FLWR_UNROLL
      for (int i = 0; i < kFusedRows; ++i) {
        const __m512i inputs = broadcast(a + i * job.a_stride + 4 * n);
        FLWR_UNROLL
        for (int r = 0; r < kRowVectors; ++r) {
          sum[i][r] = Ints(_mm512_dpbusd_epi32(__m512i(sum[i][r]), inputs, v[r]));
        }
      }
    }
  }
  const Scales<kGroup, kZeros> by(kGroup != 0 ? scales + 128 * h : nullptr,
                                  kZeros ? zeros + 128 * h : nullptr);
  FLWR_UNROLL
  for (int r = 0; r < kRowVectors; ++r) {
    _mm512_storeu_si512(value_sums + h * kTile + 16 * r, __m512i(total[r]));
    if (kGroup != 32) {
      _mm512_storeu_si512(value_sums + kTile + 16 * r, _mm512_setzero_si512());
    }
    FLWR_UNROLL
    for (int i = 0; i < kFusedRows; ++i) sum[i][r] -= total[r] * 128;
  }
  FLWR_UNROLL
  for (int i = 0; i < kFusedRows; ++i) add_row(job, i, t, h, sum[i], by);
}

template <int kBits, int kGroup, bool kZeros>
void fused_tile(const Gemm& job, int64_t t, int8_t* values, int32_t* value_sums) {
  const Weights& w = *job.weights;
  const Strides strides(w);
  const uint8_t* row = w.tiles + size_t(job.row_tile) * strides.offset(w.input_tiles);
  const uint8_t* tile = row + strides.offset(t);
  prefetch_tile(tile + strides.offset(kUnpackedAhead), strides);
  const uint8_t* scales = nullptr;
  const uint8_t* zeros = reinterpret_cast<const uint8_t*>(w.row_zeros) + job.row_tile * kTile * 4;
  if (kGroup != 0) {
    scales = row + strides.offset(strides.carries(t) ? t : t - 1) + strides.code;
    if (kZeros) zeros = scales + (kGroup == 32 ? 2 : 1) * kTile * 2;
  }
  Decoder<kBits> decoder(kBits == 1 && !kZeros ? 2 : 1, fixed_zero(w));
  FLWR_UNROLL
  for (int h = 0; h < (kGroup == 32 ? 2 : 1); ++h) {
    fused_half<kBits, kGroup, kZeros>(job, t, h, tile, decoder, scales, zeros, values, value_sums);
  }
}

template <int kBits, int kGroup>
void fused_values(const Gemm& job, int64_t t, int8_t* values, int32_t* value_sums) {
  if (job.weights->values == Values::kZeroPoints) {
    return fused_tile<kBits, kGroup, true>(job, t, values, value_sums);
  }
  fused_tile<kBits, kGroup, false>(job, t, values, value_sums);
}

template <int kBits>
void fused_group(const Gemm& job, int64_t t, int8_t* values, int32_t* value_sums) {
  if (job.weights->group == 0) return fused_values<kBits, 0>(job, t, values, value_sums);
  if (job.weights->group == 32) return fused_values<kBits, 32>(job, t, values, value_sums);
  fused_values<kBits, 64>(job, t, values, value_sums);  // and 128
}

void unpack_and_multiply(const Gemm& job, int64_t t, int8_t* values, int32_t* value_sums) {
  const Weights& w = *job.weights;
  if (w.inputs - t * kTile < kTile) {  // padded inputs are no codes
    unpack(w, job.row_tile, t, values, value_sums);
    Gemm one = job;
    one.begin = t;
    one.end = t + 1;
    one.values = values;
    one.value_sums = value_sums;
    one.m = kFusedRows;
    return gemm(one);
  }
  switch (w.bits) {
    case 1: return fused_group<1>(job, t, values, value_sums);
    case 2: return fused_group<2>(job, t, values, value_sums);
    case 3: return fused_group<3>(job, t, values, value_sums);
    default: return fused_group<4>(job, t, values, value_sums);
  }
}

}  // namespace
}  // namespace flwr_edge
