// The first rows of activations, multiplied while a tile is unpacked: looking codes up and
// multiplying take different vector pipes, so that the one costs little beside the other. With
// VNNI. Part of avx512_kernels.h.
#pragma once

namespace flwr_edge {
namespace {

constexpr int kFusedRows = 4;  // as many sums as registers are left

// Half h, or the whole, of tile t.
template <int kBits, int kGroup, bool kZeros>
FLWR_INLINE void fused_half(const Gemm& job, const Strides& strides, int64_t t, int h,
                            const uint8_t* tile, Decoder<kBits>& decoder, int8_t* values,
                            int32_t* value_sums) {
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
  const Scales<kGroup, kZeros> by(job, strides, t, h);
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
  const uint8_t* tile =
      w.tiles + size_t(job.row_tile) * strides.offset(w.input_tiles) + strides.offset(t);
  prefetch_tile(tile + strides.offset(kUnpackedAhead), strides);
  Decoder<kBits> decoder(w);
  FLWR_UNROLL
  for (int h = 0; h < (kGroup == 32 ? 2 : 1); ++h) {
    fused_half<kBits, kGroup, kZeros>(job, strides, t, h, tile, decoder, values, value_sums);
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
